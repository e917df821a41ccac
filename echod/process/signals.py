"""Waiting for SIGTERM, SIGINT and SIGHUP. The signal handlers themselves do nothing."""

from __future__ import annotations

import signal
import socket
from math import inf
from time import monotonic, sleep
from types import FrameType
from typing import NamedTuple, Self

from echod.loop.sockets import close

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
QUIT = signal.SIGQUIT
"""What a terminal sends for Ctrl-\\. The daemon leaves it alone: it dumps core by default."""
IGNORED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""By default they would end the process without a drain."""
FORCE_SECONDS = 1.0
"""A SIGINT that follows the first one after this time or more forces the end."""
REFUSED_SECONDS = 0.02
"""Time until the next wait if the system refuses one."""
LOOK_SECONDS = 0.1
"""How often ``wait`` checks, after a SIGINT, that no second one has come."""


class StopRequest(NamedTuple):
    """A signal that was received. ``forces``: it asks for the end at once."""

    signal: signal.Signals
    forces: bool


def release() -> None:
    """Unblocks the signals that were blocked at the start, by this process or by its parent."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


class StopSignals:
    """Queues the signals that stop the process, from its construction on, until ``wait``.

    To be made in the main thread, as a context, which ignores later signals when it ends. At the
    interpreter's own end they would have their default effect, instead of the exit status.

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
        self._unread: set[int] = set()  # arrived, but not read from the wake-up descriptor
        self._kept, self._keeping = socket.socketpair()
        self._keeping.setblocking(False)
        signal.set_wakeup_fd(self._keeping.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, self._note)  # the wake-up descriptor has its number, as a rule
        release()

    def __enter__(self) -> Self:
        """Gives itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ignores the signals from now on."""
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        close(self._kept)
        close(self._keeping)

    def wait(self, timeout: float | None = None) -> StopRequest | None:
        """The next signal, or None when ``timeout`` seconds, or fewer, have passed without one."""
        if self._interrupted_at < inf and (timeout is None or timeout > LOOK_SECONDS):
            timeout = LOOK_SECONDS
        began = monotonic()
        try:
            self._kept.settimeout(timeout)
            number = signal.Signals(self._kept.recv(1)[0])
        except (TimeoutError, BlockingIOError):
            if not self._unread:
                # A signal that arrives while the process is suspended is read by the next wait.
                self._quiet_at = began + (timeout or 0.0)
                return None
            number = signal.Signals(self._unread.pop())
        except OSError:  # the system has no memory to wait, say: what has come is kept
            sleep(REFUSED_SECONDS)
            return None
        self._unread.discard(number)
        return StopRequest(number, number == signal.SIGINT and self._insists(monotonic()))

    def _note(self, number: int, _frame: FrameType | None) -> None:
        """Replaces the default action, which would end the process.

        Keeps what the interpreter fails to write to the wake-up descriptor (ENOMEM, ENOBUFS), which
        loses the signal otherwise.
        """
        self._unread.add(number)

    def _insists(self, now: float) -> bool:
        """Whether a SIGINT that is read now repeats the first one on purpose.

        A process that was suspended reads late what arrived together. So half of the time between
        must have passed in waits without a signal.
        """
        self._interrupted_at = min(self._interrupted_at, now)
        seen = self._quiet_at - self._interrupted_at
        return now - self._interrupted_at >= FORCE_SECONDS and seen >= FORCE_SECONDS / 2


def ignore_others() -> None:
    """Ignores signals that would end a daemon without a drain."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
