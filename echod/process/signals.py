"""Waiting for SIGTERM, SIGINT and SIGHUP. The signal handlers themselves do nothing."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterable
from math import inf
from time import monotonic, sleep
from types import FrameType
from typing import NamedTuple, Self

from echod.loop.sockets import close

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
QUIT = signal.SIGQUIT
"""The signal of Ctrl-\\ in a terminal. The daemon keeps its default action, a core dump."""
IGNORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""Signals whose default action would end the process without a drain."""
FORCE_SECONDS = 1.0
"""A SIGINT at least this long after the first SIGINT forces the exit."""
REFUSED_SECONDS = 0.02
"""Pause after the system refused a wait."""
LOOK_SECONDS = 0.1
"""How often ``wait`` checks, after a first SIGINT, whether a second one has arrived."""


class StopRequest(NamedTuple):
    """A received signal. ``forces``: it forces the exit."""

    signal: signal.Signals
    forces: bool


def release() -> None:
    """Unblock signals that this process or its parent has blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


class StopSignals:
    """Queues the signals that stop the process, from its construction on, for ``wait``.

    Use it in the main thread, as a context. Once the context ends, further signals are ignored.
    While the interpreter exits, their default action would replace the exit status.

    One stop often arrives as several signals within milliseconds. GNU timeout signals its child
    and then its group; wrappers forward a signal that the terminal has sent to all. Therefore only
    a SIGINT at least FORCE_SECONDS after the first SIGINT forces the exit.
    """

    def __init__(self, *, quits: bool = False) -> None:
        """``quits``: SIGQUIT is a stop signal as well. Raises OSError without a descriptor.

        SIGINT, SIGHUP and SIGQUIT stay ignored if they were (nohup, a background job).
        """
        self._numbers = [
            number
            for number in (*STOP, *[QUIT] * quits)
            if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN
        ]
        self._interrupted_at = inf
        self._quiet_at = -inf  # when a wait last ended without a signal
        self._unread: set[int] = set()  # arrived, but not read from the wake-up descriptor
        self._kept, self._keeping = socket.socketpair()
        self._keeping.setblocking(False)
        signal.set_wakeup_fd(self._keeping.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, self._note)  # the wake-up descriptor usually gets the number
        release()

    def __enter__(self) -> Self:
        """Enter the context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ignore the signals from now on."""
        _ignore(self._numbers)
        signal.set_wakeup_fd(-1)
        close(self._kept)
        close(self._keeping)

    def wait(self, timeout: float | None = None) -> StopRequest | None:
        """The next signal, or None if there is none within ``timeout`` seconds or less."""
        if self._interrupted_at < inf and (timeout is None or timeout > LOOK_SECONDS):
            timeout = LOOK_SECONDS
        began = monotonic()
        try:
            self._kept.settimeout(timeout)
            number = signal.Signals(self._kept.recv(1)[0])
        except (TimeoutError, BlockingIOError):
            if not self._unread:
                # The next wait reads a signal that arrived while the process was suspended.
                self._quiet_at = began + (timeout or 0.0)
                return None
            number = signal.Signals(min(self._unread))
        except OSError:  # for example, no memory to wait; signals that have arrived stay queued
            sleep(REFUSED_SECONDS)
            return None
        request = StopRequest(number, number == signal.SIGINT and self._insists(monotonic()))
        self._unread.discard(number)  # last: without memory for the request, the next wait has it
        return request

    def _note(self, number: int, _frame: FrameType | None) -> None:
        """Replace the default action, which would end the process.

        The number is kept in case the interpreter fails to write it to the wake-up descriptor
        (ENOMEM, ENOBUFS). The signal would be lost otherwise.
        """
        self._unread.add(number)

    def _insists(self, now: float) -> bool:
        """Whether a SIGINT that is read now was repeated on purpose.

        A suspended process may read both late, though they arrived together. So half of the time
        between them must have passed in waits without a signal.
        """
        self._interrupted_at = min(self._interrupted_at, now)
        seen = self._quiet_at - self._interrupted_at
        return now - self._interrupted_at >= FORCE_SECONDS and seen >= FORCE_SECONDS / 2


def ignore_others() -> None:
    """Ignore signals that would end a daemon without a drain."""
    _ignore(IGNORED)


def _ignore(numbers: Iterable[signal.Signals]) -> None:
    """Ignore signals, without a word about one that arrives at the same time.

    The interpreter prints a traceback if a signal has arrived and its handler is gone before it is
    called.
    """
    report = sys.unraisablehook

    def report_others(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is not OSError:
            report(unraisable)

    sys.unraisablehook = report_others
    try:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, ())  # handles what has arrived
    finally:
        sys.unraisablehook = report
