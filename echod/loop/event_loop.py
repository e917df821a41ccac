"""A thread that waits on its own poller and drives many sockets, none of which blocks it."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Protocol, cast

from echod.loop.heartbeat import Heartbeat
from echod.loop.poller import make_poller
from echod.loop.timers import Timed, Timers

READ, WRITE = 1, 2
LONGEST_WAIT = 1.0  # seconds: an idle thread stamps its heartbeat this often
LOOKS, LOOK_SECONDS = 10, 1.0
"""How often, and how long each time, a thread is waited for that is asked to do something. Several
looks: if the whole process is suspended meanwhile, that costs one of them."""


class Driven(Timed, Protocol):
    """A connection (or another socket) in the hands of a driver. No call of it blocks."""

    request: socket.socket

    def expire(self, now: float) -> None:
        """Called when the time it was scheduled for has come."""

    def handle(self) -> None:
        """Called when the socket is readable."""

    def flush(self) -> None:
        """Called when the socket is writable and that was asked for."""

    def drain(self) -> None:
        """Called once when the thread begins to drain: answer what has arrived, then end."""

    def cut(self) -> None:
        """Called from the end of the drain on: end now."""

    def crash(self, error: Exception) -> None:
        """Called when one of the other calls raised: a defect ends this connection alone."""


class Driver(Thread):
    """Drives the connections that join it until it is told to drain and none is left.

    A connection belongs to one thread for life: whatever it counts has a single writer.
    """

    def __init__(self, name: str, report_defect: Callable[[], None]) -> None:
        """``report_defect`` is called in the handling of an exception that nobody expected."""
        super().__init__(name=name, daemon=True)
        self.report_defect = report_defect
        self.heartbeat = Heartbeat(self.name)
        self.now = monotonic()  # when the current round began
        self.drain_deadline: float | None = None
        self.timers: Timers[Driven] = Timers(self.now)
        self._poller = make_poller()
        self._connections: set[Driven] = set()
        self._watched: dict[int, Driven] = {}  # by descriptor; those that rest are not in it
        self._writing: set[int] = set()  # descriptors that are waited for to be writable
        self._inbox = _Inbox(report_defect)
        self.wake(cast("Driven", self._inbox))

    # Called by other threads.

    def post(self, call: Callable[[], None]) -> None:
        """Has this thread make ``call`` in its next round."""
        self._inbox.post(call)

    def ask(self, call: Callable[[], None]) -> None:
        """Has this thread make ``call``, and waits for it. Raises what it raised, or OSError if
        the thread does not come to it.
        """
        outcome: SimpleQueue[Exception | None] = SimpleQueue()

        def made() -> None:
            try:
                call()
            except Exception as error:  # noqa: BLE001  # the asker's to judge
                outcome.put(error)
            else:
                outcome.put(None)

        self.post(made)
        for _ in range(LOOKS):
            with suppress(Empty):
                if error := outcome.get(timeout=LOOK_SECONDS):
                    raise error
                return
        raise TimeoutError(f"the thread {self.name} does not answer")

    def drain(self, deadline: float) -> None:
        """Ends every connection in order, what is left at ``deadline`` at once; then itself."""
        self.post(lambda: self._begin_drain(deadline))

    # Called by the connections, in this thread.

    def watch(self, connection: Driven) -> None:
        """Calls ``connection`` when its socket is readable, from now on."""
        self.wake(connection)
        self._connections.add(connection)

    def rewatch(self, connection: Driven, events: int) -> None:
        """Waits for READ or WRITE on its socket instead of what was waited for before."""
        fd = connection.request.fileno()
        self._poller.change(fd, writing=events == WRITE)
        if events == WRITE:
            self._writing.add(fd)
        else:
            self._writing.discard(fd)

    def rest(self, connection: Driven) -> None:
        """Leaves its socket alone until ``wake``; it keeps its timer."""
        fd = connection.request.fileno()
        if self._watched.pop(fd, None):
            self._poller.remove(fd)
            self._writing.discard(fd)

    def wake(self, connection: Driven) -> None:
        """Watches it again after ``rest``."""
        fd = connection.request.fileno()
        self._poller.add(fd)
        self._watched[fd] = connection

    def forget(self, connection: Driven) -> None:
        """Takes a connection out, before its socket is closed or changes hands."""
        self.timers.cancel(connection)
        self._connections.remove(connection)
        self.rest(connection)

    # The loop.

    def run(self) -> None:
        """Goes round until drained."""
        # Looked up once: a round with few events is paid for by each of them.
        wait, watched, writing, inbox = self._poller.wait, self._watched, self._writing, self._inbox
        while self.drain_deadline is None or self._connections:
            events = wait(self._wait())
            self.now = self.heartbeat.at = monotonic()
            for fd, _ in events:
                connection = watched.get(fd)
                if connection is None:  # ended by another in this very round
                    continue
                try:
                    if fd in writing:
                        connection.flush()
                    else:
                        connection.handle()
                except Exception as error:  # noqa: BLE001  # see guarded
                    self._crash(connection, error)
            # Not before the events of this round are dealt with: a call may end connections.
            if inbox.calls:
                inbox.make_calls()
            for due in self.timers.due(self.now):
                self.guarded(due, due.expire, self.now)
            if self.drain_deadline is not None and self.now >= self.drain_deadline:
                for connection in list(self._connections):
                    self.guarded(connection, connection.cut)
        self.heartbeat.end()
        self._poller.close()
        self._inbox.close()

    def _wait(self) -> float:
        """Seconds until something is to be done without an event."""
        wait = self.timers.wait(self.now, LONGEST_WAIT)
        if self.drain_deadline is not None and self.now < self.drain_deadline:
            return min(wait, self.drain_deadline - self.now)
        return wait

    def _begin_drain(self, deadline: float) -> None:
        self.drain_deadline = deadline
        for connection in list(self._connections):
            self.guarded(connection, connection.drain)

    def guarded(self, connection: Driven, call: Callable[..., None], *args: float) -> None:
        """A defect that one connection meets costs that connection, never the thread."""
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001  # whatever it is
            self._crash(connection, error)

    def _crash(self, connection: Driven, error: Exception) -> None:
        try:
            connection.crash(error)
        except Exception:  # noqa: BLE001  # not even that: without it, for ever the same event
            self.report_defect()
            if connection in self._connections:
                self.forget(connection)
                connection.request.close()


class HandlerThread(Driver):
    """A driver of echo connections; ``index`` is its place among its like."""

    def __init__(self, index: int, report_defect: Callable[[], None]) -> None:
        super().__init__(f"handler-{index}", report_defect)
        self.index = index


class _Inbox:
    """Calls that other threads want made in the handler thread, and the socket that wakes it."""

    def __init__(self, report_defect: Callable[[], None]) -> None:
        self._report_defect = report_defect
        self.request, self._waker = socket.socketpair()
        self.request.setblocking(False)
        self._waker.setblocking(False)
        self.calls: deque[Callable[[], None]] = deque()

    def post(self, call: Callable[[], None]) -> None:
        self.calls.append(call)
        with suppress(OSError):  # a full pipe holds wake-ups enough; an ended driver needs none
            self._waker.send(b"\0")

    def handle(self) -> None:
        # Emptied before the calls are made: a call posted meanwhile wakes the thread again.
        self.request.recv(4096)

    def make_calls(self) -> None:
        while self.calls:
            try:
                self.calls.popleft()()
            except Exception:  # noqa: BLE001  # costs this call, never the thread
                self._report_defect()

    def close(self) -> None:
        self.request.close()
        self._waker.close()
