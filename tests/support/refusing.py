"""An echod to which the system refuses one call, and how to run it.

As a program: ``refusing.py CALL NUMBER ERROR ARGUMENTS...`` is ``echod ARGUMENTS...``, but that
``CALL`` fails with ``ERROR`` the time whose number is given.
"""

from __future__ import annotations

import errno
import resource
import select
import selectors  # noqa: F401  # tries epoll when it is imported, from 3.14 on later than socket
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

HEALTH_SECONDS = 10.0
"""Longer than usual: what matters is the answer of a check, not the time."""
LISTENED = Path("listened")
"""In its directory: a file that the process leaves when it listens on a socket."""


def refusing(call: str, number: int, error: str, *arguments: str) -> list[str]:
    """The command. ``error`` is a name from errno, or MemoryError, or RuntimeError."""
    return [sys.executable, __file__, call, str(number), error, *arguments]


def with_memory(more: int, *arguments: str) -> list[str]:
    """The command with so many bytes of address space more than it has at first."""
    return refusing("address space", more, "", *arguments)


def limit_memory(more: int) -> None:
    from echod import cli  # noqa: F401, PLC0415  # the interpreter's own matter until then

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


class Refusal:
    """What is raised at one call of many."""

    def __init__(self, number: int, error: str) -> None:
        self._left = number
        self._error = error

    def __call__(self) -> None:
        self._left -= 1
        if self._left:
            return
        if self._error == "MemoryError":
            raise MemoryError
        if self._error == "RuntimeError":
            raise RuntimeError("can't start new thread")
        raise OSError(getattr(errno, self._error), self._error)

    def before(self, function: Callable[..., Any]) -> Any:
        """The function, but that it may be refused."""

        def instead(*arguments: Any, **named: Any) -> Any:
            self()
            return function(*arguments, **named)

        return instead


def break_register(refusal: Refusal) -> None:
    """Of select.epoll, whose methods cannot be replaced."""
    make = select.epoll

    class Epoll:
        def __init__(self) -> None:
            epoll = make()
            self.poll, self.close = epoll.poll, epoll.close
            self.modify, self.unregister = epoll.modify, epoll.unregister
            self.register = refusal.before(epoll.register)

    vars(select)["epoll"] = Epoll


def break_first_frame(refusal: Refusal) -> None:
    """Of a thread, which has no memory for it, and no way to say so."""

    class Dying(threading.Thread):
        def _bootstrap_inner(self) -> None:
            refusal()
            super()._bootstrap_inner()  # type: ignore[misc]

    vars(threading)["Thread"] = Dying


def replace(module: Any, name: str, refusal: Refusal) -> None:
    vars(module)[name] = refusal.before(vars(module)[name])


# From Python 3.13 on another one.
START = "_start_joinable_thread"
if not hasattr(threading, START):
    START = "_start_new_thread"

CALLS: dict[str, Callable[[Refusal], None]] = {
    "socketpair": lambda refusal: replace(socket, "socketpair", refusal),
    "epoll_create1": lambda refusal: replace(select, "epoll", refusal),
    "epoll_ctl": break_register,
    "clone": lambda refusal: replace(threading, START, refusal),
    "first frame": break_first_frame,
}


def listen(self: socket.socket, backlog: int) -> None:
    LISTENED.touch()
    super(socket.socket, self).listen(backlog)


def main(call: str, number: str, error: str, *arguments: str) -> int:
    socket.socket.listen = listen  # type: ignore[assignment, method-assign]
    if call == "address space":
        limit_memory(int(number))
    else:
        CALLS[call](Refusal(int(number), error))
    sys.argv[1:] = arguments
    # Only now, so that they find what is broken.
    from echod import cli  # noqa: PLC0415
    from echod.process import health_check as health  # noqa: PLC0415

    health.TIMEOUT_SECONDS = HEALTH_SECONDS
    return cli.main()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
