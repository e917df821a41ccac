"""Which sockets are ready: by epoll where there is one, by the standard selectors elsewhere.

``selectors`` makes a key and a tuple for every event. At 64 connections that took a seventh of the
time that a line costs outside the kernel.
"""

from __future__ import annotations

import select
import selectors
import sys
from typing import Protocol

READ, WRITE = select.POLLIN, select.POLLOUT
"""What a socket is polled for, with the numbers of poll and epoll."""


class Poller(Protocol):
    """Waits for sockets by their descriptors, each for reading or for writing."""

    def add(self, fd: int, events: int, /) -> None:
        """Waits for this one as well, for READ or WRITE."""

    def change(self, fd: int, events: int, /) -> None:
        """Waits for the other of the two."""

    def remove(self, fd: int, /) -> None:
        """Waits for it no longer."""

    def closes(self, fd: int) -> None:
        """The same for one that is closed next, and has no duplicate."""

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """Those that are ready, and what for, after this time at most.

        An error or a hang-up is reported whatever was waited for.
        """

    def close(self) -> None:
        """Closes its own descriptor."""


class SelectorPoller:
    """For every system that Python runs on."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, fd: int, events: int) -> None:
        """Waits for this one as well, for READ or WRITE."""
        self._selector.register(fd, _selected(events))

    def change(self, fd: int, events: int) -> None:
        """Waits for the other of the two."""
        self._selector.modify(fd, _selected(events))

    def remove(self, fd: int) -> None:
        """Waits for it no longer."""
        self._selector.unregister(fd)

    closes = remove

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """Those that are ready, and what for, after this time at most."""
        return [(key.fd, events) for key, events in self._selector.select(seconds)]

    def close(self) -> None:
        """Closes its own descriptor."""
        self._selector.close()


def is_ready(fd: int, events: int) -> bool:
    """Whether a poller would report it at once: for a single descriptor, now and then."""
    one = select.poll()
    one.register(fd, events)
    return bool(one.poll(0))


def _selected(events: int) -> int:
    return selectors.EVENT_WRITE if events == WRITE else selectors.EVENT_READ


class EpollPoller:
    """For Linux."""

    def __init__(self) -> None:
        epoll = select.epoll()
        self.add, self.change, self.remove = epoll.register, epoll.modify, epoll.unregister
        self.wait, self.close = epoll.poll, epoll.close

    def closes(self, fd: int) -> None:
        """Nothing to do: the kernel lets go of it as it is closed."""


make_poller: type[Poller] = EpollPoller if sys.platform == "linux" else SelectorPoller
