"""Makes the Grafana dashboard: prints what ``make monitoring`` puts into monitoring/dashboard.json.

For Grafana 10.4 or later.
"""

from __future__ import annotations

import json

from grafana_foundation_sdk.builders import dashboard, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units
from panels import (
    DATASOURCE,
    About,
    Query,
    bars,
    buckets,
    coloured,
    counts,
    dashed,
    fractions,
    gauge,
    graph,
    listing,
    ranked,
    stacked,
    states,
    within,
)
from promql import (
    EXPECTED,
    INTERVAL,
    PORT,
    SCOPE,
    all_opened,
    by_version,
    collections,
    deviation,
    difference,
    limit_in_use,
    mesh,
    open_files_in_use,
    opened_in_range,
    ours,
    process,
    quantile,
    raw,
    recorded,
    recorded_share,
    share,
    uptime,
)

SCHEMA = 39  # of Grafana 10.4: later ones migrate it when they load it
Panels = list[Builder[models.Panel]]

REQUESTS = "echod:requests:rate3m"
OPENED = "echod:connections_opened:rate3m"
RECEIVED = "echod:received_bytes:rate3m"
SENT = "echod:sent_bytes:rate3m"
ACTIVE = "echod:connections_active:sum"

MESH_OPENED = "istio_tcp_connections_opened_total"
MESH_RECEIVED = "istio_tcp_received_bytes_total"
MESH_SENT = "istio_tcp_sent_bytes_total"

BOTH_COUNT = (
    (
        "Opened",
        "Connections opened, unused ones too,",
        units.CountsPerSecond,
        all_opened(),
        MESH_OPENED,
    ),
    ("Received", "Bytes received", units.BytesPerSecondIEC, ours(RECEIVED), MESH_RECEIVED),
    ("Sent", "Bytes sent", units.BytesPerSecondIEC, ours(SENT), MESH_SENT),
)

INSTANCE = "{{version}} {{instance}}"
WORN = [(0.8, "yellow"), (0.95, "red")]  # fractions of a limit

LINKS = (
    (
        "The exercise: TCP traffic shifting",
        "https://istio.io/latest/docs/tasks/traffic-management/tcp-traffic-shifting/",
    ),
    ("Istio's own metrics", "https://istio.io/latest/docs/reference/config/metrics/"),
)


def first() -> timeseries.Panel:
    """The purpose of the dashboard."""
    about = About(
        "Requests per second by version",
        units.RequestsPerSecond,
        "Lines answered per second, averaged over 3 minutes. A request is one answered line, so a "
        "long-lived connection can make many: weights act on connections, not on these.",
        width=24,
    )
    return counts(about, [Query(by_version(recorded(REQUESTS)))])


def requests() -> Panels:
    """Which versions answer, and how much."""
    shares = About(
        "Share of requests by version",
        units.PercentUnit,
        "The share of each version in all lines answered in the last 3 minutes, by all versions, "
        "selected or not. It follows the weights only if connections carry equally many lines.",
        width=12,
    )
    ports = About(
        "Requests per second by version and port",
        units.RequestsPerSecond,
        "Lines answered per second on each echo port, averaged over 3 minutes.",
        width=12,
    )
    query = Query(by_version(recorded(REQUESTS), "port"), "{{version}} :{{port}}")
    return [
        stacked(fractions(shares, [Query(recorded_share(REQUESTS))])),
        counts(ports, [query]),
    ]


def split_over_time() -> Panels:
    """How new connections are split between the versions."""
    shares = About(
        "Share of connections opened by version",
        units.PercentUnit,
        "The share of each version in the connections opened in the last 3 minutes, on which "
        "weights act. It excludes unused connections, such as a load balancer's checks. Dashed: "
        "echod_expected_share, if a rule of yours sets it. Shares of few connections scatter "
        "widely; the panels below cover the whole time shown.",
        width=16,
    )
    opened = About(
        "Connections opened per second",
        units.CountsPerSecond,
        "Connections accepted and admitted per second, averaged over 3 minutes, excluding unused "
        "ones, on which the client sent nothing.",
    )
    queries = [Query(recorded_share(OPENED)), Query(EXPECTED, "{{version}} expected")]
    return [
        dashed(fractions(shares, queries), "expected"),
        counts(opened, [Query(by_version(recorded(OPENED)))]),
    ]


def split_judged() -> Panels:
    """The same for the whole time shown, with the deviation that chance alone explains."""
    whole = About(
        "Share of connections opened, in the time shown",
        units.PercentUnit,
        "The share of each version in the connections opened in the time shown, excluding unused "
        "ones, and the expected share. Choose a time range that begins after the last change of "
        "weights.",
        width=12,
    )
    off = About(
        "Deviation from the expected split",
        "suffix: \u03c3",
        "How far each version's connections in the time shown are from the expected share, in "
        "standard errors. Chance alone exceeds 3.3 once in 1,000 times. Empty without an "
        "expected share, or if it is 0 or 100 %. Choose a time range that begins after the last "
        "change of weights; for an exact test, use echod probe.",
        width=12,
    )
    queries = [
        Query(share(opened_in_range(), opened_in_range(versions=False))),
        Query(EXPECTED, "{{version}} expected"),
    ]
    return [
        coloured(gauge(whole, queries).min(0).max(1).decimals(1)),
        within(gauge(off, [Query(deviation())]).decimals(1), 3.3),
    ]


def bytes_and_lines() -> Panels:
    """Traffic over the connections."""
    received = About(
        "Received by version",
        units.BytesPerSecondIEC,
        "Bytes read from clients per second, averaged over 3 minutes, including unanswered ones.",
    )
    sent = About(
        "Sent by version",
        units.BytesPerSecondIEC,
        "Bytes that the kernel accepted for clients per second, averaged over 3 minutes.",
    )
    lines = About(
        "Lines per connection",
        units.Short,
        "Lines answered per connection opened and used in the last 3 minutes. It is 1 if every "
        "client sends one line and disconnects, and empty while no connection is opened.",
    )
    opened = by_version(recorded(OPENED))
    ratio = f"{by_version(recorded(REQUESTS))} / on (version) ({opened} > 0)"
    return [
        counts(received, [Query(by_version(recorded(RECEIVED)))]),
        counts(sent, [Query(by_version(recorded(SENT)))]),
        counts(lines, [Query(ratio)]),
    ]


def durations() -> Panels:
    """How long connections last."""
    spread = About(
        "Connection duration",
        units.Seconds,
        "Duration of connections by the time of their close, including unused ones. A row is a "
        "bucket, the color their number.",
        width=12,
    )
    quantiles = About(
        "Connection duration, median and 99th percentile",
        units.Seconds,
        "Estimated within the buckets of the histogram, for closed connections, including unused "
        "ones.",
        width=12,
    )
    series = raw("echod_connection_duration_seconds_bucket", PORT, "increase", INTERVAL)
    queries = [
        Query(quantile(0.5), "{{version}} median"),
        Query(quantile(0.99), "{{version}} 99th"),
    ]
    return [
        buckets(spread, f"sum by (le) ({series})"),
        dashed(counts(quantiles, queries), "99th"),
    ]


def connections() -> Panels:
    """How many connections, and how close to the limits."""
    active = About(
        "Active connections by version",
        units.Short,
        "Connections opened and not yet closed. They stay where they are when weights change.",
    )
    limit = About(
        "Connection limit in use",
        units.PercentUnit,
        "Active connections relative to an instance's limit, all ports together. At 100 % further "
        "connections are closed at once and counted as rejected.",
    )
    ready = About(
        "Ready",
        units.NoUnit,
        "Green while an instance is ready, red while it is starting or draining.",
    )
    series = by_version(raw("echod_ready"), "instance", aggregation="min")
    names = {
        "0": models.ValueMappingResult(text="not ready", color="red", index=0),
        "1": models.ValueMappingResult(text="ready", color="green", index=1),
    }
    return [
        counts(active, [Query(by_version(recorded(ACTIVE)))]),
        fractions(limit, [Query(limit_in_use(), INSTANCE)], WORN),
        states(ready, Query(series, INSTANCE), names),
    ]


def ends() -> Panels:
    """Why connections close or are not accepted."""
    closed = About(
        "Connections closed per second by reason",
        units.CountsPerSecond,
        "eof: the client closed; reset, timeout: it reset or vanished; idle, max_age, "
        "line_too_long, buffer_limit, write_timeout: a limit; drain, drain_timeout: echod "
        "stopped; error: a bug, with an event in the log; unused: the client closed without "
        "sending data, like a load balancer's checks.",
        width=12,
    )
    rejected = About(
        "Connections rejected per second",
        units.CountsPerSecond,
        "Connections closed at once because no connection slot was free.",
        width=12,
    )
    failed = About(
        "Accept errors per second",
        units.CountsPerSecond,
        "Failed accepts by error. EMFILE and ENFILE: no free file descriptors.",
    )
    reasons = raw("echod_connections_closed_total", PORT, "rate", INTERVAL)
    refused = by_version(raw("echod_connections_rejected_total", PORT, "rate", INTERVAL), "reason")
    errors = raw("echod_accept_errors_total", PORT, "rate", INTERVAL)
    return [
        ranked(stacked(counts(closed, [Query(f"sum by (reason) ({reasons})", "{{reason}}")]))),
        bars(counts(rejected, [Query(refused, "{{version}} {{reason}}")])),
        ranked(bars(counts(failed, [Query(f"sum by (reason) ({errors})", "{{reason}}")]))),
    ]


def backpressure() -> Panels:
    """Data buffered for slow clients and slow log readers."""
    buffered = About(
        "Buffered bytes",
        units.BytesIEC,
        "Bytes that an instance buffers for its clients: unfinished lines and unsent replies. A "
        "connection that would exceed --max-buffered-bytes (default: 64 MiB) is closed.",
    )
    dropped = About(
        "Log events dropped per second",
        units.EventsPerSecond,
        "Log events dropped because the log reader is too slow. Clients are not affected.",
    )
    series = by_version(raw("echod_buffered_bytes"), "instance", aggregation="max")
    lost = by_version(raw("echod_log_events_dropped_total", "", "rate", INTERVAL))
    return [
        counts(buffered, [Query(series, INSTANCE)], [(48 * 2**20, "yellow"), (64 * 2**20, "red")]),
        bars(counts(dropped, [Query(lost)])),
    ]


def resources() -> Panels:
    """Resource usage of the processes."""
    cpu = About(
        "CPU",
        units.PercentUnit,
        "CPU seconds per second of each process. Near 100 % a Python build with the global "
        "interpreter lock is saturated: add replicas, or use a build without the lock.",
        width=6,
    )
    memory = About("Memory", units.BytesIEC, "Resident memory of each process.", width=6)
    files = About("Open files", units.Short, "Open file descriptors of each process.", width=6)
    threads = About(
        "Threads",
        units.Short,
        "Threads of each process. The number does not depend on the number of clients; a fall "
        "means that a thread has died.",
        width=6,
    )
    running = by_version(raw("echod_threads"), "instance", aggregation="max")
    return [
        counts(cpu, [Query(process("process_cpu_seconds_total", "rate"), INSTANCE)], WORN),
        counts(memory, [Query(process("process_resident_memory_bytes"), INSTANCE)]),
        counts(files, [Query(process("process_open_fds"), INSTANCE)]),
        counts(threads, [Query(running, INSTANCE)]),
    ]


def health() -> Panels:
    """How close the processes are to their limits, and their uptime."""
    files = About(
        "Open-file limit in use",
        units.PercentUnit,
        "Open file descriptors relative to the process's soft limit.",
    )
    garbage = About(
        "Garbage collections per second",
        units.CountsPerSecond,
        "Runs of Python's garbage collector in each process, all generations together.",
    )
    age = About(
        "Time since the start",
        units.Seconds,
        "Uptime of each process. A fall to 0 is a restart, which resets the counters.",
    )
    return [
        fractions(files, [Query(open_files_in_use(), INSTANCE)], WORN),
        counts(garbage, [Query(collections(), INSTANCE)]),
        counts(age, [Query(uptime(), INSTANCE)]),
    ]


def builds() -> Panels:
    """Versions and instances."""
    about = About(
        "What runs",
        units.NoUnit,
        "Each instance, with the release of echod, the version of Python and its GIL.",
        width=24,
    )
    labels = ("namespace", "job", "instance", "release", "python", "gil")
    series = by_version(raw("echod_build_info"), *labels, aggregation="max")
    return [listing(about, series, columns=("version", *labels), hidden=("Time", "Value"))]


def beside_the_mesh() -> Panels:
    """The servers' counts, and the counts of their proxies."""
    common = (
        " per second, by version. Solid: echod. Dashed: Envoy at the server (reporter "
        "destination), which reports every five seconds and at a connection's close. All ports "
        "together, because the mesh does not know ports."
    )
    return [
        dashed(
            counts(
                About(f"{verb}: echod and the mesh", unit, subject + common),
                [Query(own), Query(mesh(metric), "{{version}} mesh")],
            ),
            "mesh",
        )
        for verb, subject, unit, own, metric in BOTH_COUNT
    ]


def against_the_mesh() -> Panels:
    """The difference between the two."""
    meaning = (
        " per second: echod's rate minus the mesh's, by version. It oscillates around 0, "
        "because the proxy reports later. A lasting difference bypassed the proxy, or never "
        "reached echod."
    )
    return [
        graph(
            About(f"{verb}: difference", unit, subject + meaning),
            [Query(difference(own, metric))],
        )
        for verb, subject, unit, own, metric in BOTH_COUNT
    ]


def rows() -> list[tuple[str, Panels]]:
    """The rows below the first panel, from top to bottom."""
    return [
        ("Requests", requests()),
        ("The split", split_over_time() + split_judged()),
        ("Traffic", bytes_and_lines() + durations()),
        ("State", connections() + ends() + backpressure()),
        ("The process", resources() + health() + builds()),
        ("The mesh's own view", beside_the_mesh() + against_the_mesh()),
    ]


def everything() -> models.VariableOption:
    """The selection of all values."""
    return models.VariableOption(selected=True, text=["All"], value=["$__all"])


def choice(name: str, label: str, query: str, description: str) -> dashboard.QueryVariable:
    """A selection of some or all values of a label; all values include series without the label."""
    variable = dashboard.QueryVariable(name).label(label).description(description)
    variable.query({"query": f"label_values({query})", "refId": name}).datasource(DATASOURCE)
    variable.multi(True).include_all(True).all_value(".*").current(everything())
    variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    return variable.sort(models.VariableSort.NATURAL_ASC)


def variables() -> list[Builder[models.VariableModel]]:
    """The dashboard's variables, each limited by those before it."""
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    mesh_series = (
        f'{MESH_OPENED}{{reporter="destination", destination_workload_namespace=~"$namespace"}}'
    )
    app = choice("app", "App in the mesh", f"{mesh_series}, destination_app", MESH_APP)
    return [
        source.description("The Prometheus that scrapes echod."),
        choice("job", "Job", "echod_build_info, job", "Scrape jobs that have found an echod."),
        choice(
            "namespace",
            "Namespace",
            'echod_build_info{job=~"$job"}, namespace',
            "Namespaces; on VMs there is none, and All is right.",
        ),
        choice(
            "version",
            "Version",
            f"{ACTIVE}{{{SCOPE}}}, version",
            "Service versions, as the recording rules have settled them.",
        ),
        choice(
            "port", "Port", f"echod_requests_total{{{SCOPE}}}, port", "Echo ports, not the mesh's."
        ),
        app.current(models.VariableOption(selected=True, text=["tcp-echo"], value=["tcp-echo"])),
    ]


MESH_APP = "The label app of the servers, for the mesh's own view: other servers speak TCP as well."


def link(title: str, url: str) -> dashboard.DashboardLink:
    """A link to a document, which opens in a new tab."""
    made = dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK).url(url)
    return made.icon("doc").target_blank(True)


def empty() -> dashboard.Dashboard:
    """The dashboard without panels."""
    board = dashboard.Dashboard("echod").uid("echod-tcp-echo").tags(["echod", "istio", "tcp-echo"])
    board.description("Requests, connections and bytes of echod, by service version and port.")
    board.timezone("browser").time("now-1h", "now").refresh("30s").editable()
    board.tooltip(models.DashboardCursorSync.CROSSHAIR).variables(variables())
    return board.links([link(title, url) for title, url in LINKS])


def build() -> models.Dashboard:
    """The whole dashboard. Panels have fixed numbers, so that links to a panel stay valid."""
    board = empty().with_panel(first())
    for title, panels in rows():
        board.with_row(dashboard.Row(title))
        for panel in panels:
            board.with_panel(panel)
    made = board.build()
    made.schema_version = SCHEMA
    for number, item in enumerate(made.panels or [], start=1):
        item.id_val = number
    return made


def text() -> str:
    """The dashboard as JSON, reproducibly."""
    made = json.dumps(build(), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False)
    return f"{made}\n"


if __name__ == "__main__":
    print(text(), end="")
