"""SIGTERM and SIGINT as something to wait for. No work is done inside a signal handler."""

from __future__ import annotations

import signal
import socket
from types import FrameType

STOP = (signal.SIGTERM, signal.SIGINT)
TERMINAL = (signal.SIGHUP, signal.SIGQUIT)
"""What a terminal sends when it is closed, or asked to."""


class StopSignals:
    """Keeps the signals that stop the process, from its making on, until they are asked for.

    To be made early, in the main thread: a signal before that ends the process where it is,
    and one to PID 1 is lost.
    """

    def __init__(self, *, terminal: bool = False) -> None:
        """``terminal``: also those that a terminal sends, but for one that is ignored (nohup)."""
        numbers = [*STOP]
        if terminal:
            numbers += [one for one in TERMINAL if signal.getsignal(one) != signal.SIG_IGN]
        self._kept, self._keeping = socket.socketpair()
        self._keeping.setblocking(False)
        signal.set_wakeup_fd(self._keeping.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _ignore)  # the wake-up descriptor has its number
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # whoever started us may block them

    def wait(self, timeout: float | None = None) -> signal.Signals | None:
        """The next signal, or None when ``timeout`` seconds have passed without one."""
        self._kept.settimeout(timeout)
        try:
            return signal.Signals(self._kept.recv(1)[0])
        except (TimeoutError, BlockingIOError):
            return None


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """In the place of the default, which would end the process."""
