"""Both ways to ask which sockets are ready."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from echod.loop.poller import READ, WRITE, Poller, SelectorPoller, is_ready, make_poller


@pytest.fixture(params=[make_poller, SelectorPoller])
def poller(request: pytest.FixtureRequest) -> Iterator[Poller]:
    made: Poller = request.param()
    yield made
    made.close()


def ready(poller: Poller) -> list[int]:
    return [fd for fd, _ in poller.wait(0)]


def test_a_socket_is_polled_for_reading_or_writing_or_not_at_all(poller: Poller) -> None:
    """For reading at first, for writing after a change, and not at all once removed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = ours.fileno()
        poller.add(fd, READ)
        assert ready(poller) == []
        theirs.sendall(b"x")
        assert ready(poller) == [fd]
        ours.recv(1)
        poller.change(fd, WRITE)
        assert ready(poller) == [fd]
        poller.change(fd, READ)
        assert ready(poller) == []
        poller.remove(fd)
        theirs.sendall(b"x")
        assert ready(poller) == []
        poller.add(fd, WRITE)
        assert ready(poller) == [fd]


@pytest.mark.parametrize("events", [READ, WRITE])
def test_a_hang_up_is_reported_whatever_is_waited_for(poller: Poller, events: int) -> None:
    """A connection that is gone must not stay."""
    ours, theirs = socket.socketpair()
    with ours:
        poller.add(ours.fileno(), events)
        theirs.close()
        assert ready(poller) == [ours.fileno()]


def test_a_single_socket_can_be_polled_without_waiting() -> None:
    """Without waiting, and without being watched."""
    one, other = socket.socketpair()
    with one, other:
        assert is_ready(one.fileno(), WRITE)
        assert not is_ready(one.fileno(), READ)
        other.send(b"x")
        assert is_ready(one.fileno(), READ)
