"""A thread that waits on its own poller and calls the handlers of many sockets.

Handlers must not block. An exception in a handler costs that handler alone.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic, sleep
from typing import Protocol

from echod.loop.heartbeat import Heartbeat
from echod.loop.inbox import Inbox
from echod.loop.poller import READ, WRITE, is_ready, make_poller
from echod.loop.sockets import close
from echod.loop.timers import Timed, Timers

PAUSE_SECONDS = 0.1
"""Pause after a round that raised an exception in the loop itself."""
LOOKS, LOOK_SECONDS = 10, 1.0
"""Number and length of the waits of ``ask``. A suspension of the whole process uses up one wait,
not the whole time limit."""


class Guarded(Protocol):
    """What the loop calls, catching exceptions. No call may block."""

    def on_error(self, error: Exception) -> None:
        """Called when another call of this handler raised: a bug costs this handler alone."""


class TimerHandler(Timed, Guarded, Protocol):
    """What the loop calls at the time it was scheduled for."""

    def on_timer(self, now: float) -> None:
        """Called at that time or soon after. ``now``: monotonic seconds."""


class SocketHandler(Guarded, Protocol):
    """What the loop calls when something happens on a socket."""

    request: socket.socket

    def handle(self) -> None:
        """Called when the socket is readable."""

    def flush(self) -> None:
        """Called when the socket is writable, if it is polled for WRITE."""


class EventHandler(SocketHandler, TimerHandler, Protocol):
    """A registered socket's handler: a connection, a listener, a socket that closes."""

    def on_stop(self) -> None:
        """Called once when the loop begins to stop: handle what has arrived, then unregister."""

    def abort(self) -> None:
        """Called once the deadline of the stop has passed: unregister now."""


class Loop(Protocol):
    """The part of an event loop that handlers use, in the loop's own thread."""

    now: float
    stop_deadline: float | None
    timers: Timers[TimerHandler]

    def register(self, handler: EventHandler) -> None:
        """Call ``handler`` when its socket is readable, from now on."""

    def modify(self, handler: EventHandler, events: int) -> None:
        """Poll its socket for READ or WRITE instead of what it was polled for before."""

    def unregister(self, handler: EventHandler, *, closes: bool = False) -> None:
        """Take a handler out, before its socket is closed (``closes``) or changes hands."""

    def is_ready(self, handler: EventHandler, events: int) -> bool:
        """Whether its socket is ready for READ or WRITE right now."""

    def readable_bytes(self, handler: EventHandler) -> int:
        """How many bytes have arrived on its socket and can be read now."""

    def failed(self, handler: Guarded, error: Exception) -> None:
        """Have ``handler`` meet the error of one of its calls, which its maker has caught."""


class EventLoop(Thread):
    """Calls its registered handlers, until it is stopped and none is left.

    A handler stays with one loop for life, so its counters have a single writer.
    """

    def __init__(self, name: str, report_bug: Callable[[], None]) -> None:
        """``report_bug`` is called inside the ``except`` block of a bug. Raises OSError."""
        super().__init__(name=name, daemon=True)
        self.report_bug = report_bug
        self.heartbeat = Heartbeat(self.name)
        self.now = monotonic()  # when the current round began
        self.stop_deadline: float | None = None
        self.timers: Timers[TimerHandler] = Timers(self.now)
        self._poller = make_poller()
        self._registered: set[EventHandler] = set()
        self._polled: dict[int, SocketHandler] = {}  # by descriptor; without the paused ones
        self._writing: set[int] = set()  # descriptors polled for WRITE
        self._inbox = Inbox(report_bug)
        self._poll(self._inbox)

    # Called by other threads.

    def post(self, call: Callable[[], None]) -> None:
        """Have this thread make ``call`` in its next round."""
        self._inbox.post(call)

    def ask(self, call: Callable[[], None]) -> None:
        """Have this thread make ``call``, and wait for it. Raises what the call raised, or OSError
        if the thread does not make it in time.
        """
        outcome: SimpleQueue[Exception | None] = SimpleQueue()

        def made() -> None:
            try:
                call()
            except Exception as error:  # noqa: BLE001  # the caller raises it
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

    def stop(self, deadline: float) -> None:
        """Let handlers finish, abort those left at ``deadline``, then end the thread."""
        self.post(lambda: self._begin_stop(deadline))

    # Called by handlers, in this thread.

    def register(self, handler: EventHandler) -> None:
        """Call ``handler`` when its socket is readable, from now on."""
        fd = handler.request.fileno()
        add = self._poller.add
        self._registered.add(handler)
        try:  # _poll, inlined: a call would cost every connection time
            self._polled[fd] = handler
            add(fd, READ)
        except BaseException:
            self._registered.discard(handler)
            self._polled.pop(fd, None)
            raise

    def modify(self, handler: EventHandler, events: int) -> None:
        """Poll its socket for READ or WRITE instead of what it was polled for before."""
        fd = handler.request.fileno()
        self._poller.change(fd, events)
        if events == WRITE:
            self._writing.add(fd)
        else:
            self._writing.discard(fd)

    def pause(self, handler: EventHandler) -> None:
        """Stop polling its socket until ``resume``; its timer stays."""
        fd = handler.request.fileno()
        if self._polled.pop(fd, None):
            self._poller.remove(fd)
            self._writing.discard(fd)

    def resume(self, handler: EventHandler) -> None:
        """Poll its socket again after ``pause``."""
        self._poll(handler)

    def unregister(self, handler: EventHandler, *, closes: bool = False) -> None:
        """Take a handler out, before its socket is closed (``closes``) or changes hands."""
        self._registered.discard(handler)
        self.timers.cancel(handler)
        if closes:
            fd = handler.request.fileno()
            if self._polled.pop(fd, None):
                self._poller.closes(fd)
                self._writing.discard(fd)
        else:
            self.pause(handler)

    def is_ready(self, handler: EventHandler, events: int) -> bool:
        """Whether its socket is ready for READ or WRITE right now; a system call each time."""
        return is_ready(handler.request.fileno(), events)

    def readable_bytes(self, handler: EventHandler) -> int:
        """How many bytes have arrived on its socket and can be read now."""
        arrived = fcntl.ioctl(handler.request, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", arrived)[0])

    # The loop.

    def run(self) -> None:
        """Run until stopped, even if the system refuses something (memory, for example)."""
        while True:
            try:
                self._rounds()
                break
            except Exception:  # noqa: BLE001  # the end of the thread would cost all connections
                self._report()
                sleep(PAUSE_SECONDS)  # the error may recur at once
        self.heartbeat.end()
        with suppress(OSError):
            self._poller.close()
        self._inbox.close()

    def _rounds(self) -> None:
        """Run rounds until the loop has stopped."""
        # Local names: attribute lookups per round are a cost that its few events share.
        wait, polled, writing = self._poller.wait, self._polled, self._writing
        inbox, timers, heartbeat = self._inbox, self.timers, self.heartbeat
        now = self.now
        while True:
            seconds = timers.next_at - now
            events = wait(seconds if seconds > 0.0 else 0.0)  # one second at most
            self.now = now = heartbeat.at = monotonic()
            for fd, event in events:
                try:
                    handler = polled[fd]
                except KeyError:  # another handler has unregistered it in this round
                    continue
                try:
                    if event == READ or fd not in writing:
                        handler.handle()
                    else:
                        handler.flush()
                except Exception as error:  # noqa: BLE001  # see guarded
                    self.failed(handler, error)
            # After the events of this round: a call may close connections that have events.
            if inbox.calls:
                inbox.make_calls()
            if now >= timers.next_at:
                for due in timers.due(now):
                    self.guarded(due, due.on_timer, now)
            if self.stop_deadline is not None and self._has_stopped(self.stop_deadline):
                return

    def _has_stopped(self, deadline: float) -> bool:
        """Return whether no handler is left; after the deadline, abort those that are."""
        if self.now >= deadline:
            for left in list(self._registered):
                self.guarded(left, left.abort)
        else:
            self.timers.look_at(deadline)
        return not self._registered

    def _begin_stop(self, deadline: float) -> None:
        self.stop_deadline = deadline
        for handler in list(self._registered):
            self.guarded(handler, handler.on_stop)

    def _poll(self, handler: SocketHandler) -> None:
        fd = handler.request.fileno()
        self._polled[fd] = handler
        try:
            self._poller.add(fd, READ)
        except BaseException:
            del self._polled[fd]
            raise

    def guarded(self, handler: Guarded, call: Callable[..., None], *args: float) -> None:
        """Call a handler's method; a bug in it costs that handler, never the thread."""
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001  # any bug
            self.failed(handler, error)

    def failed(self, handler: Guarded, error: Exception) -> None:
        """Have a handler meet the error of one of its calls. Raises nothing: that may fail too."""
        try:
            try:
                handler.on_error(error)
            except MemoryError:  # the unwinding has freed some
                handler.on_error(error)
        except Exception:  # noqa: BLE001  # remove the handler, or the event recurs for ever
            self._report()
            try:
                self._remove(handler)
            except Exception:  # noqa: BLE001  # no memory for that either
                self._report()

    def _report(self) -> None:
        """Report the bug being handled, if there is memory for a report."""
        try:  # noqa: SIM105  # suppress() takes memory
            self.report_bug()
        except Exception:  # noqa: BLE001, S110  # nothing is left to do
            pass

    def _remove(self, handler: Guarded) -> None:
        for registered in [one for one in self._registered if one is handler]:
            try:
                self.unregister(registered)
            finally:
                close(registered.request)


class HandlerThread(EventLoop):
    """An event loop that serves echo connections; ``--handler-threads`` sets how many run.

    ``index`` selects what this thread alone counts.
    """

    def __init__(self, index: int, report_bug: Callable[[], None]) -> None:
        super().__init__(f"handler-{index}", report_bug)
        self.index = index
