"""Where samples go: a connection, a line on it, the prefix of its reply, and what may fail."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import NamedTuple, Protocol

from echod.errors import SystemRefused
from echod.texts import decoded

MAX_REPLY_BYTES = 16 * 1024
"""A reply without its newline in so many bytes is none."""

LOCAL = {
    errno.EMFILE: "no free file descriptor",
    errno.ENFILE: "no free file descriptor on this host",
    errno.ENOBUFS: "no memory for sockets",
    errno.ENOMEM: "no memory for sockets",
    errno.EADDRNOTAVAIL: "no free local port, or not an address of this host",
    errno.EACCES: "not allowed on this host",
    errno.EPERM: "not allowed on this host",
    errno.EAFNOSUPPORT: "no such family of addresses on this host",
}
"""Errors that say nothing of the target."""

_LOCAL_LOOK_UP = {
    getattr(socket, name)
    for name in ("EAI_SYSTEM", "EAI_MEMORY", "EAI_FAMILY", "EAI_ADDRFAMILY")
    if hasattr(socket, name)
}
"""Errors of a look-up that say nothing of the name: the last two, that -4 or -6 forbids it."""

_BEFORE_BIND = [(socket.IPPROTO_IP, 24, 1)] if sys.platform == "linux" else []
"""IP_BIND_ADDRESS_NO_PORT: the port is chosen when the target is known, of many more."""

Address = tuple[int, tuple[object, ...]]
"""A family and a socket address."""


class Failed(Exception):
    """A sample without a reply of its own: the kind of failure, and what was seen."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        self.address = ""  # that was tried, if one was


class Reply(NamedTuple):
    """The version that has answered, and when its reply was complete, on the monotonic clock."""

    version: str
    at: float


class Service(Protocol):
    """What is said on a connection. Times are on the monotonic clock."""

    def open(self, connection: socket.socket, deadline: float) -> socket.socket:
        """What to speak on, in the connection's place. Raises Failed and SystemRefused."""

    def ask(self, channel: socket.socket, payload: bytes, deadline: float) -> Reply:
        """Asks once for the version. Raises Failed and SystemRefused."""

    def leave(self, channel: socket.socket, deadline: float) -> None:
        """Says farewell before the channel is closed."""


class Echo:
    """A line, and its reply behind a prefix that names the version."""

    def open(self, connection: socket.socket, _deadline: float) -> socket.socket:
        """The connection itself."""
        return connection

    def ask(self, channel: socket.socket, payload: bytes, deadline: float) -> Reply:
        """Sends a line. Raises Failed and SystemRefused."""
        return Reply(decoded(ask(channel, payload, deadline)), monotonic())

    def leave(self, _channel: socket.socket, _deadline: float) -> None:
        """Nothing is to be said."""


class Target:
    """Where connections go. ``timeout`` (seconds) is for each sample as a whole.

    A name is looked up once, and its first address that answers is taken. With ``afresh`` it is
    looked up for each sample, and each sample tries one address alone, the next one in turn.
    """

    def __init__(
        self,
        host: str,
        port: int,
        timeout: float,
        *,
        family: int = socket.AF_UNSPEC,
        sources: Sequence[str] = (),
        afresh: bool = False,
        service: Service | None = None,
    ) -> None:
        self.service = service or Echo()
        self.host = host
        self.port = port
        self.timeout = timeout
        self.afresh = afresh
        self.sources = sources
        self.found = 0  # addresses of the name, the last time that it was looked up
        self.taken: Address | None = None
        self._family = family
        self._known: list[Address] = []
        self._choosing = Lock()

    def __str__(self) -> str:
        """As it was given: ``[::1]:9000``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def connect(self, number: int, deadline: float) -> socket.socket:
        """A connection for a sample with this number. Raises Failed, or SystemRefused for what is
        not the target's doing.
        """
        if self.afresh:
            found = sorted(self._look_up(), key=str)
            self.found = len(found)
            turn, place = divmod(number, len(found))
            return self._connect(found[place], self._source(turn), deadline)
        taken = self.taken  # once: it may be forgotten meanwhile
        if not taken:
            if not self._choosing.acquire(timeout=max(0.0, deadline - monotonic())):
                raise Failed("timeout", "no answer in time")
            try:
                taken = self.taken
                if not taken:
                    return self._choose(self._source(number), deadline)
            finally:
                self._choosing.release()
        return self._connect(taken, self._source(number), deadline)

    def forget(self) -> None:
        """Has the next sample look the name up again, and choose among its addresses."""
        self._known, self.taken = [], None

    def _source(self, number: int) -> str | None:
        return self.sources[number % len(self.sources)] if self.sources else None

    def _choose(self, source: str | None, deadline: float) -> socket.socket:
        """A connection to the first address that answers, which is then the target's."""
        self._known = known = self._known or self._look_up()
        self.found = len(known)
        refused: SystemRefused | None = None
        failed: Failed | None = None
        for left, address in zip(range(len(known), 0, -1), known, strict=True):
            # Each address has its part of the time, or one that is silent would take it all.
            share = monotonic() + (deadline - monotonic()) / left
            try:
                connection = self._connect(address, source, share)
            except Failed as error:
                failed = error
            except SystemRefused as error:
                refused = error
            else:
                self.taken = address
                return connection
        raise refused or failed or Failed("name not found", "")

    def _look_up(self) -> list[Address]:
        try:
            found = socket.getaddrinfo(self.host, self.port, self._family, socket.SOCK_STREAM)
        except UnicodeError as error:
            raise Failed("name not found", str(error)) from error
        except OSError as error:
            if isinstance(error, socket.gaierror) and error.errno not in _LOCAL_LOOK_UP:
                raise Failed("name not found", error.strerror or "") from error
            raise _refusal(error) from error
        return list(dict.fromkeys((family, address) for family, _, _, _, address in found))

    def _connect(self, address: Address, source: str | None, deadline: float) -> socket.socket:
        family, place = address
        made = None
        try:
            made = socket.socket(family, socket.SOCK_STREAM)
            if source is not None:
                self._bind(made, source)
            made.settimeout(left(deadline))
            made.connect(place)
        except (OSError, SystemRefused) as error:
            if made:
                made.close()
            raised = failure(error) if isinstance(error, OSError) else error
            if isinstance(raised, Failed):
                raised.address = str(place[0])
            raise raised from error
        return made

    @staticmethod
    def _bind(made: socket.socket, source: str) -> None:
        for option in _BEFORE_BIND:
            with suppress(OSError):  # without it there are fewer ports to choose from
                made.setsockopt(*option)
        try:
            # Not as it is: its zone would be lost.
            numeric = socket.AI_NUMERICHOST
            found = socket.getaddrinfo(source, 0, made.family, socket.SOCK_STREAM, flags=numeric)
            made.bind(found[0][4])
        except OSError as error:
            raise _refusal(error, f"cannot connect from {source}") from error


def failure(error: OSError) -> Failed | SystemRefused:
    """What an error of a socket comes to."""
    if error.errno in LOCAL:
        return _refusal(error)
    if isinstance(error, TimeoutError):
        return Failed("timeout", "no answer in time")
    if isinstance(error, ConnectionRefusedError):
        return Failed("refused", "connection refused")
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return Failed("reset", "connection reset")
    return Failed("unreachable", error.strerror or type(error).__name__)


def _refusal(error: OSError, otherwise: str = "this host failed") -> SystemRefused:
    known = LOCAL.get(error.errno or 0, otherwise)
    return SystemRefused(f"{known} ({error.strerror or error})")


def peer(connection: socket.socket) -> str:
    """The address that a connection goes to; empty if it is gone already."""
    try:
        return str(connection.getpeername()[0])
    except OSError:
        return ""


def left(deadline: float) -> float:
    """Seconds until then. Raises TimeoutError when it has passed."""
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def ask(
    connection: socket.socket,
    payload: bytes,
    deadline: float,
    failed: Callable[[OSError], Failed | SystemRefused] = failure,
) -> bytes:
    """Sends a line and gives the prefix of its reply. Raises Failed, and what ``failed`` makes of
    an error.
    """
    reply = b""
    try:
        connection.sendall(payload + b"\n")
        while b"\n" not in reply and len(reply) < MAX_REPLY_BYTES:
            connection.settimeout(left(deadline))
            piece = connection.recv(MAX_REPLY_BYTES)
            if not piece:
                break
            reply += piece
    except OSError as error:
        raise failed(error) from error
    line, newline, _ = reply.partition(b"\n")
    if newline and line.endswith(b" " + payload):
        return line[: -len(payload) - 1]
    if newline or len(reply) >= MAX_REPLY_BYTES:
        raise Failed("wrong reply", f"not a prefix and the line that was sent: {line[:60]!r}")
    raise Failed("closed", f"closed before a reply{f', after {line[:60]!r}' if line else ''}")
