"""Side runs: echod with different options, for decisions that need figures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from bench.peers import ECHOD, HERE, METRICS, Peer, echod, free_threaded


@dataclass(frozen=True)
class Side:
    """A separate table. The first peer is the reference for the others."""

    title: str
    note: str
    peers: Callable[[], tuple[Peer, ...]]
    cells: tuple[str, ...]
    quick_cells: tuple[str, ...]


OFF = (
    *("--log-level", "error", "--idle-timeout", "none", "--write-timeout", "none"),
    *("--max-line-bytes", "1000000000", "--max-buffered-bytes", "1000000000000"),
)

_SWITCH = "import sys; sys.setswitchinterval({}); from echod.cli import main; sys.exit(main())"


def _costs() -> tuple[Peer, ...]:
    return (echod("all on"), echod("all off", *OFF, "--metrics-port", "none", metrics=False))


def _handler_threads() -> tuple[Peer, ...]:
    return tuple(
        echod(f"{count} thread{'s' * (count > 1)}", "--handler-threads", str(count))
        for count in (1, 2)
    )


def _switch_intervals() -> tuple[Peer, ...]:
    found = []
    for milliseconds in (5, 0.5, 50):
        words = ("-c", _SWITCH.format(milliseconds / 1000), "{port}", "{prefix}")
        found.append(Peer(f"{milliseconds:g} ms", (sys.executable, *words, *METRICS)))
    return tuple(found)


def _processes() -> tuple[Peer, ...]:
    words = (sys.executable, str(HERE / "inherited.py"), "2", *ECHOD[2:], "--metrics-port", "0")
    return (echod("1 process"), Peer("2 processes", words))


def _no_lock() -> tuple[Peer, ...]:
    return (echod("with a GIL"), free_threaded("without, 2 threads", "--handler-threads", "2"))


_MANY = ("pingpong-16", "pingpong-64", "pingpong-256", "pingpong-1000", "pipelined", "connect")

SIDES = {
    "costs": Side(
        "Metrics, limits and logs: on and off",
        "Off: no metrics port and no scrape, --log-level error, no timeouts, limits of bytes out of"
        " reach. What no option turns off is in both: the counts, the comparisons with the limits,"
        " the places for connections, keep-alive, the stamps for /livez.",
        _costs,
        ("pingpong-64", "pingpong-1000", "pipelined", "connect"),
        ("pingpong-64", "connect"),
    ),
    "handler-threads": Side(
        "Handler threads",
        "What decides the default on a build with a GIL.",
        _handler_threads,
        ("pingpong-1", *_MANY),
        ("pingpong-64",),
    ),
    "switch-interval": Side(
        "The interpreter's switch interval",
        "5 ms is Python's default. One handler thread, which shares the GIL with the"
        " exporter and the log writer.",
        _switch_intervals,
        ("pingpong-64", "connect"),
        ("pingpong-64",),
    ),
    "processes": Side(
        "Two processes on one inherited listening socket",
        "Each has a metrics port of its own, which is not scraped.",
        _processes,
        _MANY,
        ("pingpong-64",),
    ),
    "no-gil": Side(
        "A build without a GIL, two handler threads",
        "With the packages of the other interpreter, all of them pure Python.",
        _no_lock,
        _MANY,
        ("pingpong-64",),
    ),
}
"""Side runs by the name for --only."""
