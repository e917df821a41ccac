"""The goals of echod with default options, compared with the measurements.

Goals against other servers are judged by CPU per line, which varies least on a busy machine; rates
are shown beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from bench import figures
from bench.figures import Samples, Spread
from bench.results import Results
from bench.scenarios import ALL_IDLE, CELLS, cell

GO = "go"
"""The name that --peer must give to the Go reference for its goals to be judged."""

AGAINST_GO = {
    "pingpong-1": 1.0,
    "pingpong-16": 1.3,
    "pingpong-64": 1.3,
    "pingpong-256": 1.3,
    "pingpong-1000": 1.3,
    "pipelined": 20.0,
    "kilobyte": 14.0,
    "long": 4.0,
    "connect": 1.3,
}
"""Minimum of Go's CPU per line divided by echod's."""
AGAINST_ASYNCIO, CONNECT_AGAINST_ASYNCIO = 1.05, 1.6
AGAINST_UVLOOP = 1.0 if sys.version_info >= (3, 14) else 0.98
AGAINST_LIMIT = {"pingpong-64": 1.38, "pingpong-1000": 1.44}
"""Maximum of echod's CPU per line divided by that of the loop in C."""


@dataclass(frozen=True)
class Row:
    """One goal: what was measured, in its unit, and the same by rate where that is another figure:
    echod's rate over the other's.
    """

    figure: str
    goal: str
    bound: float
    least: bool  # the bound is one from below
    unit: str
    measured: Spread | None
    by_rate: Spread | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the goal; None without a measurement."""
        return None if self.measured is None else self._meets(self.measured.median)

    @property
    def sure(self) -> bool:
        """Whether all rounds agree."""
        ends = (self.measured.low, self.measured.high) if self.measured else ()
        return len({self._meets(end) for end in ends}) < 2

    @property
    def disagree(self) -> bool:
        """Whether rates and CPU disagree on which side is faster."""
        return bool(
            self.measured
            and self.by_rate
            and (self.measured.median >= 1) != (self.by_rate.median >= 1)
        )

    def _meets(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound


def _row(
    figure: str,
    sign: str,
    bound: float,
    unit: str,
    measured: Spread | None,
    by_rate: Spread | None = None,
) -> Row:
    least = sign == "≥"
    return Row(figure, f"{sign} {bound:g} {unit}", bound, least, unit, measured, by_rate)


def judge(results: Results) -> list[Row]:
    """A row for each goal whose scenario was run: with nothing measured, if it came to nothing.

    Those against Go are there if a peer of that name was measured.
    """
    rows = [*_go(results), *_others(results), *_memory(results), *_start(results)]
    return rows + list(_costs(results))


def _against(results: Results, key: str, other: str, bound: float) -> Iterator[Row]:
    if key not in results.cells:
        return
    samples = results.samples(key)
    by_cpu = figures.ratio(samples, "cpu", other, "echod")
    by_rate = figures.ratio(samples, "rate", "echod", other)
    title = f"CPU against {other}: {cell(key).title}"
    yield _row(title, "≥", bound, "x", by_cpu, by_rate)


def _go(results: Results) -> Iterator[Row]:
    if GO not in results.peers:
        return
    for key, bound in AGAINST_GO.items():
        yield from _against(results, key, GO, bound)
    if "pingpong-64" in results.cells:
        p99 = figures.ratio(results.samples("pingpong-64"), "p99", "echod", GO)
        yield _row("p99 at 64 connections against go", "≤", 0.4, "x", p99)


def _others(results: Results) -> Iterator[Row]:
    for key, bound in AGAINST_LIMIT.items():
        if key in results.cells:
            cpu = figures.ratio(results.samples(key), "cpu", "echod", "limit")
            yield _row(f"CPU per line against the C limit: {cell(key).title}", "≤", bound, "x", cpu)
    for scenario in (*CELLS, ALL_IDLE):
        if "asyncio" in results.peers:
            connects = scenario.key == "connect"
            bound = CONNECT_AGAINST_ASYNCIO if connects else AGAINST_ASYNCIO
            yield from _against(results, scenario.key, "asyncio", bound)
        if "uvloop" in results.peers:
            yield from _against(results, scenario.key, "uvloop", AGAINST_UVLOOP)


def _memory(results: Results) -> Iterator[Row]:
    if "idle" not in results.cells:
        return
    idle = results.samples("idle")
    each = figures.of(idle, "echod", "each_idle")
    yield _row("memory per idle connection", "≤", 0.95, "KiB", each)
    if GO in results.peers:
        ratio = figures.ratio(idle, "each_idle", "echod", GO)
        yield _row("memory per idle connection against go", "≤", 0.2, "x", ratio)
    kept = figures.of(idle, "echod", "kept")
    cpu = figures.spread(
        [one["alone_cpu"] / one["cpu"] for one in idle.get("echod", []) if one and "cpu" in one]
    )
    title = f"64 busy among {results.idle:,} connections, against 64 alone"
    yield _row(title, "≥", 0.95, "x", kept, cpu)


def _start(results: Results) -> Iterator[Row]:
    if "start" not in results.cells:
        return
    start = results.samples("start")
    rest = _scaled(figures.of(start, "echod", "rest"), 1 / 1024)
    yield _row("memory at rest", "≤", 28, "MiB", rest)
    ready = figures.of(start, "echod", "ready")
    yield _row("start to the first connection", "≤", 0.12, "s", ready)
    ready = figures.of(start, "echod", "readyz")
    yield _row("start to 200 from /readyz", "≤", 0.12, "s", ready)


def _costs(results: Results) -> Iterator[Row]:
    if "costs" not in results.sides:
        return
    for key, bound in (("pingpong-64", 5.0), ("connect", 10.0)):
        samples: Samples = results.sides["costs"].get(key, {})
        ratio = figures.ratio(samples, "cpu", "all on", "all off")
        percent = Spread(*(100 * (one - 1) for one in _values(ratio))) if ratio else None
        each = "connection" if key == "connect" else "line"
        title = f"cost of metrics, limits and logs: CPU per {each}, on against off"
        yield _row(title, "≤", bound, "%", percent)


def _values(found: Spread) -> tuple[float, float, float]:
    return found.median, found.low, found.high


def _scaled(found: Spread | None, by: float) -> Spread | None:
    return Spread(*(one * by for one in _values(found))) if found else None
