"""The target of samples: connecting, sending a line, reading the prefix, and the failures."""

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
from echod.texts import decoded, joined

MAX_REPLY_BYTES = 16 * 1024
"""Maximum bytes of a reply, including its newline."""

LEAST_LOOK_UP_SECONDS = 1.0
"""Minimum time from a failed look-up to the next one, in runs that wait for their target."""

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
"""Errors that this host causes, not the target."""

_LOCAL_LOOK_UP = {
    getattr(socket, name)
    for name in ("EAI_SYSTEM", "EAI_MEMORY", "EAI_FAMILY", "EAI_ADDRFAMILY")
    if hasattr(socket, name)
}
"""Look-up errors that this host causes, not the name. The last two mean that -4 or -6 excludes
the name's addresses."""

_BEFORE_BIND = [(socket.IPPROTO_IP, 24, 1)] if sys.platform == "linux" else []
"""IP_BIND_ADDRESS_NO_PORT: the port is chosen at the connect, when more ports are available."""

Address = tuple[int, tuple[object, ...]]
"""A family and a socket address."""


class Failed(Exception):
    """A sample without the right reply: the kind of failure, and details."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        self.address = ""  # the address that was tried, if any


class Reply(NamedTuple):
    """The version that answered, and when its reply was complete (monotonic seconds)."""

    version: str
    at: float


class Service(Protocol):
    """The conversation on a connection. Times are in monotonic seconds."""

    def open(self, connection: socket.socket, deadline: float) -> socket.socket:
        """The channel to use instead of the connection. Raises Failed and SystemRefused."""

    def ask(self, channel: socket.socket, payload: bytes, deadline: float) -> Reply:
        """Ask once for the version. Raises Failed and SystemRefused."""

    def leave(self, channel: socket.socket, deadline: float) -> None:
        """Say farewell, before the channel is closed."""


class Echo:
    """A line, and its reply behind a prefix that names the version."""

    def open(self, connection: socket.socket, _deadline: float) -> socket.socket:
        """The connection itself."""
        return connection

    def ask(self, channel: socket.socket, payload: bytes, deadline: float) -> Reply:
        """Send a line. Raises Failed and SystemRefused."""
        return Reply(decoded(ask(channel, payload, deadline)), monotonic())

    def leave(self, _channel: socket.socket, _deadline: float) -> None:
        """Do nothing."""


class Target:
    """Where connections go. ``timeout`` (seconds) is for each sample as a whole.

    A name is resolved once, and its first address that answers is used. With ``afresh`` it is
    resolved for each sample, and each sample tries one address only, the next one in turn. If a
    name that is resolved once is not found, the samples of the next ``rest`` seconds fail without
    another look-up.
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
        rest: float = 0.0,
    ) -> None:
        self.service = service or Echo()
        self.host = host
        self.port = port
        self.timeout = timeout
        self.afresh = afresh
        self.sources = sources
        self.found = 0  # number of addresses in the last look-up of the name
        self.taken: Address | None = None
        self._family = family
        self._known: list[Address] = []
        self._choosing = Lock()
        self._rest = rest
        self._not_found: tuple[float, Failed | SystemRefused] | None = None
        """The last failed look-up, and the time until which it counts (monotonic seconds)."""

    def __str__(self) -> str:
        """The target as given: ``[::1]:9000``."""
        return joined(self.host, self.port)

    @property
    def taken_address(self) -> str:
        """The address that samples go to; empty before the first connection."""
        taken = self.taken  # read once: another thread may call choose_again
        return str(taken[1][0]) if taken else ""

    def connect(self, number: int, deadline: float) -> socket.socket:
        """A connection for the sample with this number. Raises Failed, or SystemRefused if this
        host caused the failure.
        """
        if self.afresh:
            found = sorted(self._look_up(), key=str)
            self.found = len(found)
            turn, place = divmod(number, len(found))
            return self._connect(found[place], self._source(turn), deadline)
        taken = self.taken  # read once: another thread may call choose_again
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

    def choose_again(self) -> None:
        """Have the next sample choose again among the known addresses."""
        self.taken = None

    def renew(self) -> None:
        """Look the name up again. An address that is taken stays taken if the name still has it.

        Does nothing before a sample has found the name. Raises Failed and SystemRefused; then the
        addresses found before stay known.
        """
        if not self._known:
            return
        known = self._look_up()
        with self._choosing:
            self._known, self.found = known, len(known)
            if self.taken not in known:
                self.taken = None

    def _source(self, number: int) -> str | None:
        return self.sources[number % len(self.sources)] if self.sources else None

    def _choose(self, source: str | None, deadline: float) -> socket.socket:
        """A connection to the first address that answers, which is then the target's."""
        self._known = known = self._known or self._first_look_up()
        self.found = len(known)
        refused: SystemRefused | None = None
        failed: Failed | None = None
        for left, address in zip(range(len(known), 0, -1), known, strict=True):
            # Each address gets its part of the time: a silent one would use up all of it.
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
        if failed and len(known) > 1:
            detail = f"{failed.detail} at {failed.address}, the last of {len(known):,} addresses"
            failed = Failed(failed.kind, detail)  # no single address is to blame
        raise refused or failed or Failed("name not found", "")

    def _first_look_up(self) -> list[Address]:
        """The addresses of the name. A failure counts for samples that follow, too."""
        if self._not_found and monotonic() < self._not_found[0]:
            raise self._not_found[1].with_traceback(None)
        try:
            return self._look_up()
        except (Failed, SystemRefused) as error:
            self._not_found = monotonic() + self._rest, error
            raise

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
            # Resolved first: bind() would drop its zone.
            numeric = socket.AI_NUMERICHOST
            found = socket.getaddrinfo(source, 0, made.family, socket.SOCK_STREAM, flags=numeric)
            made.bind(found[0][4])
        except OSError as error:
            raise _refusal(error, f"cannot connect from {source}") from error


def failure(error: OSError) -> Failed | SystemRefused:
    """The failed sample, or the refusal of this host, that an error of a socket means."""
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
    """The address of a connection's peer; empty if the connection has ended."""
    try:
        return str(connection.getpeername()[0])
    except OSError:
        return ""


def left(deadline: float) -> float:
    """Seconds until the deadline. Raises TimeoutError if it has passed."""
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
    """Send a line; return the prefix of its reply. Raises Failed, and what ``failed`` returns for
    an OSError.
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
