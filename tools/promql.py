"""The dashboard's PromQL: which series a panel asks for, and by which version it groups them.

A version has three places. echod exports ``version`` when it was given one. A scrape without
``honor_labels``, of a target that has ``version`` too, renames echod's to ``exported_version``. And
without a service version the target's label, if any, is all there is. The recording rules have
settled that in ``version``; for other families it is settled here, before anything is selected or
grouped by it.
"""

from __future__ import annotations

SCOPE = 'job=~"$job", namespace=~"$namespace"'
INTERVAL = "$__rate_interval"
RANGE = "$__range"
WINDOW = "3m"  # as the recording rules have it
NO_VERSION = "no version"
"""The legend of series without a version; an empty label would leave it blank."""

INSTANCE = "job, namespace, instance"


def recorded(name: str, *, versions: bool = True, ports: bool = True) -> str:
    """A recording rule's series, of the selected versions and ports or of all."""
    matchers = [SCOPE]
    if versions:
        matchers.append('version=~"$version"')
    if ports:
        matchers.append('port=~"$port"')
    return f"{name}{{{', '.join(matchers)}}}"


def raw(
    name: str, matchers: str = "", function: str = "", window: str = "", *, versions: bool = True
) -> str:
    """A raw family's series, or a function of them over a window, with ``version`` settled.

    The two sides of ``or`` never hold the same series: one has ``exported_version``, one has not.
    """
    both = f"{SCOPE}, {matchers}" if matchers else SCOPE
    renamed = ', exported_version=~"$version"' if versions else ""
    plain = ', version=~"$version"' if versions else ""
    sides = (
        f'{name}{{{both}, exported_version!=""{renamed}}}',
        f'{name}{{{both}, exported_version=""{plain}}}',
    )
    if function:
        sides = (f"{function}({sides[0]}[{window}])", f"{function}({sides[1]}[{window}])")
    return f'label_replace({sides[0]} or {sides[1]}, "version", "$1", "exported_version", "(.+)")'


PORT = 'port=~"$port"'


def by_version(series: str, *labels: str, aggregation: str = "sum") -> str:
    """An aggregate for each version, and for each value of other labels."""
    grouped = f"{aggregation} by ({', '.join(['version', *labels])}) ({series})"
    return f'label_replace({grouped}, "version", "{NO_VERSION}", "version", "")'


def share(part: str, whole: str) -> str:
    """The fraction of a whole for each version; no value if the whole is 0."""
    return f"{by_version(part)} / on () group_left () (sum({whole}) > 0)"


def recorded_share(name: str) -> str:
    """The selected versions' shares of a recorded rate, among all versions."""
    return share(recorded(name), recorded(name, versions=False))


OPENED = "echod_connections_opened_total"
CLOSED = "echod_connections_closed_total"
EXPECTED = 'max by (version) (echod_expected_share{version=~"$version"})'


def opened_in_range(*, versions: bool = True) -> str:
    """Connections opened in the time shown, as selected or whatever the version.

    As in the recording rules, unused connections are subtracted series by series, and a series
    never falls below 0. All connections count if an older echod does not count unused ones.
    """
    opened = raw(OPENED, PORT, "increase", RANGE, versions=versions)
    unused = raw(CLOSED, f'{PORT}, reason="unused"', "increase", RANGE, versions=versions)
    return f"(clamp_min({opened} - ignoring (reason) {unused}, 0) or {opened})"


def deviation() -> str:
    """How far the split is from the expected one, in standard errors.

    Each connection goes to a version independently. So n connections give n p of it, with a
    standard error of sqrt(n p (1 - p)). Shares of 0 and 1 leave nothing to chance, and are left
    out.
    """
    total = f"scalar(sum({opened_in_range(versions=False)}) > 0)"
    chance = f"({EXPECTED} > 0 < 1)"
    error = f"({chance} * (1 - {chance}) * {total}) ^ 0.5"
    return f"({by_version(opened_in_range())} - {chance} * {total}) / {error}"


def quantile(fraction: float) -> str:
    """A quantile of the durations of connections, by version."""
    buckets = raw("echod_connection_duration_seconds_bucket", PORT, "rate", INTERVAL)
    return f"histogram_quantile({fraction}, {by_version(buckets, 'le')})"


def limit_in_use() -> str:
    """The used fraction of an instance's connection limit, which its ports share."""
    active = f"sum without (port) ({raw('echod_connections_active')})"
    return by_version(f"{active} / {raw('echod_connections_limit')}", "instance", aggregation="max")


def of_process(series: str) -> str:
    """client_python's series of echod processes, with echod's version."""
    known = f"group by ({INSTANCE}, version) ({raw('echod_build_info')})"
    joined = f"{series} * on ({INSTANCE}) group_left (version) {known}"
    return by_version(joined, "instance", aggregation="max")


def process(name: str, function: str = "") -> str:
    """A process metric by version and instance; ``function`` applies over the rate interval."""
    series = f"{name}{{{SCOPE}}}"
    return of_process(f"{function}({series}[{INTERVAL}])" if function else series)


def open_files_in_use() -> str:
    """The used fraction of an instance's open-file limit."""
    return of_process(f"process_open_fds{{{SCOPE}}} / process_max_fds{{{SCOPE}}}")


def uptime() -> str:
    """Seconds since each instance started."""
    return of_process(f"(time() - process_start_time_seconds{{{SCOPE}}})")


def collections() -> str:
    """Runs of Python's garbage collector per second, of all generations."""
    name = f"python_gc_collections_total{{{SCOPE}}}"
    return of_process(f"sum by ({INSTANCE}) (rate({name}[{INTERVAL}]))")


def ours(rule: str) -> str:
    """A recorded rate by version over all ports, because the mesh does not know ports."""
    return by_version(recorded(rule, ports=False))


def all_opened() -> str:
    """The same for opened connections, including unused ones, which the mesh cannot distinguish."""
    return by_version(raw(OPENED, "", "rate", WINDOW))


def mesh(name: str) -> str:
    """The mesh's own rate over the same time, where the server's proxy counts."""
    selected = (
        'reporter="destination", destination_workload_namespace=~"$namespace", '
        'destination_app=~"$app", destination_version=~"$version"'
    )
    series = f"rate({name}{{{selected}}}[{WINDOW}])"
    named = f'label_replace({series}, "version", "$1", "destination_version", "(.*)")'
    known = f'label_replace({named}, "version", "{NO_VERSION}", "version", "unknown|")'
    return f"sum by (version) ({known})"


def difference(own: str, name: str) -> str:
    """The difference of echod's rate and the mesh's, where both count."""
    return f"{own} - on (version) {mesh(name)}"
