"""What the tests share: a real echod process, clients, and a way to wait without luck.

The most used names are here; the other modules are imported by their own.
"""

from __future__ import annotations

from pathlib import Path

from support.clients import (
    Metrics,
    ask,
    connect,
    connections,
    converse,
    expected,
    get,
    jam,
    read_exactly,
    read_to_end,
    reset,
    take_nothing,
    unsent_bytes,
)
from support.commands import (
    Clock,
    Sockets,
    altered,
    call,
    clean_environment,
    command,
    unmeasured,
    with_open_files,
)
from support.processes import (
    OWN_ALLOCATOR,
    Echod,
    Start,
    holds_back,
    insist,
    pending,
    repeat,
    scrape,
    start_with,
    start_with_prefix,
    stopwatch,
    without_descriptors,
)
from support.waiting import (
    NEVER,
    PATIENCE,
    pause,
    soon,
    until,
)

ROOT = Path(__file__).parents[2]

__all__ = [
    "NEVER",
    "OWN_ALLOCATOR",
    "PATIENCE",
    "ROOT",
    "Clock",
    "Echod",
    "Metrics",
    "Sockets",
    "Start",
    "altered",
    "ask",
    "call",
    "clean_environment",
    "command",
    "connect",
    "connections",
    "converse",
    "expected",
    "get",
    "holds_back",
    "insist",
    "jam",
    "pause",
    "pending",
    "read_exactly",
    "read_to_end",
    "repeat",
    "reset",
    "scrape",
    "soon",
    "start_with",
    "start_with_prefix",
    "stopwatch",
    "take_nothing",
    "unmeasured",
    "unsent_bytes",
    "until",
    "with_open_files",
    "without_descriptors",
]
