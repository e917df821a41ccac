"""Starting threads: with small stacks, with memory to spare, and with a time limit."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from threading import Event, Thread

from echod.errors import SystemRefused

STACK_BYTES = 256 * 1024
"""Default stack of a thread. ``ulimit -v`` counts the whole stack, and the C library's default
is usually 8 MiB."""
FIRST_BYTES = 64 * 1024
"""Address space for a thread's first steps. Without it a thread may die before it sets the event
that ``start`` waits for."""
HEADROOM_BYTES = 16 * 1024 * 1024
"""Address space left once all threads run. Without it the C library may abort the process: it
loads a library when a thread ends."""
LOOKS, LOOK_SECONDS = 10, 1.0
"""Number and length of the waits for a new thread. A suspension of the whole process uses up one
wait, not the whole time limit."""


def start(threads: Sequence[Thread], stack_bytes: int = STACK_BYTES) -> None:
    """Start all threads. Raises SystemRefused, in one line, if one cannot run.

    Threads started before it keep running; the caller must end them. Address space for all
    threads is reserved first, because glibc takes 64 MiB, if available, for each one's heap.
    """
    number, started = 0, _Started()

    def note(report: sys.UnraisableHookArgs) -> None:
        if "thread started by" in (report.err_msg or ""):
            started.die(report.exc_type.__name__)
        else:
            hook(report)

    stack, hook = threading.stack_size(stack_bytes), sys.unraisablehook
    sys.unraisablehook = note  # CPython reports here that a thread died before its first line
    try:
        with ExitStack() as reserved:
            parts = []
            for _ in threads:
                number += 1
                parts.append(reserved.enter_context(reserve(stack_bytes + FIRST_BYTES)))
            reserved.enter_context(reserve(HEADROOM_BYTES))
            number = 0
            for thread in threads:
                number += 1
                parts.pop().close()
                vars(thread)["_started"] = started = _Started()
                thread.start()
    except (RuntimeError, MemoryError, OSError) as error:
        reason = getattr(error, "strerror", "") or str(error) or "out of memory"
        raise SystemRefused(f"cannot start thread {number} of {len(threads)}: {reason}") from error
    finally:
        sys.unraisablehook = hook
        threading.stack_size(stack)


def reserve(size: int) -> mmap:
    """Reserve ``size`` bytes of address space until closed. Raises OSError if there are none."""
    return mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS)


class _Started(Event):
    """The event that ``Thread.start`` waits for, with a time limit.

    CPython 3.11 to 3.15 wait without limit for an event that the new thread sets. A thread that
    has no memory for its first frame dies without setting it.
    """

    death = ""

    def die(self, death: str) -> None:
        """End the wait: the thread died of the exception named ``death``."""
        self.death = death
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the thread runs. Raises RuntimeError if it does not."""
        for _ in range(LOOKS):
            if super().wait(timeout or LOOK_SECONDS):
                break
        if self.is_set() and not self.death:
            return True
        self.clear()  # so that the threading module regards it as not started and not alive
        raise RuntimeError(f"it died with {self.death}" if self.death else "it does not run")
