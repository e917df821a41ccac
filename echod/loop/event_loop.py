"""A thread that waits on its own poller and calls the handlers of many sockets.

Handlers must not block. An exception in a handler costs that handler alone.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic, sleep
from typing import Any

from echod.loop.heartbeat import Heartbeat
from echod.loop.inbox import Inbox
from echod.loop.interfaces import EventHandler, Guarded, SocketHandler, TimerHandler
from echod.loop.poller import READ, WRITE, is_ready, make_poller
from echod.loop.sockets import close
from echod.loop.timers import Timers

PAUSE_SECONDS = 0.1
"""Pause after a round that raised an exception in the loop itself."""
MEETINGS = 8
"""How often a handler meets an error for which it has no memory. After that it is removed, and what
it holds (bytes of the budget, for example) may be lost."""
LOOKS, LOOK_SECONDS = 10, 1.0
"""Number and length of the waits of ``ask``. A suspension of the whole process uses up one wait,
not the whole time limit."""


class EventLoop(Thread):
    """Calls its registered handlers, until it is stopped and none is left.

    A handler stays with one loop for life, so its counters have a single writer.
    """

    def __init__(self, name: str, report_bug: Callable[[], None]) -> None:
        """``report_bug`` is called inside the ``except`` block of a bug. Raises OSError."""
        super().__init__(name=name, daemon=True)
        self._report_bug = report_bug
        self.heartbeat = Heartbeat(self.name)
        self.now = monotonic()  # when the current round began
        self.stop_deadline: float | None = None
        self._begins_stop = False  # until all handlers have been told
        self.timers: Timers[TimerHandler] = Timers(self.now)
        self._poller = make_poller()
        self._registered: set[EventHandler] = set()
        self._polled: dict[int, SocketHandler] = {}  # by descriptor; without the paused ones
        self._writing: set[int] = set()  # descriptors polled for WRITE
        self._inbox = Inbox(self.report_bug)
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
        if closes and self._poller.forgets_closed:
            fd = handler.request.fileno()
            self._polled.pop(fd, None)
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

    def report_bug(self) -> None:
        """Report the exception being handled, if there is memory for a report. Raises nothing."""
        try:  # noqa: SIM105  # suppress() takes memory
            self._report_bug()
        except Exception:  # noqa: BLE001, S110  # nothing is left to do
            pass

    # The loop.

    def run(self) -> None:
        """Run until stopped, even if the system refuses something (memory, for example)."""
        while True:
            try:
                self._rounds()
                break
            except Exception:  # noqa: BLE001  # the end of the thread would cost all connections
                self.report_bug()
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
                self._call_timers(now)
            if self.stop_deadline is not None and self._has_stopped(self.stop_deadline):
                return

    def _call_timers(self, now: float) -> None:
        due = self.timers.due(now)
        due.reverse()
        while due:  # no loop over them, which would take memory: the rest would be lost
            handler = due.pop()
            try:
                handler.on_timer(now)
            except Exception as error:  # noqa: BLE001  # see guarded
                self.failed(handler, error)

    def _has_stopped(self, deadline: float) -> bool:
        """Return whether no handler is left; after the deadline, abort those that are."""
        if self._begins_stop:
            for handler in list(self._registered):
                self.guarded(handler, handler.on_stop)
            self._begins_stop = False  # last: without memory, the next round asks all again
        if self.now >= deadline:
            for left in list(self._registered):
                self.guarded(left, left.abort)
        else:
            self.timers.look_at(deadline)
        return not self._registered

    def _begin_stop(self, deadline: float) -> None:
        self.stop_deadline = deadline
        self._begins_stop = True

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
            left = MEETINGS - 1
            while left and not self._met(handler, error):  # the unwinding has freed memory
                left -= 1
            if not left:
                handler.on_error(error)
        except Exception as second:  # noqa: BLE001  # remove it, or the event recurs for ever
            self.report_bug()
            if not self._remove(handler) and isinstance(second, MemoryError):
                sleep(PAUSE_SECONDS)  # it may recur at once

    def _met(self, handler: Guarded, error: Exception) -> bool:
        try:
            handler.on_error(error)
        except MemoryError:
            return False
        return True

    def _remove(self, handler: Any) -> bool:
        """Unregister a handler and close its socket; return whether that was possible."""
        if handler not in self._registered:
            return False
        try:
            self.unregister(handler)
        except Exception:  # noqa: BLE001  # no memory for that either
            self.report_bug()
            return False
        finally:
            close(handler.request)
        return True


class HandlerThread(EventLoop):
    """An event loop that serves echo connections; ``--handler-threads`` sets how many run.

    ``index`` selects what this thread alone counts.
    """

    def __init__(self, index: int, report_bug: Callable[[], None]) -> None:
        super().__init__(f"handler-{index}", report_bug)
        self.index = index
