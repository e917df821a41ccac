"""SIGTERM, SIGINT and SIGHUP as something to wait for. No work is done inside a signal handler."""

from __future__ import annotations

import signal
import socket
from math import inf
from time import monotonic
from types import FrameType
from typing import NamedTuple, Self

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
QUIT = signal.SIGQUIT
"""What a terminal sends for Ctrl-\\; left alone where it is to give a core."""
IGNORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""They would end the process, and mean nothing to it."""
FORCE_SECONDS = 1.0
"""An operator who sends SIGINT so long after the first one does not want to wait."""
LOOK_SECONDS = 0.1
"""How often it is looked, after a SIGINT, that no other has come yet."""


class StopRequest(NamedTuple):
    """A signal that has come. ``forces``: it asks for the end at once."""

    signal: signal.Signals
    forces: bool


def release() -> None:
    """Lets the signals through that were held back from the start of the process on, here or by
    the process that started this one.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


class StopSignals:
    """Keeps the signals that stop the process, from its making on, until they are asked for.

    To be made in the main thread, as a context: when it is over, what still comes is ignored.
    The interpreter's own end would give it its default effect, in place of the exit status.

    One stop often arrives as several signals within milliseconds: GNU timeout signals its child
    and then its group, wrappers forward what the terminal has sent to all. So no repetition
    forces the end but a SIGINT at least FORCE_SECONDS after the first SIGINT.
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
        self._quiet_at = -inf  # when a wait has last ended without a signal
        self._kept, self._keeping = socket.socketpair()
        self._keeping.setblocking(False)
        signal.set_wakeup_fd(self._keeping.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, _ignore)  # the wake-up descriptor has its number
        release()

    def __enter__(self) -> Self:
        """Nothing more than making it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ignores what comes too late."""
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        self._kept.close()
        self._keeping.close()

    def wait(self, timeout: float | None = None) -> StopRequest | None:
        """The next signal, or None when ``timeout`` seconds, or fewer, have passed without one."""
        if self._interrupted_at < inf and (timeout is None or timeout > LOOK_SECONDS):
            timeout = LOOK_SECONDS
        self._kept.settimeout(timeout)
        began = monotonic()
        try:
            number = signal.Signals(self._kept.recv(1)[0])
        except (TimeoutError, BlockingIOError):
            # Not longer than was waited for: what comes in a standstill is there after the wait.
            self._quiet_at = began + (timeout or 0.0)
            return None
        return StopRequest(number, number == signal.SIGINT and self._insists(monotonic()))

    def _insists(self, now: float) -> bool:
        """Whether a SIGINT that is read now is another wish than the first one.

        A process that has stood still reads late what came together: some of the time between
        must have been seen to pass without a signal.
        """
        self._interrupted_at = min(self._interrupted_at, now)
        seen = self._quiet_at - self._interrupted_at
        return now - self._interrupted_at >= FORCE_SECONDS and seen >= FORCE_SECONDS / 2


def ignore_others() -> None:
    """Ignores what would end a daemon without a drain and has no meaning for it."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """In the place of the default, which would end the process."""
