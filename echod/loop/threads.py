"""Starting threads: with small stacks, with memory to spare, and never waiting without a limit."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from threading import Event, Thread

from echod.errors import SystemRefused

STACK_BYTES = 256 * 1024
"""Default stack of a thread. The C library's own default, 8 MiB mostly, is what ``ulimit -v``
counts."""
FIRST_BYTES = 64 * 1024
"""Address space for a thread's first lines. Without it a thread may die before it has set the
event that ``start`` waits for."""
HEADROOM_BYTES = 16 * 1024 * 1024
"""Address space that is left when all threads run. Without it the C library may abort the process:
it loads a library to end a thread."""
LOOKS, LOOK_SECONDS = 10, 1.0
"""How often, and how long each time, a new thread is waited for. Several looks: if the whole
process is suspended meanwhile, that costs one of them."""


def start(threads: Sequence[Thread], stack_bytes: int = STACK_BYTES) -> None:
    """Start all threads. Raises SystemRefused, in one line, if one cannot run.

    The threads before that one keep running: the caller ends them. Address space for all is
    reserved first: glibc takes 64 MiB for the heap of each thread that runs, if they are free.
    """
    number, started = 0, _Started()

    def note(report: sys.UnraisableHookArgs) -> None:
        if "thread started by" in (report.err_msg or ""):
            started.die(report.exc_type.__name__)
        else:
            hook(report)

    stack, hook = threading.stack_size(stack_bytes), sys.unraisablehook
    sys.unraisablehook = note  # where CPython reports a thread that dies before its first line
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
    """Take so many bytes of address space, until it is closed. Raise OSError if there are none."""
    return mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS)


class _Started(Event):
    """What ``Thread.start`` waits for, with a limit.

    CPython 3.11 to 3.15 wait without one for an event that the new thread sets. A thread that
    dies before that, for want of memory for its first frame, never sets it.
    """

    death = ""

    def die(self, death: str) -> None:
        """End the wait: the thread has died of that."""
        self.death = death
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the thread runs. Raises RuntimeError if it does not."""
        for _ in range(LOOKS):
            if super().wait(timeout or LOOK_SECONDS):
                break
        if self.is_set() and not self.death:
            return True
        self.clear()  # for threading it has not started, then, and is not alive
        raise RuntimeError(f"it died with {self.death}" if self.death else "it does not run")
