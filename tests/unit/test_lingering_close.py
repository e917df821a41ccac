from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest
from support import until
from support.running import StandingClock, made_in

from echod.loop.event_loop import EventLoop
from echod.loop.lingering_close import LingeringClose, linger


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop("under test", lambda: None)
    loop.start()
    yield loop
    loop.stop(monotonic())
    loop.join()


class Sockets:
    """Both ends; the calls of echod's end can be made to fail."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.ours = Failing(fileno=ours.detach())
        self.ours.setblocking(False)
        self.dropped = 0

    def count(self, size: int) -> None:
        self.dropped += size

    def linger(self, loop: EventLoop) -> None:
        made: list[LingeringClose] = []
        loop.post(
            lambda: made.append(LingeringClose(self.ours, loop, socket.socket.close, self.count))
        )

    def wait_until_closed(self) -> None:
        until(lambda: self.ours.fileno() == -1)
        self.theirs.close()


class Failing(socket.socket):
    failing = ""

    def shutdown(self, how: int) -> None:
        if self.failing == "shutdown":
            raise OSError(errno.ENOTCONN, "reset meanwhile")
        super().shutdown(how)

    def recv(self, *arguments: Any) -> bytes:
        if self.failing == "recv":
            raise ConnectionResetError
        if self.failing == "bug":
            raise RuntimeError
        return super().recv(*arguments)


@pytest.mark.parametrize("failing", ["shutdown", "recv", "bug"])
def test_a_lingering_close_closes_its_socket_after_any_error(loop: EventLoop, failing: str) -> None:
    """Its connection is counted already: nothing is left to report."""
    sockets = Sockets()
    sockets.ours.failing = failing
    sockets.linger(loop)
    with suppress(BrokenPipeError):  # gone already
        sockets.theirs.sendall(b"x")
    sockets.wait_until_closed()


def test_a_lingering_close_counts_bytes_until_the_peer_closes(loop: EventLoop) -> None:
    """Every byte read counts, an unanswered one too."""
    sockets = Sockets()
    sockets.linger(loop)
    assert sockets.theirs.recv(1) == b""
    sockets.theirs.sendall(b"late")
    until(lambda: sockets.dropped == 4)
    sockets.theirs.shutdown(socket.SHUT_WR)
    sockets.wait_until_closed()


def test_a_lingering_close_gives_the_peer_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its slot is free again."""
    clock = StandingClock()
    monkeypatch.setattr("echod.loop.event_loop.monotonic", clock)
    loop, sockets = EventLoop("under test", lambda: None), Sockets()
    loop.start()
    sockets.linger(loop)
    made_in(loop)
    clock.move(0.9, loop)
    assert sockets.ours.fileno() != -1
    clock.move(0.2, loop)
    assert sockets.ours.fileno() == -1
    sockets.theirs.close()
    loop.stop(clock())
    loop.join()


def test_without_memory_for_its_deadline_the_socket_goes_at_once(loop: EventLoop) -> None:
    """And the loop has nothing of it."""
    sockets = Sockets()

    def schedule(*_: Any) -> None:
        raise MemoryError

    vars(loop.timers)["schedule"] = schedule
    sockets.linger(loop)
    sockets.wait_until_closed()
    assert loop._registered == set()


def test_a_socket_without_memory_to_linger_is_closed_at_once(
    monkeypatch: pytest.MonkeyPatch, loop: EventLoop
) -> None:
    """It would keep its slot and its descriptor for good."""

    def without_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("echod.loop.lingering_close.LingeringClose", without_memory)
    sockets = Sockets()
    loop.post(lambda: linger(sockets.ours, loop, socket.socket.close, sockets.count))
    sockets.wait_until_closed()
