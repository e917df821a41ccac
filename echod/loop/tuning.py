"""Optional socket options: each is tried, and reported if the kernel refuses it."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import NamedTuple

UNSENT_BYTES = 128 * 1024
"""Unsent reply bytes that the kernel buffers per client. By default it buffers 2.7 MB, in 3.8 MB of
kernel memory. echod's limits do not count that memory, but a container's memory limit does."""

_FOUND_LATE = "clients that vanish are detected late, at the latest by --idle-timeout"


class Refusal(NamedTuple):
    """An option that the kernel refused for a socket: the error, and the effect of its absence."""

    option: str
    error: str
    effect: str


class Option(NamedTuple):
    """An option by its name in ``socket``; ``effect`` describes its absence."""

    name: str
    level: int
    value: int
    effect: str

    def set_on(self, target: socket.socket) -> Refusal | None:
        """Try to set it; return the refusal, if any."""
        try:
            target.setsockopt(self.level, getattr(socket, self.name), self.value)
        except OSError as error:
            return Refusal(self.name, error.strerror or str(error), self.effect)
        return None

    def holds_on(self, target: socket.socket) -> bool:
        """Whether a socket reports that it has this option already."""
        try:
            value = target.getsockopt(self.level, getattr(socket, self.name))
        except OSError:
            return False
        return value == self.value or (self.value == 1 and value != 0)  # BSD gives the flag's bit


_OPTIONS = (
    Option("TCP_NODELAY", socket.IPPROTO_TCP, 1, "Nagle's algorithm may delay replies"),
    Option("SO_KEEPALIVE", socket.SOL_SOCKET, 1, _FOUND_LATE),
    # A dead peer is found after 60 s + 6 * 10 s.
    Option("TCP_KEEPIDLE", socket.IPPROTO_TCP, 60, _FOUND_LATE),
    Option("TCP_KEEPALIVE", socket.IPPROTO_TCP, 60, _FOUND_LATE),  # its name on macOS
    Option("TCP_KEEPINTVL", socket.IPPROTO_TCP, 10, _FOUND_LATE),
    Option("TCP_KEEPCNT", socket.IPPROTO_TCP, 6, _FOUND_LATE),
    Option(
        "TCP_NOTSENT_LOWAT",
        socket.IPPROTO_TCP,
        UNSENT_BYTES,
        "the kernel may buffer megabytes of replies for a client that does not read",
    ),
)
_BOTH_FAMILIES = Option(
    "IPV6_V6ONLY", socket.IPPROTO_IPV6, 0, ":: serves IPv6 clients alone (0.0.0.0 serves IPv4)"
)


class Tuning:
    """The options of a listener. On most systems accepted sockets inherit them.

    ``by_hand`` are the options that accepted sockets may lack: at first all of them, and once an
    accepted socket was examined, those that it had not inherited.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.by_hand = tuple(option for option in _OPTIONS if hasattr(socket, option.name))
        self.refused = [refusal for option in self.by_hand if (refusal := option.set_on(listener))]
        # An MPTCP listener accepts some clients on plain TCP sockets, which inherit less.
        self._alike = _protocol(listener) == socket.IPPROTO_TCP

    def pass_on(self, accepted: socket.socket) -> None:
        """Set the options that an accepted socket has not inherited."""
        missing = tuple(option for option in self.by_hand if not option.holds_on(accepted))
        for option in missing:
            option.set_on(accepted)
        if self._alike:
            self.by_hand = missing


def serve_both_families(listener: socket.socket) -> Refusal | None:
    """Let an IPv6 socket that is about to be bound to ``::`` accept IPv4 clients too."""
    refusal = _BOTH_FAMILIES.set_on(listener)
    if refusal and _BOTH_FAMILIES.holds_on(listener):
        return refusal._replace(effect=":: still serves IPv4 clients")
    return refusal


def summed_up(refusals: Iterable[Refusal]) -> dict[str, str]:
    """The refusals of several sockets, as the fields of one log event; empty if there are none."""
    options: dict[str, None] = {}  # as sets that keep their order
    errors: dict[str, None] = {}
    effects: dict[str, None] = {}
    for option, error, effect in refusals:
        options[option] = errors[error] = effects[effect] = None
    if not options:
        return {}
    return {
        "options": ", ".join(options),
        "error": "; ".join(errors),
        "effect": "; ".join(effects),
    }


def _protocol(listener: socket.socket) -> int:
    """The protocol as the kernel reports it. mptcpize changes it behind ``listener.proto``."""
    try:
        return listener.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    except (AttributeError, OSError):  # not on this system
        return listener.proto
