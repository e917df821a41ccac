"""Connections kept open: which version each one stays on, and when one ends."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread
from time import monotonic

from echod.errors import SystemRefused
from echod.loop.threads import start
from echod.probe.sampler import payloads, refusal
from echod.probe.target import Failed, Target, failure

EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Change:
    """A change of a connection: a different version answers, or it ended.

    ``seconds`` is the connection's age.
    """

    number: int
    before: str | None
    version: str | None
    detail: str
    seconds: float


class Held:
    """``count`` connections, each with a line per second. Changes go to the queue ``changes``."""

    def __init__(self, target: Target, count: int) -> None:
        self.changes: SimpleQueue[Change] = SimpleQueue()
        self.stays: dict[int, str] = {}
        self.cut = 0
        self.moved = 0
        self.refused: SystemRefused | None = None
        self._target = target
        self._stopping = Event()
        self._payload = payloads()
        self._threads = [
            Thread(target=self._hold, args=(number,), daemon=True) for number in range(1, count + 1)
        ]
        try:
            start(self._threads)
        except SystemRefused:
            self._stopping.set()
            raise

    def take(self, change: Change) -> None:
        """Apply a change from the queue."""
        if change.version is None:
            self.cut += 1
            self.stays.pop(change.number, None)
        else:
            self.moved += change.number in self.stays
            self.stays[change.number] = change.version

    @property
    def versions(self) -> dict[str, list[int]]:
        """The numbers of the open connections by the version that answers them, in order."""
        found: dict[str, list[int]] = {}
        for number, version in sorted(self.stays.items()):
            found.setdefault(version, []).append(number)
        return dict(sorted(found.items()))

    @property
    def lost(self) -> int:
        """Connections that have ended or have not been answered yet."""
        return len(self._threads) - len(self.stays)

    def stop(self, timeout: float) -> None:
        """Close all connections; wait up to ``timeout`` seconds for them to finish."""
        self._stopping.set()
        end = monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))

    def _hold(self, number: int) -> None:
        version, target = None, self._target
        start = monotonic()
        try:
            limit = start + target.timeout
            with (
                target.connect(number, limit) as connection,
                target.service.open(connection, limit) as channel,
            ):
                turn = 0
                while not self._stopping.is_set():
                    turn += 1
                    _expect_open(channel)
                    payload = self._payload(number) + b"-%d" % turn
                    name, _ = target.service.ask(channel, payload, monotonic() + target.timeout)
                    if name != version:
                        self.changes.put(Change(number, version, name, "", monotonic() - start))
                        version = name
                    self._stopping.wait(max(0.0, start + turn * EVERY_SECONDS - monotonic()))
        except Failed as failed:
            detail = f"{failed.kind}: {failed.detail}"
            self.changes.put(Change(number, version, None, detail, monotonic() - start))
        except Exception as error:  # noqa: BLE001  # reported by the thread that waits
            self.refused = self.refused or refusal(error)


def _expect_open(connection: socket.socket) -> None:
    """Raise Failed if the server has ended a connection that has no pending reply."""
    timeout = connection.gettimeout()
    connection.setblocking(False)
    try:
        # Peek below TLS, if there is any: TLS sockets cannot peek.
        ended = not socket.socket.recv(connection, 1, socket.MSG_PEEK)
    except BlockingIOError:
        ended = False
    except OSError as error:
        raise failure(error) from error
    connection.settimeout(timeout)
    if ended:
        raise Failed("closed", "by the server, with no reply pending")
