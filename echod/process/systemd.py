"""systemd: inherited sockets, notifications and the watchdog.

The parts of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3) that echod needs.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from echod.config.options import OPTIONS, Config
from echod.errors import SystemRefused, UsageError, shown
from echod.loop.listeners import Listener, inherit, normalized
from echod.texts import encoded

FIRST_DESCRIPTOR = 3
NOTIFY_SECONDS = 0.05
"""Maximum wait for a service manager that does not read notifications. It delays signals too."""


@dataclass(frozen=True)
class InheritedSockets:
    """The listening sockets that the process has inherited, by their names."""

    echo: Sequence[Listener] = ()
    metrics: Sequence[Listener] = ()  # one at most
    ignored: str = ""  # why there are none, although LISTEN_FDS names some

    def complete(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment, with the ports of these sockets unless it sets ports itself."""
        ports = {
            "ECHOD_PORTS": _listed(listener.port for listener in self.echo),
            "ECHOD_METRICS_PORT": _listed(listener.port for listener in self.metrics),
        }
        return ports | {name: value for name, value in environ.items() if value}

    def check(self, config: Config) -> None:
        """Raise UsageError if the user's ports or addresses differ from those of the sockets."""
        have: dict[str, list[object]] = {
            "ports": [listener.port for listener in self.echo],
            "address": [listener.host for listener in self.echo],
            "metrics_port": [listener.port for listener in self.metrics],
            "metrics_address": [listener.host for listener in self.metrics],
        }
        for option in OPTIONS:
            inherited, value = have.get(option.name), getattr(config, option.name)
            given = value if isinstance(value, tuple) else [value]
            if not inherited or option.name not in config.given:
                continue
            if set(map(_comparable, given)) != set(map(_comparable, inherited)):
                raise UsageError(
                    f"{option.flag} {_listed(given)}: must match the inherited sockets"
                    f" ({_listed(inherited)}), or be omitted"
                )

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Add ignored sockets to the text of an error, since they may be its cause: ports are
        missing, or in use.
        """
        try:
            yield
        except (UsageError, SystemRefused) as error:
            if not self.ignored:
                raise
            raise type(error)(f"{error}; inherited sockets ignored: {self.ignored}") from error


def inherited_sockets(environ: Mapping[str, str]) -> InheritedSockets:
    """The sockets named ``echo`` and ``metrics`` that this process has inherited.

    None unless LISTEN_PID names this process. Raises UsageError if one of them is not a listening
    TCP socket, SystemRefused if one cannot be used.
    """
    count = environ.get("LISTEN_FDS") or "0"
    if count == "0":
        return InheritedSockets()
    if stranger := _meant_for_another(environ, "LISTEN_PID"):
        return InheritedSockets(ignored=stranger)
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    if count != str(len(names)) or not {"echo", "metrics"}.issuperset(names):
        raise UsageError(
            f"LISTEN_FDNAMES {shown(':'.join(names))}: must name each inherited socket (LISTEN_FDS:"
            f" {shown(count)}) echo or metrics; set FileDescriptorName= in its socket unit"
        )
    listeners = [inherit(descriptor) for descriptor, _ in enumerate(names, FIRST_DESCRIPTOR)]
    echo = [listener for listener, name in zip(listeners, names, strict=True) if name == "echo"]
    metrics = [listener for listener in listeners if listener not in echo]
    if len({listener.port for listener in echo}) != len(echo) or len(metrics) > 1:
        raise UsageError(
            f"inherited sockets {_listed(each.address for each in listeners)}: must be one for"
            " each echo port, and at most one for metrics"
        )
    return InheritedSockets(echo, metrics)


class ServiceManager:
    """The service manager that started echod, if NOTIFY_SOCKET or WATCHDOG_USEC are set."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Raises UsageError if WATCHDOG_USEC is not a number of microseconds."""
        self.address = environ.get("NOTIFY_SOCKET", "")
        self.watchdog_seconds: float | None = None
        self.watchdog_ignored = ""  # why echod does not notify it, although WATCHDOG_USEC is set
        wanted = environ.get("WATCHDOG_USEC", "")
        if wanted and environ.get("WATCHDOG_PID"):
            self.watchdog_ignored = _meant_for_another(environ, "WATCHDOG_PID")
        if wanted and not self.watchdog_ignored:
            if not (wanted.isascii() and wanted.isdigit() and len(wanted) <= 18 and int(wanted)):
                raise UsageError(f"WATCHDOG_USEC {shown(wanted)}: must be a number of microseconds")
            self.watchdog_seconds = int(wanted) / 1e6

    def notify(self, *assignments: str) -> None:
        """Send assignments such as ``READY=1``. Raises OSError if they cannot be delivered."""
        if self.address:
            target = "\0" + self.address[1:] if self.address[0] == "@" else self.address
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(NOTIFY_SECONDS)
                sender.sendto("\n".join(assignments).encode(), encoded(target))


def _meant_for_another(environ: Mapping[str, str], name: str) -> str:
    """Why systemd's variables are not meant for this process; empty if they are."""
    meant, own = environ.get(name, ""), str(os.getpid())
    if meant == own:
        return ""
    return f"{name} {shown(meant)} is not this process, {own}: a wrapper script must exec echod"


def _comparable(value: object) -> object:
    """A port unchanged, or an address in its normal form."""
    return normalized(value) if isinstance(value, str) else value


def _listed(values: Iterable[object]) -> str:
    return ",".join("none" if value is None else str(value) for value in values)
