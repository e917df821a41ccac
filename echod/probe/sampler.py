"""Samples: one connection, one line, one reply each, from several threads at once."""

from __future__ import annotations

import errno
import math
import secrets
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition, Thread
from time import monotonic

from echod.config import SystemRefused
from echod.probe.tally import Outcome, Tally

PATIENCE = 20
"""Failures, beyond those that are allowed, after which a run gives up."""

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


@dataclass(frozen=True)
class Target:
    """Where connections go. ``timeout`` (seconds) is for each sample as a whole."""

    host: str
    port: int
    timeout: float
    family: int = socket.AF_UNSPEC
    source: str | None = None
    afresh: bool = False
    """Whether the name is looked up for each sample."""
    known: list[Address] = field(default_factory=list, compare=False)

    def __str__(self) -> str:
        """As it was given: ``[::1]:9000``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def connect(self, deadline: float) -> socket.socket:
        """A connection. Raises Failed, or SystemRefused for what is not the target's doing."""
        *others, last = self.known or self._look_up()
        for address in others:
            with suppress(Failed, SystemRefused):
                return self._connect(address, deadline)
        return self._connect(last, deadline)

    def _look_up(self) -> list[Address]:
        try:
            found = socket.getaddrinfo(self.host, self.port, self.family, socket.SOCK_STREAM)
        except UnicodeError as error:
            raise Failed("name not found", str(error)) from error
        except socket.gaierror as error:
            if error.errno in (socket.EAI_SYSTEM, socket.EAI_MEMORY):
                raise _refusal(error) from error
            raise Failed("name not found", error.strerror or "") from error
        return [(family, address) for family, _, _, _, address in found]

    def _connect(self, address: Address, deadline: float) -> socket.socket:
        family, place = address
        made = None
        try:
            made = socket.socket(family, socket.SOCK_STREAM)
            if self.source is not None:
                for option in _BEFORE_BIND:
                    made.setsockopt(*option)
                made.bind((self.source, 0))
            made.settimeout(_left(deadline))
            made.connect(place)
        except OSError as error:
            if made:
                made.close()
            raise failure(error) from error
        if not self.afresh:
            self.known[:] = [address]  # what works once is not looked for again
        return made


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


def _refusal(error: OSError) -> SystemRefused:
    known = LOCAL.get(error.errno or 0, "this host failed")
    return SystemRefused(f"{known} ({error.strerror or error})")


def _left(deadline: float) -> float:
    """Seconds until then. Raises TimeoutError when it has passed."""
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def ask(connection: socket.socket, payload: bytes, deadline: float) -> bytes:
    """Sends a line and gives the prefix of its reply. Raises Failed."""
    reply = b""
    try:
        connection.sendall(payload + b"\n")
        while b"\n" not in reply and len(reply) < MAX_REPLY_BYTES:
            connection.settimeout(_left(deadline))
            piece = connection.recv(MAX_REPLY_BYTES)
            if not piece:
                break
            reply += piece
    except OSError as error:
        raise failure(error) from error
    line, newline, _ = reply.partition(b"\n")
    if newline and line.endswith(b" " + payload):
        return line[: -len(payload) - 1]
    if newline or len(reply) >= MAX_REPLY_BYTES:
        raise Failed("wrong reply", f"not a prefix and the line that was sent: {line[:60]!r}")
    raise Failed("closed", f"closed before a reply{f', after {line[:60]!r}' if line else ''}")


def payloads() -> Callable[[int], bytes]:
    """Lines that nobody else sends, by their number."""
    run = secrets.token_hex(4)
    return lambda number: f"echod-probe-{run}-{number}".encode()


class Sampler:
    """Threads that sample until there are enough, for whoever waits for them.

    ``wanted`` answers end it (samples, where ``failures_count``), and so do ``duration`` seconds,
    and more than ``max_errors`` failures: at once if nothing has answered yet, or else when it
    is PATIENCE more, which shows how often it fails. A sample that has begun by then is counted,
    so that a slow version is not counted short.
    """

    def __init__(
        self,
        target: Target,
        tally: Tally,
        *,
        wanted: float,
        max_errors: float,
        failures_count: bool = False,
        duration: float | None = None,
        concurrency: int = 10,
        rate: float | None = None,
    ) -> None:
        self.target = target
        self.tally = tally
        self.refused: SystemRefused | None = None
        self._wanted = wanted
        self._max_errors = math.inf if failures_count else max_errors
        self._failures_count = failures_count
        self._rate = rate
        self._changed = Condition()
        self._begun = 0
        self._under_way = 0
        self._stopped = False
        self._payload = payloads()
        self._start = monotonic()
        self._end = None if duration is None else self._start + duration
        count = int(min(concurrency, wanted))
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return monotonic() - self._start

    def wait(self, timeout: float) -> bool:
        """Whether all is done, after ``timeout`` seconds at most."""
        end = monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Begins no more samples, and counts no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            while (number := self._next()) is not None:
                self._finish(self._sample(number))
        except SystemRefused as error:
            with self._changed:
                self.refused = self.refused or error
            self.stop()

    def _next(self) -> int | None:
        """The number of a sample that may begin now, or None if there are no more."""
        with self._changed:
            while not self._stopped:
                now = monotonic()
                if self._end is not None and now >= self._end:
                    return None
                if self._hopeless():
                    return None
                enough = self._counted() + self._under_way >= self._wanted
                if enough and not self._under_way:
                    return None
                due = self._start + self._begun / self._rate if self._rate else now
                if not enough and due <= now:
                    self._begun += 1
                    self._under_way += 1
                    return self._begun
                pause = None if enough else due - now
                if self._end is not None:
                    pause = min(pause or self._end - now, self._end - now)
                self._changed.wait(pause)
        return None

    def _hopeless(self) -> bool:
        excess = self.tally.failed - self._max_errors
        return excess > PATIENCE or (excess > 0 and not self.tally.answered)

    def _counted(self) -> int:
        return self.tally.answered + (self.tally.failed if self._failures_count else 0)

    def _sample(self, number: int) -> Outcome:
        start = monotonic()
        deadline = start + self.target.timeout
        try:
            with self.target.connect(deadline) as connection:
                connected = monotonic()
                prefix = ask(connection, self._payload(number), deadline)
                replied = monotonic()
        except Failed as failed:
            return Outcome(None, failed.kind, failed.detail)
        name = prefix.decode("utf-8", "surrogateescape")
        return Outcome(name, "", "", connected - start, replied - connected)

    def _finish(self, outcome: Outcome) -> None:
        with self._changed:
            self._under_way -= 1
            if not self._stopped:
                self.tally.add(outcome)
            self._changed.notify_all()
