from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any, NoReturn

import pytest
from support import PATIENCE, until

from echod.loop.acceptor import Acceptor
from echod.loop.event_loop import LOOK_SECONDS, LOOKS, PAUSE_SECONDS, EventLoop
from echod.loop.interfaces import EventHandler
from echod.loop.periodic import Periodic


class Broken:
    """A handler in which everything raises."""

    def __init__(self, request: socket.socket) -> None:
        self.request = request
        self.timer_slot = 0

    def fail(self, *_: object) -> NoReturn:
        raise RuntimeError

    handle = flush = on_stop = abort = on_timer = on_error = fail


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    bugs: list[str] = []
    loop = EventLoop("under test", lambda: bugs.append("bug"))
    loop.bugs = bugs  # type: ignore[attr-defined]
    loop.start()
    yield loop
    loop.stop(monotonic())
    loop.join()


def test_a_handler_whose_on_error_raises_is_unregistered_and_the_loop_goes_on(
    loop: EventLoop,
) -> None:
    """No handler can end a loop or keep it busy without end."""
    ours, theirs = socket.socketpair()
    with ours:
        broken = Broken(theirs)
        loop.post(lambda: loop.register(broken))
        ours.sendall(b"x")
        until(lambda: loop.bugs)  # type: ignore[attr-defined]
        until(lambda: theirs.fileno() == -1)
    done: list[int] = []
    loop.post(lambda: done.append(1))
    until(lambda: done)


def test_an_exception_of_an_unregistered_handler_is_reported_alone(loop: EventLoop) -> None:
    """It may have taken itself out before it raised."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        broken = Broken(theirs)
        loop.post(lambda: loop.timers.schedule(broken, monotonic()))
        until(lambda: loop.bugs)  # type: ignore[attr-defined]


def test_more_posted_calls_than_the_wake_up_socket_holds_are_all_made(loop: EventLoop) -> None:
    """A full pipe has wake-ups enough."""
    made: list[int] = []
    for number in range(20_000):
        loop.post(lambda number=number: made.append(number))  # type: ignore[misc]
    until(lambda: len(made) == 20_000)
    assert made == list(range(20_000))


def test_ask_returns_after_the_loop_has_made_the_call(loop: EventLoop) -> None:
    """In the loop's own thread, before anything else happens."""
    made: list[str] = []
    loop.ask(lambda: made.append(threading.current_thread().name))
    assert made == ["under test"]


def test_ask_raises_what_its_call_raises(loop: EventLoop) -> None:
    """Which is no bug of the loop's."""

    def refuse() -> NoReturn:
        raise OSError(errno.ENOSPC, "no room")

    with pytest.raises(OSError, match="no room"):
        loop.ask(refuse)
    loop.ask(lambda: None)
    assert loop.bugs == []  # type: ignore[attr-defined]


def test_ask_times_out_if_the_loop_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has died, or stands still: for longer than a busy machine may need."""
    assert LOOKS * LOOK_SECONDS >= 5
    monkeypatch.setattr("echod.loop.event_loop.LOOK_SECONDS", 0.01)
    silent = EventLoop("silent", lambda: None)
    with pytest.raises(TimeoutError, match=r"^the thread silent does not answer$"):
        silent.ask(lambda: None)
    silent.stop(monotonic())
    silent.start()  # only so that it closes what it holds
    silent.join()


class Recording(Broken):
    """A handler that notes its events."""

    def __init__(self, request: socket.socket, seen: list[str]) -> None:
        super().__init__(request)
        self.seen = seen

    def handle(self, *_: object) -> None:  # type: ignore[override]  # it does return
        self.request.recv(1)
        self.seen.append("event")


class Ending(Recording):
    """One that takes another out."""

    def __init__(self, request: socket.socket, seen: list[str], loop: EventLoop) -> None:
        super().__init__(request, seen)
        self.loop = loop
        self.other: EventHandler | None = None

    def handle(self, *_: object) -> None:  # type: ignore[override]  # it does return
        super().handle()
        if self.other:
            self.loop.unregister(self.other)
        self.loop.unregister(self)


def test_a_handler_unregistered_in_this_round_is_not_called() -> None:
    """Its event was there already."""
    loop = EventLoop("under test", lambda: None)
    seen: list[str] = []
    pairs = [socket.socketpair() for _ in range(2)]
    both = [Ending(theirs, seen, loop) for _, theirs in pairs]
    both[0].other, both[1].other = both[1], both[0]
    for (ours, _), ending in zip(pairs, both, strict=True):
        loop.register(ending)
        ours.sendall(b"x")
    loop.stop(monotonic() + 20)
    loop.start()
    loop.join()
    assert seen == ["event"]
    for pair in pairs:
        for one in pair:
            one.close()


def test_posted_calls_are_made_after_the_events_of_the_round() -> None:
    """A call may end a connection; an event of the same round must not find it ended."""
    loop = EventLoop("under test", lambda: None)
    ours, theirs = socket.socketpair()
    seen: list[str] = []
    with ours, theirs:
        handler = Recording(theirs, seen)
        loop.register(handler)

        def end() -> None:
            seen.append("call")
            loop.unregister(handler)

        loop.post(end)  # ready first, and dealt with last
        ours.sendall(b"x")
        loop.stop(monotonic() + 20)
        loop.start()
        loop.join()
    assert seen == ["event", "call"]


def test_a_periodic_call_that_raises_is_reported_and_made_again(loop: EventLoop) -> None:
    """Like a timer of any handler."""
    made: list[int] = []

    def call() -> None:
        made.append(len(made))
        if len(made) == 1:
            raise RuntimeError

    periodic = Periodic(loop, 0.01, call)
    loop.ask(periodic.start)
    until(lambda: len(made) >= 3)
    assert loop.bugs == ["bug"]  # type: ignore[attr-defined]


def test_a_broken_wake_up_socket_is_reported(loop: EventLoop) -> None:
    """The loop continues with its other calls."""
    loop.ask(lambda: loop._inbox.on_error(OSError()))
    assert loop.bugs == ["bug"]  # type: ignore[attr-defined]
    loop.ask(lambda: None)


class Starved:
    """A poller that has no memory for its first waits."""

    def __init__(self, real: Any, times: int) -> None:
        self._real, self._left = real, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def wait(self, seconds: float) -> Any:
        self._left -= 1
        if self._left >= 0:
            raise MemoryError
        return self._real.wait(seconds)


@pytest.mark.parametrize("report", ["works", "raises"])
def test_a_loop_that_has_no_memory_for_a_round_goes_on(report: str) -> None:
    """It serves all connections of its thread; even the report may be too much."""
    reports: list[str] = []

    def report_bug() -> None:
        reports.append(report)
        if report == "raises":
            raise MemoryError

    loop = EventLoop("under test", report_bug)
    loop._poller = Starved(loop._poller, 2)
    loop.start()
    loop.ask(lambda: None)
    assert reports == [report] * 2
    loop.stop(monotonic())
    loop.join()


def test_a_handler_is_unregistered_though_reporting_its_bug_raises() -> None:
    """It would be called again at once, without end."""

    def report_bug() -> NoReturn:
        raise MemoryError

    loop = EventLoop("under test", report_bug)
    loop.start()
    ours, theirs = socket.socketpair()
    with ours:
        loop.post(lambda: loop.register(Broken(theirs)))
        ours.sendall(b"x")
        until(lambda: theirs.fileno() == -1)
    loop.ask(lambda: None)
    loop.stop(monotonic())
    loop.join()


class Forgiving(Broken):
    """Closes its socket at its second error; for its first one there is no memory."""

    def __init__(self, request: socket.socket, loop: EventLoop) -> None:
        super().__init__(request)
        self.loop = loop
        self.errors = 0

    def on_error(self, *_: object) -> None:  # type: ignore[override]
        self.errors += 1
        if self.errors == 1:
            raise MemoryError
        self.loop.unregister(self)
        self.request.close()


def test_an_error_that_a_handler_had_no_memory_for_is_met_again(loop: EventLoop) -> None:
    """It alone knows what to free."""
    ours, theirs = socket.socketpair()
    with ours:
        handler = Forgiving(theirs, loop)
        loop.post(lambda: loop.register(handler))
        ours.sendall(b"x")
        until(lambda: theirs.fileno() == -1)
    loop.ask(lambda: None)
    assert handler.errors == 2
    assert loop.bugs == []  # type: ignore[attr-defined]


def test_a_handler_that_cannot_be_unregistered_is_closed_and_raises_nothing(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What calls it has caught one error, and would count it twice."""
    ours, theirs = socket.socketpair()
    broken = Broken(theirs)
    with ours:
        loop.ask(lambda: loop.register(broken))
        monkeypatch.setattr(loop, "unregister", broken.fail)
        loop.ask(lambda: loop.failed(broken, RuntimeError()))
        assert theirs.fileno() == -1
        assert loop.bugs == ["bug", "bug"]  # type: ignore[attr-defined]
        monkeypatch.undo()
        loop.ask(lambda: loop._registered.discard(broken))


def test_timers_that_have_expired_are_called_though_one_lacks_memory(loop: EventLoop) -> None:
    """The others of its round, too; each meets its own error."""
    called: list[int] = []

    class Entry(Broken):
        def on_timer(self, *_: object) -> None:  # type: ignore[override]
            called.append(1)
            raise MemoryError

    ours, theirs = socket.socketpair()
    with ours, theirs:
        entries = [Entry(theirs) for _ in range(5)]

        def schedule() -> None:
            for one in entries:
                loop.timers.schedule(one, 0.0)

        loop.ask(schedule)
        until(lambda: len(called) == 5)


def test_a_stop_without_memory_to_tell_its_handlers_tells_them_later(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be cut at its deadline."""
    monkeypatch.setattr("echod.loop.event_loop.PAUSE_SECONDS", 0.0)
    ours, theirs = socket.socketpair()

    class Scarce(set[Any]):
        times = 2

        def __iter__(self) -> Any:
            self.times -= 1
            if self.times >= 0:
                raise MemoryError
            return super().__iter__()

    class Patient(Broken):
        def on_stop(self, *_: object) -> None:  # type: ignore[override]
            loop.unregister(self)

    with ours, theirs:
        loop._registered = Scarce()
        loop.ask(lambda: loop.register(Patient(theirs)))
        loop.stop(monotonic() + 1000)
        loop.join(PATIENCE)
        assert not loop.is_alive()


def test_a_handler_that_stays_and_has_no_memory_for_its_error_is_no_busy_loop(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one of posted calls, for example, whose socket stays readable."""
    pauses: list[float] = []
    monkeypatch.setattr("echod.loop.event_loop.sleep", pauses.append)

    class Staying(Broken):
        def on_error(self, *_: object) -> NoReturn:
            raise MemoryError

    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.ask(lambda: loop.failed(Staying(theirs), RuntimeError()))
    assert pauses == [PAUSE_SECONDS]


class Silent:
    """A waker that has no memory to send."""

    def send(self, _: bytes) -> NoReturn:
        raise MemoryError

    def close(self) -> None:
        """Nothing is open."""


def test_a_call_that_is_posted_without_memory_to_wake_the_loop_is_made_once(
    loop: EventLoop,
) -> None:
    """The poster must not take it for lost."""
    waker, loop._inbox._waker = loop._inbox._waker, Silent()  # type: ignore[assignment]
    made: list[int] = []
    loop.post(lambda: made.append(1))
    loop._inbox._waker = waker
    loop.ask(lambda: None)
    assert made == [1]


def test_a_port_pauses_though_there_is_no_memory_to_report_why() -> None:
    """It is not closed."""
    accepts: list[int] = []

    def accept() -> bool:
        accepts.append(1)
        if len(accepts) < 3:
            raise RuntimeError
        return False

    def report() -> NoReturn:
        raise MemoryError

    loop = EventLoop("under test", report)
    loop.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        acceptor = Acceptor(listener, loop, accept, lambda: None)
        loop.ask(acceptor.start)
        with socket.create_connection(listener.getsockname()):
            until(lambda: len(accepts) >= 3)
        assert listener.fileno() >= 0
        loop.ask(acceptor.on_stop)
    loop.stop(monotonic())
    loop.join()
