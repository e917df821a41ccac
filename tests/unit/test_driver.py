from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from time import monotonic
from typing import NoReturn

import pytest
from support import until

from echod.loop.event_loop import LOOK_SECONDS, LOOKS, Driven, Driver


class Broken:
    """Something driven in which everything raises."""

    def __init__(self, request: socket.socket) -> None:
        self.request = request
        self.tick = 0

    def fail(self, *_: object) -> NoReturn:
        raise RuntimeError

    handle = flush = drain = cut = expire = crash = fail


@pytest.fixture
def driver() -> Iterator[Driver]:
    defects: list[str] = []
    driver = Driver("under test", lambda: defects.append("defect"))
    driver.defects = defects  # type: ignore[attr-defined]
    driver.start()
    yield driver
    driver.drain(monotonic())
    driver.join()


def test_what_cannot_even_crash_is_thrown_out_and_the_driver_goes_on(driver: Driver) -> None:
    """Nothing that a driver drives can end it or keep it busy for ever."""
    ours, theirs = socket.socketpair()
    with ours:
        broken = Broken(theirs)
        driver.post(lambda: driver.watch(broken))
        ours.sendall(b"x")
        until(lambda: driver.defects)  # type: ignore[attr-defined]
        until(lambda: theirs.fileno() == -1)
    done: list[int] = []
    driver.post(lambda: done.append(1))
    until(lambda: done)


def test_a_defect_of_a_thing_that_is_out_already_is_reported_only(driver: Driver) -> None:
    """It may have taken itself out before it raised."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        broken = Broken(theirs)
        driver.post(lambda: driver.timers.schedule(broken, monotonic()))
        until(lambda: driver.defects)  # type: ignore[attr-defined]


def test_more_calls_than_the_waking_pipe_holds_are_all_made(driver: Driver) -> None:
    """A full pipe has wake-ups enough."""
    made: list[int] = []
    for number in range(20_000):
        driver.post(lambda number=number: made.append(number))  # type: ignore[misc]
    until(lambda: len(made) == 20_000)
    assert made == list(range(20_000))


def test_who_asks_knows_that_it_is_done(driver: Driver) -> None:
    """In the driver's own thread, before anything else happens."""
    made: list[str] = []
    driver.ask(lambda: made.append(threading.current_thread().name))
    assert made == ["under test"]


def test_who_asks_is_told_what_went_wrong(driver: Driver) -> None:
    """Which is no defect of the driver's."""

    def refuse() -> NoReturn:
        raise OSError(errno.ENOSPC, "no room")

    with pytest.raises(OSError, match="no room"):
        driver.ask(refuse)
    driver.ask(lambda: None)
    assert driver.defects == []  # type: ignore[attr-defined]


def test_a_thread_that_does_not_answer_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has died, or stands still: for longer than a busy machine may need."""
    assert LOOKS * LOOK_SECONDS >= 5
    monkeypatch.setattr("echod.loop.event_loop.LOOK_SECONDS", 0.01)
    silent = Driver("silent", lambda: None)
    with pytest.raises(TimeoutError, match=r"^the thread silent does not answer$"):
        silent.ask(lambda: None)
    silent.drain(monotonic())
    silent.start()  # only so that it closes what it holds
    silent.join()


class Recording(Broken):
    """Something driven that notes its events."""

    def __init__(self, request: socket.socket, seen: list[str]) -> None:
        super().__init__(request)
        self.seen = seen

    def handle(self, *_: object) -> None:  # type: ignore[override]  # it does return
        self.request.recv(1)
        self.seen.append("event")


class Ending(Recording):
    """One that takes another out."""

    def __init__(self, request: socket.socket, seen: list[str], driver: Driver) -> None:
        super().__init__(request, seen)
        self.driver = driver
        self.other: Driven | None = None

    def handle(self, *_: object) -> None:  # type: ignore[override]  # it does return
        super().handle()
        if self.other:
            self.driver.forget(self.other)
        self.driver.forget(self)


def test_one_that_was_taken_out_in_this_round_is_not_called() -> None:
    """Its event was there already."""
    driver = Driver("under test", lambda: None)
    seen: list[str] = []
    pairs = [socket.socketpair() for _ in range(2)]
    both = [Ending(theirs, seen, driver) for _, theirs in pairs]
    both[0].other, both[1].other = both[1], both[0]
    for (ours, _), ending in zip(pairs, both, strict=True):
        driver.watch(ending)
        ours.sendall(b"x")
    driver.drain(monotonic() + 20)
    driver.start()
    driver.join()
    assert seen == ["event"]
    for pair in pairs:
        for one in pair:
            one.close()


def test_calls_are_made_when_the_events_of_the_round_are_dealt_with() -> None:
    """A call may end a connection; an event of the same round must not find it ended."""
    driver = Driver("under test", lambda: None)
    ours, theirs = socket.socketpair()
    seen: list[str] = []
    with ours, theirs:
        driven = Recording(theirs, seen)
        driver.watch(driven)

        def end() -> None:
            seen.append("call")
            driver.forget(driven)

        driver.post(end)  # ready first, and dealt with last
        ours.sendall(b"x")
        driver.drain(monotonic() + 20)
        driver.start()
        driver.join()
    assert seen == ["event", "call"]
