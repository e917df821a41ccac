"""The configuration: one table for flags, environment names, help and defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from echod.config import parsers
from echod.errors import UsageError, shown

MAX_PREFIX_BYTES = 1024
MAX_VERSION_BYTES = 128
MAX_HANDLER_THREADS = 256


EPILOG = """\
commands:
  echod serve PORTS PREFIX  the same as echod PORTS PREFIX
  echod health              check the readiness of an echod on this host
  echod probe HOST:PORT     verify how a proxy or mesh splits connections between versions
  echod lab                 run the traffic shifting exercise on this machine, behind a real Envoy

Each option has an environment variable, shown in brackets. The command line takes precedence.
"""
"""The end of ``--help``, after the options."""


# The table.


def _row(parse: Callable[[str], Any], default: str | None, metavar: str, text: str) -> Any:
    metadata = {"parse": parse, "default": default, "metavar": metavar, "help": text}
    return field(metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings. Times are in seconds, sizes in bytes; ``None`` means off or automatic."""

    ports: tuple[int, ...] = _row(
        parsers.ports, None, "PORTS", "echo ports, separated by commas; 0 takes any free port"
    )
    prefix: bytes = _row(
        parsers.raw(MAX_PREFIX_BYTES),
        None,
        "PREFIX",
        "text before each echoed line, followed by one space",
    )
    address: str = _row(
        parsers.address,
        "::",
        "ADDRESS",
        "address of the echo ports; :: serves IPv6 and IPv4, or IPv4 alone where IPv6 is missing",
    )
    metrics_address: str = _row(
        parsers.address, "::", "ADDRESS", "address of the metrics port, like --address"
    )
    metrics_port: int | None = _row(
        parsers.metrics_port,
        "9464",
        "PORT",
        "port of /metrics, /livez and /readyz; 0 takes any free port, none turns it off",
    )
    service_version: str | None = _row(
        parsers.text(MAX_VERSION_BYTES),
        "",
        "VERSION",
        "value of the version label on every metric; if empty, metrics have no such label",
    )
    max_line_bytes: int = _row(
        parsers.whole(1),
        "1048576",
        "BYTES",
        "maximum line length in bytes, excluding the newline; longer lines close the connection",
    )
    max_connections: int = _row(
        parsers.whole(1),
        "10000",
        "N",
        "maximum number of connections on all ports; further connections are closed at once",
    )
    max_buffered_bytes: int = _row(
        parsers.whole(1),
        "67108864",
        "BYTES",
        "maximum bytes of unfinished lines and unsent replies, all clients together;"
        " a connection that would exceed it is closed",
    )
    idle_timeout: float = _row(
        parsers.time_limit,
        "3600",
        "SECONDS",
        "close the connection after this many seconds without data in or out; none: no limit",
    )
    write_timeout: float = _row(
        parsers.time_limit,
        "30",
        "SECONDS",
        "reset the connection if a pending reply makes no progress for this many seconds;"
        " none: no limit",
    )
    max_connection_age: float = _row(
        parsers.time_limit,
        "none",
        "SECONDS",
        "close the connection after its first reply past this age in seconds, spread by 10 %;"
        " none: no limit",
    )
    drain_delay: float = _row(
        parsers.seconds,
        "0",
        "SECONDS",
        "seconds to keep accepting after SIGTERM while /readyz returns 503",
    )
    drain_timeout: float = _row(
        parsers.seconds,
        "4",
        "SECONDS",
        "seconds for clients to receive pending replies before they are cut off",
    )
    handler_threads: int | None = _row(
        parsers.or_auto(parsers.whole(1, MAX_HANDLER_THREADS)),
        "auto",
        "N",
        "threads that serve connections; auto: 1, or one per CPU on Python builds without a GIL",
    )
    log_level: str = _row(
        parsers.one_of("debug", "info", "warning", "error", warn="warning"),
        "info",
        "LEVEL",
        "debug (every line), info (every connection with data), warning or error",
    )
    log_format: str = _row(
        parsers.one_of("auto", "console", "json"),
        "auto",
        "FORMAT",
        "console, json, or auto: console on a terminal, json otherwise",
    )
    given: frozenset[str] = frozenset()  # names of the fields that the user has set
    colors: bool = True  # on a terminal


@dataclass(frozen=True)
class Option:
    """One row of the table, as a user sees it. With an empty default the value is None."""

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
        """The name on the command line: ``--max-line-bytes``, or PORTS."""
        return self.metavar if self.positional else "--" + self.name.replace("_", "-")

    @property
    def environment(self) -> str:
        """The environment variable: ``ECHOD_MAX_LINE_BYTES``."""
        return "ECHOD_" + self.name.upper()

    def of(self, text: str | None) -> Any:
        """The value from the command line's ``text``, or the default. Raises UsageError."""
        if text is not None:
            return self.read(self.flag, text)
        return self.parse(self.default) if self.default else None

    def read(self, source: str, text: str) -> Any:
        """The value of ``text``. Raises UsageError, naming source, text and what is allowed."""
        try:
            return self.parse(text)
        except ValueError as error:
            raise UsageError(f"{source} {shown(text)}: must be {error}") from error


OPTIONS = tuple(
    Option(name=row.name, **row.metadata) for row in fields(Config) if "parse" in row.metadata
)


def load(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Config:
    """The configuration: from flags, else from the environment, else from the defaults.

    An empty environment variable counts as not set. Raises UsageError.
    """
    values: dict[str, Any] = {}
    given = set()
    for option in OPTIONS:
        values[option.name], set_by_user = _find(option, flags.get(option.name), environ)
        if set_by_user:
            given.add(option.name)
    config = Config(**values, given=frozenset(given), colors=colors_wanted(environ))
    if config.metrics_port and config.metrics_port in config.ports:
        raise UsageError(
            f"PORTS {config.metrics_port}: must differ from the metrics port"
            " (set --metrics-port to another port, or to none)"
        )
    return config


def colors_wanted(environ: Mapping[str, str]) -> bool:
    """Whether a terminal may get colors: not with NO_COLOR (https://no-color.org) or TERM=dumb."""
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def setting(name: str, flag: str | None, environ: Mapping[str, str]) -> Any:
    """The value of one option, found as in ``load``. Raises UsageError."""
    option = next(option for option in OPTIONS if option.name == name)
    return _find(option, flag, environ)[0]


def _find(option: Option, flag: str | None, environ: Mapping[str, str]) -> tuple[Any, bool]:
    """An option's value, and whether the user has set it."""
    if flag is not None:
        return option.of(flag), True
    if variable := environ.get(option.environment):
        return option.read(option.environment, variable), True
    if option.default is None:
        raise UsageError(f"{option.flag} is missing: give it, or set {option.environment}")
    return option.of(None), False
