"""The report: tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bench import figures
from bench.figures import Samples, Spread, three_digits
from bench.goals import GO, Row
from bench.results import Cells, Results
from bench.scenarios import cell
from bench.sides import SIDES

NOTHING = "-"
MOST_CLIENT = 0.5
"""From this share of a core on, the report warns that the load generator may be the bottleneck."""

NAMES = {"limit": "C limit"}

METHOD = """\
Every reply was compared byte for byte, and a round with an error does not count. CPU is user and
system time of all threads and children, by the kernel's nanosecond clocks, between two moments
in which nothing was on its way. Each load ran for a moment before it was counted. Servers write
standard output to /dev/null. Latencies are those of lines in a closed loop, from the moment a
line was offered to the socket. Context switches are those of threads that still live. Memory is
resident memory of the process; what the kernel holds for sockets is not in it.
"""


def name(peer: str) -> str:
    """As tables and pictures have it."""
    return NAMES.get(peer, peer)


def markdown(results: Results, goals: Sequence[Row]) -> str:
    """The whole report."""
    machine = results.machine
    parts = [
        "# echod beside its peers",
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores shared with the load"
        f" generator, Linux {machine['kernel']}, Python {machine['python']};"
        f" rounds: {results.rounds}, of {results.seconds:g} s, in turn: median (least-most).",
    ]
    if results.problems:
        parts += ["## Not as it should be", _listed(results.problems)]
    if results.about:
        parts.append(_listed(f"**{name(peer)}**: {what}" for peer, what in results.about.items()))
    if goals:
        parts += ["## Goals", _goals(goals, GO in results.peers)]
    parts += _cells(results)
    parts += _memory(results)
    for key, cells in results.sides.items():
        parts += _side(key, cells, results.side_peers[key])
    parts += ["## The load generator", _client(results), "## How", METHOD.strip()]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first are figures."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def _listed(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _shown(found: Spread | None, form: Callable[[float], str] = three_digits) -> str:
    return found.show(form) if found else NOTHING


def _goals(goals: Sequence[Row], go: bool) -> str:
    rows = []
    for row in goals:
        reached = {None: "not measured", True: "yes", False: "**no**"}[row.reached]
        if not row.sure:
            reached += ", not in every round"
        if row.disagree:
            reached += "; rate and CPU disagree"
        by_rate = _shown(row.by_rate) + " x" if row.by_rate else ""
        measured = _shown(row.measured) + (f" {row.unit}" if row.measured else "")
        rows.append((row.figure, row.goal, measured, by_rate, reached))
    text = table(("figure", "goal", "measured", "the same by rate", "reached"), rows)
    if not go:
        text += f"\n\nGo's goals need the reference: `--peer {GO}='COMMAND {{port}} {{prefix}}'`."
    return text


def _cells(results: Results) -> list[str]:
    keys = [key for key in results.cells if key != "start"]
    if not keys:
        return []
    parts = []
    for title, figure in (
        ("Lines (connections) per second", "rate"),
        ("CPU of the server, microseconds per line (connection)", "cpu"),
        ("Context switches per line (connection)", "switches"),
    ):
        rows = [(cell(key).title, *_row(results.cells[key], results.peers, figure)) for key in keys]
        parts += [f"## {title}", table(("", *map(name, results.peers)), rows)]
    rows = [(cell(key).title, *_latencies(results.cells[key], results.peers)) for key in keys]
    parts += ["## Latency, microseconds: p50 / p99 / p99.9"]
    return [*parts, table(("", *map(name, results.peers)), rows)]


def _row(samples: Samples, peers: Sequence[str], figure: str) -> list[str]:
    return [_shown(figures.of(samples, peer, figure)) for peer in peers]


def _latencies(samples: Samples, peers: Sequence[str]) -> list[str]:
    cells = []
    for peer in peers:
        found = [figures.of(samples, peer, figure) for figure in ("p50", "p99", "p999")]
        medians = [three_digits(one.median) for one in found if one]
        cells.append(" / ".join(medians) or NOTHING)
    return cells


def _memory(results: Results) -> list[str]:
    def mib(kib: float) -> str:
        return f"{kib / 1024:.1f}"

    wanted = (
        ("start", "ready", "start to the first connection, s", three_digits),
        ("start", "readyz", "start to 200 from /readyz, s", three_digits),
        ("start", "rest", "memory at rest, MiB", mib),
        ("pingpong-64", "load", "memory under load, 64 connections, MiB", mib),
        ("pingpong-1000", "load", "memory under load, 1,000 connections, MiB", mib),
        ("idle", "each_idle", f"memory per idle connection of {results.idle:,}, KiB", three_digits),
        ("idle", "kept", "64 busy among them, against 64 alone, x", three_digits),
    )
    rows = [
        (
            title,
            *(_shown(figures.of(results.cells[key], one, figure), form) for one in results.peers),
        )
        for key, figure, title, form in wanted
        if key in results.cells
    ]
    head = ("", *map(name, results.peers))
    return ["## Start and memory", table(head, rows)] if rows else []


def _side(key: str, cells: Cells, peers: Sequence[str]) -> list[str]:
    side = SIDES[key]
    parts = [f"## {side.title}", side.note]
    if not cells:
        return [*parts, "Not measured: see the list at the top."]
    first = peers[0]
    head = ["", *(f"{one}, per s" for one in peers), *(f"{one}, CPU µs" for one in peers)]
    for one in peers[1:]:
        head += [f"{one} / {first}: rate", "CPU", "p99"]
    rows = []
    for cell_key, samples in cells.items():
        row = [cell(cell_key).title, *_row(samples, peers, "rate"), *_row(samples, peers, "cpu")]
        for one in peers[1:]:
            ratios = (figures.ratio(samples, each, one, first) for each in ("rate", "cpu", "p99"))
            row += map(_shown, ratios)
        rows.append(row)
    return [*parts, table(head, rows)]


def _client(results: Results) -> str:
    """The load generator's largest share of a core, and each cell in which it may be the
    bottleneck.
    """
    runs = [(cell(key).title, samples) for key, samples in results.cells.items()]
    for side, cells in results.sides.items():
        runs += [(f"{SIDES[side].title}: {cell(key).title}", one) for key, one in cells.items()]
    shares = {
        (title, name(peer)): found.median
        for title, samples in runs
        for peer in samples
        if (found := figures.of(samples, peer, "client"))
    }
    if not shares:
        return "It was not used."
    title, peer = max(shares, key=lambda one: shares[one])
    text = f"It took {100 * max(shares.values()):.0f} % of a core at most ({peer}, {title})."
    busy: dict[str, list[str]] = {}
    for (scenario, server), share in shares.items():
        if share > MOST_CLIENT:
            busy.setdefault(scenario, []).append(f"{server} {100 * share:.0f} %")
    if busy:
        text += " Where it took more than half a core, the server may be faster than is shown"
        text += " (its CPU per line is not touched by that):\n\n"
        text += _listed(f"{one}: {', '.join(servers)}" for one, servers in busy.items())
    return text
