"""Which sockets are ready: from epoll on Linux, from the standard selectors elsewhere.

``selectors`` creates a key and a tuple for every event. At 64 connections that took a seventh of
the time that a line costs outside the kernel.
"""

from __future__ import annotations

import select
import selectors
import sys
from typing import Protocol

READ, WRITE = select.POLLIN, select.POLLOUT
"""What a socket is polled for, as the constants of poll and epoll."""


class Poller(Protocol):
    """Polls descriptors of sockets, each for READ or for WRITE."""

    forgets_closed: bool
    """Whether it stops polling a descriptor that is closed and has no duplicate."""

    def add(self, fd: int, events: int, /) -> None:
        """Poll one more descriptor, for READ or WRITE."""

    def change(self, fd: int, events: int, /) -> None:
        """Poll a descriptor for the other of READ and WRITE."""

    def remove(self, fd: int, /) -> None:
        """Stop polling a descriptor."""

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """Wait ``seconds`` at most; return the ready descriptors and their events.

        Errors and hang-ups are reported for every descriptor.
        """

    def close(self) -> None:
        """Close the poller's own descriptor."""


class SelectorPoller:
    """A poller for every system that Python runs on."""

    forgets_closed = False

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, fd: int, events: int) -> None:
        """Poll one more descriptor, for READ or WRITE."""
        self._selector.register(fd, _selected(events))

    def change(self, fd: int, events: int) -> None:
        """Poll a descriptor for the other of READ and WRITE."""
        self._selector.modify(fd, _selected(events))

    def remove(self, fd: int) -> None:
        """Stop polling a descriptor."""
        self._selector.unregister(fd)

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """Wait ``seconds`` at most; return the ready descriptors and their events."""
        return [(key.fd, events) for key, events in self._selector.select(seconds)]

    def close(self) -> None:
        """Close the poller's own descriptor."""
        self._selector.close()


def is_ready(fd: int, events: int) -> bool:
    """Whether one descriptor is ready now. For occasional use: it costs a system call."""
    one = select.poll()
    one.register(fd, events)
    return bool(one.poll(0))


def _selected(events: int) -> int:
    return selectors.EVENT_WRITE if events == WRITE else selectors.EVENT_READ


class EpollPoller:
    """A poller for Linux."""

    forgets_closed = True  # the kernel does it

    def __init__(self) -> None:
        epoll = select.epoll()
        self.add, self.change, self.remove = epoll.register, epoll.modify, epoll.unregister
        self.wait, self.close = epoll.poll, epoll.close


make_poller: type[Poller] = EpollPoller if sys.platform == "linux" else SelectorPoller
