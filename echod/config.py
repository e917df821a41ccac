"""The configuration: one table for flags, environment names, help and defaults."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

MAX_PREFIX_BYTES = 1024
MAX_VERSION_BYTES = 128
MAX_HANDLER_THREADS = 256
MAX_DRAIN_SECONDS = 86_400
MAX_TIME_LIMIT = 100_000_000

_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?(e[0-9]{1,3})?|\.[0-9]+", re.ASCII)


class UsageError(Exception):
    """The call is wrong, on whatever system. The text is one line."""


class SystemRefused(Exception):
    """The call may be right, but this system does not allow it. The text is one line."""


# Parsers: from a text to a value. What their ValueError says completes "must be ...".


def _ports(text: str) -> tuple[int, ...]:
    ports = tuple(_port(part) for part in text.split(","))
    named = [port for port in ports if port]
    if len(named) != len(set(named)):
        raise ValueError("ports that differ from each other")
    return ports


def _port(text: str) -> int:
    if text.startswith(("tcp://", "udp://")):
        raise ValueError(
            "a port number; Kubernetes service links set such values for a Service called"
            " echod-metrics: use enableServiceLinks: false in the pod, or another Service name"
        )
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise ValueError("a port from 1 to 65535, or 0 for any free one")
    return int(text)


def _metrics_port(text: str) -> int | None:
    try:
        return None if text == "none" else _port(text)
    except ValueError as error:
        raise ValueError(f"{error}, or none") from error


def _text(most_bytes: int) -> Callable[[str], str]:
    allowed = f"1 to {most_bytes} bytes of UTF-8 without control characters"

    def parse(text: str) -> str:
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:  # the command line was not UTF-8
            raise ValueError(allowed) from error
        if not 1 <= size <= most_bytes or any(unicodedata.category(c) == "Cc" for c in text):
            raise ValueError(allowed)
        return text

    return parse


def _address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
        if not re.fullmatch(r"[\w.:-]+(%[\w.-]{1,15})?", text, re.ASCII):
            raise ValueError
    except ValueError as error:
        raise ValueError("an IPv4 or IPv6 address, for example ::, 0.0.0.0 or 127.0.0.1") from error
    return str(address)


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    allowed = f"a whole number from {least}" + (" on" if most is None else f" to {most}")

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise ValueError(allowed)
        if int(text) < least or (most is not None and int(text) > most):
            raise ValueError(allowed)
        return int(text)

    return parse


def _seconds(text: str) -> float:
    if not (_NUMBER.fullmatch(text) and float(text) <= MAX_DRAIN_SECONDS):
        raise ValueError(f"a number of seconds from 0 to {MAX_DRAIN_SECONDS}")
    return float(text)


def _time_limit(text: str) -> float | None:
    if text == "none":
        return None
    if not (_NUMBER.fullmatch(text) and 0 < float(text) <= MAX_TIME_LIMIT):
        raise ValueError(f"a number of seconds over 0, {MAX_TIME_LIMIT} at most, or none")
    return float(text)


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return text

    return parse


def _or_auto(parse: Callable[[str], int]) -> Callable[[str], int | None]:
    def parse_or_auto(text: str) -> int | None:
        try:
            return None if text == "auto" else parse(text)
        except ValueError as error:
            raise ValueError(f"{error}, or auto") from error

    return parse_or_auto


# The table.


def _row(parse: Callable[[str], Any], default: str | None, metavar: str, text: str) -> Any:
    metadata = {"parse": parse, "default": default, "metavar": metavar, "help": text}
    return field(metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that can be set. Times are in seconds, sizes in bytes, ``None`` is "no"."""

    ports: tuple[int, ...] = _row(
        _ports, None, "PORTS", "echo ports, separated by commas; 0 takes any free one"
    )
    prefix: str = _row(
        _text(MAX_PREFIX_BYTES), None, "PREFIX", "what every reply begins with, before one space"
    )
    address: str = _row(
        _address,
        "::",
        "ADDRESS",
        "address of the echo ports; :: serves IPv6 and IPv4, and IPv4 alone where IPv6 is missing",
    )
    metrics_address: str = _row(
        _address, "::", "ADDRESS", "address of the metrics port, like --address"
    )
    metrics_port: int | None = _row(
        _metrics_port,
        "9464",
        "PORT",
        "port of /metrics, /livez and /readyz; 0 takes any free one, none turns it off",
    )
    service_version: str | None = _row(
        _text(MAX_VERSION_BYTES),
        "",
        "VERSION",
        "value of the label version on every metric; without it there is no such label",
    )
    max_line_bytes: int = _row(
        _whole(1), "1048576", "BYTES", "longest line, without its newline; a longer one ends it"
    )
    max_connections: int = _row(
        _whole(1), "10000", "N", "connections on all ports together; more are closed at once"
    )
    max_buffered_bytes: int = _row(
        _whole(1),
        "67108864",
        "BYTES",
        "unfinished lines and unsent replies of all clients together;"
        " the connection that would pass it ends",
    )
    idle_timeout: float | None = _row(
        _time_limit, "3600", "SECONDS", "longest time without a byte in or out; none: no limit"
    )
    write_timeout: float | None = _row(
        _time_limit, "30", "SECONDS", "longest time without progress of a due reply; none: no limit"
    )
    max_connection_age: float | None = _row(
        _time_limit,
        "none",
        "SECONDS",
        "age at which a connection ends after a reply, spread by 10 %; none: no limit",
    )
    drain_delay: float = _row(
        _seconds, "0", "SECONDS", "after SIGTERM: time to be not ready, yet go on accepting"
    )
    drain_timeout: float = _row(
        _seconds, "4", "SECONDS", "after the delay: time for clients to take what is due to them"
    )
    handler_threads: int | None = _row(
        _or_auto(_whole(1, MAX_HANDLER_THREADS)),
        "auto",
        "N",
        "threads that serve connections; auto: 1, and one a CPU on builds without a GIL",
    )
    log_level: str = _row(
        _one_of("debug", "info", "warning", "error"),
        "info",
        "LEVEL",
        "debug (every line), info (every connection), warning or error",
    )
    log_format: str = _row(
        _one_of("auto", "console", "json"),
        "auto",
        "FORMAT",
        "console, json, or auto: console on a terminal, json otherwise",
    )
    given: frozenset[str] = frozenset()  # names of the fields that were set, not defaulted


@dataclass(frozen=True)
class Option:
    """One row of the table, as a user sees it. An empty default leaves the value out."""

    name: str
    parse: Callable[[str], Any]
    default: str | None
    metavar: str
    help: str

    @property
    def positional(self) -> bool:
        """PORTS and PREFIX: arguments without a flag, and without a default."""
        return self.default is None

    @property
    def flag(self) -> str:
        """``--max-line-bytes``, or PORTS."""
        return self.metavar if self.positional else "--" + self.name.replace("_", "-")

    @property
    def environment(self) -> str:
        """``ECHOD_MAX_LINE_BYTES``."""
        return "ECHOD_" + self.name.upper()

    def read(self, source: str, text: str) -> Any:
        """The value of ``text``, or UsageError naming its source, itself and what is allowed."""
        try:
            return self.parse(text)
        except ValueError as error:
            raise UsageError(f"{source} {_shown(text)}: must be {error}") from error


OPTIONS = tuple(
    Option(name=row.name, **row.metadata) for row in fields(Config) if "parse" in row.metadata
)


def load(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Config:
    """The configuration of a call: flags first, then the environment, then the defaults.

    An empty environment variable counts as not set. Raises UsageError.
    """
    values: dict[str, Any] = {}
    given = set()
    for option in OPTIONS:
        values[option.name], set_by_user = _find(option, flags.get(option.name), environ)
        if set_by_user:
            given.add(option.name)
    config = Config(**values, given=frozenset(given))
    if config.metrics_port and config.metrics_port in config.ports:
        raise UsageError(
            f"PORTS {config.metrics_port}: must differ from the metrics port"
            " (--metrics-port takes another one, or none)"
        )
    return config


def setting(name: str, flag: str | None, environ: Mapping[str, str]) -> Any:
    """One value alone, found the way ``load`` finds it. Raises UsageError."""
    option = next(option for option in OPTIONS if option.name == name)
    return _find(option, flag, environ)[0]


def _find(option: Option, flag: str | None, environ: Mapping[str, str]) -> tuple[Any, bool]:
    """An option's value, and whether the user has set it."""
    if flag is not None:
        return option.read(option.flag, flag), True
    if variable := environ.get(option.environment):
        return option.read(option.environment, variable), True
    if option.default is None:
        raise UsageError(f"{option.flag} is missing: give it, or set {option.environment}")
    return (option.parse(option.default) if option.default else None), False


def _shown(text: str) -> str:
    """A value as an error may show it: quoted, without control characters, not too long."""
    shown = ascii(text[:101])
    return shown if len(shown) <= 102 else shown[:98] + "...'"
