"""The command line of ``echod probe``."""

from __future__ import annotations

import ipaddress
import socket
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from echod.config import parsers
from echod.config.options import Option
from echod.errors import UsageError, shown
from echod.probe import service_arguments, watch_options
from echod.probe.service_arguments import ServiceSettings
from echod.texts import path

MOST_CONNECTIONS = 10_000_000
MOST_HELD = 1000
MOST_SOURCES = 4096

DESCRIPTION = """\
Opens connections to HOST:PORT, sends one line on each, and takes the version from the prefix of the
reply. With --expect it tests whether the split is as expected.
"""

EPILOG = """\
examples:
  echod probe localhost:9000 --expect one=80,two=20   sample, judge, exit status
  echod probe localhost:9000 -n 200                   tally and intervals only
  echod probe --plan --expect one=80,two=20           how many connections this takes

exit status:
  0 the split holds    1 it does not    2 usage error    3 too many errors, or this host failed
  4 inconclusive: nothing contradicts the split, but the evidence is too weak, or it changed
"""


_seconds = parsers.number("a number of seconds over 0, 86400 at most", 0, 86_400)
_points = parsers.number("a number of percentage points over 0, 100 at most", 0, 100)

_ROWS: tuple[tuple[str, Callable[[str], Any], str, str, str], ...] = (
    ("duration", _seconds, "", "SECONDS", "maximum duration of the run in seconds"),
    (
        "concurrency",
        parsers.whole(1, MOST_HELD),
        "10",
        "N",
        "maximum number of concurrent connections; default: 10",
    ),
    (
        "rate",
        parsers.number("a number of connections a second from 0.0001 to 1000000", 0.99e-4, 1e6),
        "",
        "N",
        "maximum number of new connections per second; may be a fraction",
    ),
    (
        "timeout",
        _seconds,
        "5",
        "SECONDS",
        "timeout in seconds of each connection as a whole; default: 5",
    ),
    (
        "resolve",
        parsers.one_of("once", "each"),
        "once",
        "WHEN",
        "resolve the name once, or for each connection, trying its addresses in turn;"
        " default: once",
    ),
    (
        "alpha",
        parsers.number("a number from 0.000000001 to 0.5", 0.99e-9, 0.5),
        "0.001",
        "CHANCE",
        "accepted probability of a wrong verdict; default: 0.001",
    ),
    (
        "detect",
        _points,
        "5",
        "POINTS",
        "a share that is off by this many percentage points passes in at most 1 run of 20;"
        " default: 5",
    ),
    (
        "tolerance",
        _points,
        "",
        "POINTS",
        "pass only if every share is shown to be within this many percentage points of the"
        " expected one",
    ),
    (
        "max_errors",
        parsers.whole(0, MOST_CONNECTIONS),
        "0",
        "N",
        "maximum number of failed connections; default: 0",
    ),
    (
        "wait",
        _seconds,
        "",
        "SECONDS",
        "wait up to this many seconds for the split to hold; needs --tolerance",
    ),
    (
        "hold",
        parsers.whole(1, MOST_HELD),
        "",
        "N",
        "keep N connections open, send a line per second on each, and report which version each"
        " one stays on",
    ),
)
"""The columns are those of the daemon's table: name, parser, default, placeholder, help."""

OPTIONS = tuple(Option(*row) for row in (*_ROWS, *watch_options.ROWS))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a probe. Times are in seconds, shares are fractions, ``None`` is unset."""

    host: str
    port: int
    family: int
    expect: Sequence[str]
    n: int | None
    duration: float | None
    concurrency: int
    rate: float | None
    timeout: float
    resolve: str
    source: Sequence[str]
    alpha: float
    detect: float
    tolerance: float | None
    max_errors: int
    wait: float | None
    hold: int | None
    metrics: Sequence[str]
    service: ServiceSettings
    plan: bool
    json: bool
    junit: str | None
    quiet: bool
    watch: bool
    expect_file: str | None
    route: str | None
    false_alarm: float
    settle: float
    metrics_port: int | None
    metrics_address: str


def add_to(parser: ArgumentParser) -> None:
    """Give a parser the probe's arguments."""
    parser.usage = (
        "echod probe HOST:PORT [options]\n       echod probe --plan --expect NAME=SHARE,..."
    )
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = RawDescriptionHelpFormatter
    add = parser.add_argument
    add("target", nargs="?", metavar="HOST:PORT", help="server to connect to; [::1]:9000 for IPv6")
    add(
        "--expect",
        action="append",
        default=[],
        metavar="NAME=SHARE,...",
        help="shares by version, in any unit; NAME=0 forbids a version, error=SHARE expects"
        " failures",
    )
    watch_options.add_to(parser)
    add("-n", metavar="N", help="maximum connections; default: see --plan; 200 without --expect")
    for option in OPTIONS:
        add(option.flag, metavar=option.metavar, help=option.help)
    _add_source(parser)
    service_arguments.add_to(add)
    families = parser.add_mutually_exclusive_group()
    families.add_argument("-4", dest="v4", action="store_true", help="use IPv4 only")
    families.add_argument("-6", dest="v6", action="store_true", help="use IPv6 only")
    add(
        "--metrics",
        action="append",
        default=[],
        metavar="URL",
        help="/metrics of an echod, to compare its counts with this client's; may be repeated",
    )
    add("--plan", action="store_true", help="print how many connections a verdict takes; make none")
    add("--json", action="store_true", help="print the result as JSON")
    add("--junit", metavar="FILE", help="write the result to FILE as JUnit XML")
    add("--quiet", action="store_true", help="print errors only; with --plan the cap only")


def _add_source(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="connect from this address of this host, or from each address of a network"
        " (192.0.2.0/28) in turn; may be repeated",
    )


def settings(flags: Namespace) -> Settings:
    """The settings of a call. Raises UsageError."""
    given = vars(flags)
    values = {option.name: option.of(given[option.name]) for option in OPTIONS}
    number = Option("n", parsers.whole(1, MOST_CONNECTIONS), "", "N", "")
    for name in _FILES:
        if given[name] == "":
            raise UsageError(f"--{name.replace('_', '-')} '': must be the name of a file")
    n = None if flags.n is None else number.read("-n", flags.n)
    _check(given)
    host, port = ("", 0) if flags.plan else _target(flags.target)
    for name in ("detect", "tolerance"):
        values[name] = None if values[name] is None else values[name] / 100
    if flags.watch:
        rate = values["rate"] = values["rate"] or watch_options.RATE
        if flags.concurrency is None:
            most = watch_options.at_a_time(rate, values["timeout"], MOST_HELD)
            values["concurrency"] = most
    family = socket.AF_INET6 if flags.v6 else socket.AF_INET if flags.v4 else socket.AF_UNSPEC
    values["source"] = [one for text in flags.source for one in _sources(text)]
    if len(values["source"]) > MOST_SOURCES:
        raise UsageError(f"--source: must be {MOST_SOURCES:,} addresses at most")
    values["service"] = service_arguments.settings(given)
    same = {name: given[name] for name in ("expect", "metrics", "plan", "json", "quiet", "watch")}
    same |= {name: given[name] and path(given[name]) for name in _FILES}
    return Settings(host=host, port=port, family=family, n=n, **values, **same)


_FILES = ("junit", "expect_file", "route")

_EXPECTING = ("expect", "expect_file", "route")
"""Options that set the expectation."""

_NEEDS = {
    "plan": ["expect"],
    "detect": ["expect"],
    "tolerance": ["expect"],
    "wait": ["tolerance"],
    "watch": ["expect"],
    **watch_options.NEEDS,
}
_EXCLUDES = {
    "tolerance": ["detect"],
    "wait": ["duration", "metrics"],
    "plan": ["target", "n", "hold", "wait", "metrics", "junit"],
    "hold": ["expect", "n", "metrics", "rate", "concurrency", "json", "junit", "route"],
    **watch_options.EXCLUDES,
}
"""Options that need, or exclude, others. Without these checks echod would ignore one of them."""


def _check(given: dict[str, Any]) -> None:
    def flag(name: str) -> str:
        names = {"target": "HOST:PORT", "n": "-n"}
        return names.get(name, "--" + name.replace("_", "-"))

    def is_given(name: str) -> bool:
        return given[name] not in (None, [], False)

    needs = _NEEDS | service_arguments.NEEDS
    for name in filter(is_given, needs):
        for needed in needs[name]:
            if not any(map(is_given, _EXPECTING if needed == "expect" else [needed])):
                raise UsageError(f"{flag(name)}: must be given together with {flag(needed)}")
    excludes = [*_EXCLUDES.items(), *service_arguments.EXCLUDES.items()]
    for name, others in excludes:
        for other in filter(is_given, others if is_given(name) else []):
            raise UsageError(f"{flag(name)}: must be given without {flag(other)}")


def _sources(text: str) -> list[str]:
    """The address, or the hosts of the network, that a text names. Raises UsageError."""
    if "/" not in text:
        return [Option("source", parsers.address, "", "ADDRESS", "").read("--source", text)]
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise UsageError(
            f"--source {shown(text)}: must be an address, or a network without host bits set,"
            " for example 192.0.2.0/28"
        ) from error
    if network.num_addresses > MOST_SOURCES:
        raise UsageError(f"--source {shown(text)}: must be {MOST_SOURCES:,} addresses at most")
    return [str(address) for address in network.hosts()]


def _target(text: str | None) -> tuple[str, int]:
    if text is None:
        raise UsageError("HOST:PORT is missing (see echod probe --help)")
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not (colon and host) or (":" in host and not bracketed) or not host.isprintable():
        raise UsageError(
            f"HOST:PORT {shown(text)}: must be a name or an address and a port,"
            " for example localhost:9000 or [::1]:9000"
        )
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise UsageError(f"HOST:PORT {shown(text)}: must have a port from 1 to 65535")
    if parsers.lacks_zone(host):
        raise UsageError(
            f"HOST:PORT {shown(text)}: must have the zone of its link-local address (the network"
            f" interface), for example [{host}%eth0]:{port}"
        )
    return host, int(port)
