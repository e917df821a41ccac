"""The options of ``echod probe --watch``, in the form of ``arguments.OPTIONS``."""

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
"""Different from the daemon's, which may run on the same host."""

ROWS: tuple[tuple[str, Callable[[str], Any], str, str, str], ...] = (
    (
        "false_alarm",
        parsers.duration,
        "365d",
        "TIME",
        "with --watch: minimum mean time between false alarms, in s, m, h or d; default: 365d",
    ),
    (
        "settle",
        parsers.seconds,
        "30",
        "SECONDS",
        "with --watch: seconds from a change of the expectation until it is judged; default: 30",
    ),
    (
        "metrics_port",
        parsers.metrics_port,
        METRICS_PORT,
        "PORT",
        "with --watch: port of the watch's /metrics, /livez and /readyz; 0 takes any free port,"
        f" none turns it off; default: {METRICS_PORT}",
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
    """Add the arguments that are not in ROWS to a parser."""
    add = parser.add_argument
    add(
        "--route",
        metavar="FILE",
        help="expect the weights of a VirtualService, a TCPRoute or a TLSRoute",
    )
    add("--watch", action="store_true", help="judge continuously: metrics, alarm, all-clear")
    add("--expect-file", metavar="FILE", help="with --watch: file of shares, reread when changed")


def at_a_time(rate: float, timeout: float, most: int) -> int:
    """How many concurrent connections keep the rate even if each one takes its whole timeout."""
    return min(most, max(LEAST_AT_A_TIME, ceil(rate * timeout) + 1))
