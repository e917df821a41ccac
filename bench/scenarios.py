"""The measured loads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """One load. ``kind`` is lines, connect, idle or start."""

    key: str
    title: str
    kind: str = "lines"
    connections: int = 0
    outstanding: int = 1
    line_bytes: int = 32
    quick: bool = True


def _ping_pong(connections: int, *, quick: bool = True) -> Scenario:
    title = f"ping-pong, {connections:,} connection{'s' * (connections > 1)}"
    return Scenario(f"pingpong-{connections}", title, connections=connections, quick=quick)


IDLE, QUICK_IDLE = 10_000, 1_000
"""Default number of connections in the scenario with idle ones; echod's default limit is 10,000."""

CELLS = (
    _ping_pong(1),
    _ping_pong(16, quick=False),
    _ping_pong(64),
    _ping_pong(256, quick=False),
    _ping_pong(1000),
    Scenario("pipelined", "pipelined, 16 x 32 lines", connections=16, outstanding=32),
    Scenario(
        "kilobyte",
        "1 KiB lines, 4 x 64",
        connections=4,
        outstanding=64,
        line_bytes=1024,
    ),
    Scenario("long", "64 KiB lines, 16 x 1", connections=16, line_bytes=65536),
    Scenario("connect", "connect, one line, close, 8 in parallel", "connect", 8),
)
"""The rates by which peers are compared."""

ALL_IDLE = Scenario("idle", "64 busy among idle connections", "idle", 64)
START = Scenario("start", "start and rest", "start")

SCENARIOS = (START, *CELLS, ALL_IDLE)


def cell(key: str) -> Scenario:
    """The scenario of that name."""
    return next(one for one in SCENARIOS if one.key == key)
