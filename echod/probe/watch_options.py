"""What the command line has for a watch that lasts, in ``arguments.OPTIONS``' form."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from math import ceil
from typing import Any

from echod.config import parsers

RATE = 1.0
"""Connections a second, by default."""

LEAST_AT_A_TIME = 10

METRICS_PORT = "9466"
"""Not the daemon's own, which may run on the same host."""

ROWS: tuple[tuple[str, Callable[[str], Any], str, str, str], ...] = (
    (
        "false_alarm",
        parsers.duration,
        "365d",
        "TIME",
        "with --watch: mean time between false alarms, at least; s, m, h, d; default: 365d",
    ),
    (
        "settle",
        parsers.seconds,
        "30",
        "SECONDS",
        "with --watch: after a changed expectation, time until it is judged; default: 30",
    ),
    (
        "metrics_port",
        parsers.metrics_port,
        METRICS_PORT,
        "PORT",
        "with --watch: port of its own /metrics, /livez and /readyz; 0 takes any free one, none"
        f" turns it off; default: {METRICS_PORT}",
    ),
    (
        "metrics_address",
        parsers.address,
        "::",
        "ADDRESS",
        "with --watch: address of that port; :: serves IPv6 and IPv4; default: ::",
    ),
)

NEEDS = {name: ["watch"] for name in ("expect_file", *(row[0] for row in ROWS))}
EXCLUDES = {
    "watch": [
        *("n", "duration", "wait", "hold", "plan", "metrics", "tolerance", "max_errors"),
        *("json", "junit", "quiet"),
    ],
    "expect": ["expect_file", "route"],
    "expect_file": ["route"],
}


def add_to(parser: ArgumentParser) -> None:
    """Gives a parser what is no Option."""
    add = parser.add_argument
    add("--route", metavar="FILE", help="expect the weights of a VirtualService or a TCPRoute")
    add("--watch", action="store_true", help="judge for ever: metrics, an alarm, an all-clear")
    add("--expect-file", metavar="FILE", help="with --watch: shares, read again when it changes")


def at_a_time(rate: float, timeout: float, most: int) -> int:
    """How many connections keep the rate even if each takes all the time that it may."""
    return min(most, max(LEAST_AT_A_TIME, ceil(rate * timeout) + 1))
