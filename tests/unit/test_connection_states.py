"""LineHandler's states and events: the table of its docstring, and a model of all of it."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support import expected
from support.fakes import START, Connection, FakeServer

from echod.echo import handler as handler_module
from echod.echo.closing import State
from echod.loop.poller import READ, WRITE

SETTINGS = {
    "max_line_bytes": "100",
    "max_buffered_bytes": "5000",
    "idle_timeout": "60",
    "write_timeout": "30",
    "max_connection_age": "50",
}


def is_open() -> Connection:
    """It has answered a line, and nothing is pending."""
    connection = Connection(FakeServer(**SETTINGS))
    connection.receive(b"a\n")
    return connection


def is_pending() -> Connection:
    """Open; the kernel takes no more of its replies."""
    connection = Connection(FakeServer(**SETTINGS))
    connection.end.room = 2
    connection.receive(b"a\n")
    return connection


def waits_for_a_line() -> Connection:
    """Closing at its age: a line, or a second, and it closes."""
    connection = is_open()
    connection.loop.pass_time(connection.handler.ages_at - START + 0.1)
    return connection


def waits_for_the_first_byte() -> Connection:
    """Draining as a client that has only just connected."""
    connection = Connection(FakeServer(**SETTINGS))
    connection.loop.stop(START + 10)
    return connection


def drains() -> Connection:
    """Draining; the kernel takes no more of its replies."""
    connection = is_pending()
    connection.loop.stop(START + 1000)
    return connection


def is_closed() -> Connection:
    connection = is_open()
    connection.end.ended = True
    connection.loop.run()
    return connection


def line(connection: Connection) -> None:
    connection.receive(b"b\n")


def half_a_line(connection: Connection) -> None:
    connection.receive(b"half")


def long_line(connection: Connection) -> None:
    connection.receive(b"x" * 101)


def eof(connection: Connection) -> None:
    connection.meet_eof()


def reset(connection: Connection) -> None:
    connection.meet(ConnectionResetError(errno.ECONNRESET, ""))


def gone(connection: Connection) -> None:
    connection.meet(OSError(errno.EHOSTUNREACH, ""))


def room(connection: Connection) -> None:
    connection.end.room = 1 << 20
    connection.loop.run()


def a_second(connection: Connection) -> None:
    connection.loop.pass_time(1.2)


def half_a_minute(connection: Connection) -> None:
    connection.loop.pass_time(30.1)


def two_minutes(connection: Connection) -> None:
    connection.loop.pass_time(120)


def on_stop(connection: Connection) -> None:
    for handler in list(connection.loop.registered):
        handler.on_stop()


def abort(connection: Connection) -> None:
    for handler in list(connection.loop.registered):
        handler.abort()


def on_error(connection: Connection) -> None:
    for handler in list(connection.loop.registered):
        handler.on_error(ValueError("a bug"))


OPEN, CLOSING = "open", "closing"
TABLE: dict[Callable[[], Connection], dict[Callable[[Connection], None], str]] = {
    is_open: {
        line: OPEN, half_a_line: OPEN, long_line: "line_too_long", eof: "eof", reset: "reset",
        gone: "timeout", room: OPEN, a_second: OPEN, half_a_minute: OPEN, two_minutes: "max_age",
        on_stop: "drain", abort: "drain_timeout", on_error: "error",
    },
    is_pending: {  # not read: what arrives waits, and so does the end of the stream
        line: OPEN, half_a_line: OPEN, long_line: OPEN, eof: OPEN, reset: "reset",
        gone: "timeout", room: OPEN, a_second: OPEN, half_a_minute: "write_timeout",
        two_minutes: "write_timeout", on_stop: CLOSING, abort: "drain_timeout", on_error: "error",
    },
    waits_for_a_line: {
        line: "max_age", half_a_line: CLOSING, long_line: "line_too_long", eof: "eof",
        reset: "reset", gone: "timeout", room: CLOSING, a_second: "max_age",
        half_a_minute: "max_age", two_minutes: "max_age", on_stop: "drain",
        abort: "drain_timeout", on_error: "error",
    },
    waits_for_the_first_byte: {
        line: "drain", half_a_line: CLOSING, long_line: "line_too_long", eof: "unused",
        reset: "unused", gone: "timeout", room: CLOSING, a_second: "drain",
        half_a_minute: "drain", two_minutes: "drain", on_stop: CLOSING,
        abort: "drain_timeout", on_error: "error",
    },
    drains: {
        line: CLOSING, half_a_line: CLOSING, long_line: CLOSING, eof: CLOSING, reset: "reset",
        gone: "timeout", room: "drain", a_second: CLOSING, half_a_minute: "write_timeout",
        two_minutes: "write_timeout", on_stop: CLOSING, abort: "drain_timeout", on_error: "error",
    },
    is_closed: dict.fromkeys(
        (line, half_a_line, long_line, eof, reset, gone, room, a_second, half_a_minute,
         two_minutes, on_stop, abort, on_error), "eof",
    ),
}  # fmt: skip


WAITING = [(waits_for_a_line, "max_age"), (waits_for_the_first_byte, "drain")]


@pytest.mark.parametrize(("state", "reason"), WAITING)
def test_a_close_that_waits_for_input_answers_all_of_it(
    state: Callable[[], Connection], reason: str
) -> None:
    """Also if a line ends where the first buffer does."""
    connection = state()
    connection.receive(b"a\n" * 1000)
    assert connection.end.taken.endswith(expected(b"a\n" * 1000))
    assert connection.handler.reason == reason


@pytest.mark.parametrize(("state", "reason"), WAITING)
def test_a_close_that_has_waited_too_long_answers_what_has_arrived(
    state: Callable[[], Connection], reason: str
) -> None:
    """While the process was suspended, for example: its timers come before its sockets then."""
    connection = state()
    connection.end.arrived += b"0123456 8\n" * 300
    connection.loop.now += 5
    connection.handler.on_timer(connection.loop.now)
    connection.loop.run()
    assert connection.end.taken.endswith(expected(b"0123456 8\n" * 300))
    assert connection.handler.reason == reason


@pytest.mark.parametrize("data", [b"x" * 60_000 + b"\n", b"0123456 8\n" * 100])
def test_lines_that_arrive_whole_need_no_budget(data: bytes) -> None:
    """Two clients who hoard long lines would otherwise close all others."""
    server = FakeServer(max_buffered_bytes="1")
    connection = Connection(server)
    connection.receive(data)
    assert connection.end.taken == expected(data)
    assert not server.closes


@pytest.mark.parametrize(
    ("event", "reason", "missing"),
    [
        (eof, "eof", "loop.unregister"),
        (eof, "eof", "server.release"),
        (on_stop, "drain", "loop.unregister"),
        (on_stop, "drain", "partial"),
        (on_stop, "drain", "linger"),
    ],
)
def test_a_close_that_fails_amid_it_is_finished_and_counted_once(
    monkeypatch: pytest.MonkeyPatch,
    event: Callable[[Connection], None],
    reason: str,
    missing: str,
) -> None:
    """For want of memory: the loop calls on_error, which takes up what is left."""
    connection = is_open()

    def without_memory(*_: object, **__: object) -> None:
        raise MemoryError

    owner, _, name = missing.rpartition(".")
    with monkeypatch.context() as patched:
        target = getattr(connection, owner) if owner else handler_module
        patched.setattr(target, name, without_memory)
        with pytest.raises(MemoryError):
            event(connection)
    connection.handler.on_error(MemoryError())
    connection.loop.pass_time(2)  # a lingering close ends
    assert connection.end.closed
    assert connection.loop.registered == {}
    assert sum(connection.server.counters[0].closed.values()) == 1
    assert [seen for seen, _ in connection.server.closes] == [reason]


def test_a_bug_that_cannot_be_reported_closes_its_connection_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For want of memory: it is counted, and its slot is free."""
    connection = is_open()

    def without_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(connection.server, "handle_error", without_memory)
    with pytest.raises(MemoryError):
        connection.handler.on_error(ValueError())
    assert connection.handler.reason == "error"
    check(connection)


@pytest.mark.parametrize(
    ("state", "event", "outcome"),
    [(state, event, row[event]) for state, row in TABLE.items() for event in row],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_connection_changes_states_as_its_table_says(
    state: Callable[[], Connection], event: Callable[[Connection], None], outcome: str
) -> None:
    connection = state()
    event(connection)
    handler = connection.handler
    if outcome in (OPEN, CLOSING):
        assert (handler.state, handler.reason) == (State(outcome), "")
        assert handler in connection.loop.registered
    else:
        assert (handler.state, handler.reason) == (State.CLOSED, outcome)
        assert handler not in connection.loop.registered
        assert [reason for reason, _ in connection.server.closes] == [outcome]
        assert connection.server.budget.buffered == 0
    check(connection)


def check(connection: Connection) -> None:
    """What holds at any time."""
    handler, loop, server = connection.handler, connection.loop, connection.server
    closed = handler.state is State.CLOSED
    assert closed == bool(handler.reason) == (handler not in loop.registered)
    assert (handler.intent is not None) == (handler.state is State.CLOSING)
    assert server.budget.buffered == handler.buffered
    assert len(server.closes) == sum(server.counters[0].closed.values()) == closed
    if closed:
        assert connection.end.closed or any(one is not handler for one in loop.registered)
    else:
        pending = handler.unsent or handler.protocol.waiting
        assert loop.registered[handler] == (WRITE if pending else READ)
        assert not connection.end.closed


class ConnectionModel(RuleBasedStateMachine):
    """A client that does what it likes, beside a model that keeps two strings of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = Connection(FakeServer(**SETTINGS))
        self.sent = b""
        self.due_at_stop: bytes | None = None

    @property
    def end(self) -> str:
        return self.connection.handler.reason

    @precondition(lambda self: not self.connection.end.ended and not self.connection.end.closed)
    @rule(
        data=st.lists(st.sampled_from([b"\n", b"a\n", b"bc", b"x" * 60]), max_size=6).map(b"".join)
    )
    def the_client_sends(self, data: bytes) -> None:
        self.sent += data
        self.connection.receive(data)

    @rule()
    def the_client_ends_its_stream(self) -> None:
        eof(self.connection)

    @rule(number=st.sampled_from([errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.EBADF]))
    def the_socket_fails(self, number: int) -> None:
        self.connection.end.error = OSError(number, "")
        self.connection.loop.run()

    @rule(size=st.sampled_from([0, 1, 10, 1 << 20]))
    def the_kernel_has_room(self, size: int) -> None:
        self.connection.end.room = size
        self.connection.loop.run()

    @rule(seconds=st.sampled_from([0.1, 0.9, 1.1, 29.0, 45.0]))
    def time_passes(self, seconds: float) -> None:
        self.connection.loop.pass_time(seconds)

    @precondition(lambda self: self.due_at_stop is None)
    @rule(seconds=st.sampled_from([0.0, 2.0, 100.0]))
    def the_loop_stops(self, seconds: float) -> None:
        self.due_at_stop = expected(self.sent)
        self.connection.loop.stop(self.connection.loop.now + seconds)

    @precondition(lambda self: self.due_at_stop is not None)
    @rule()
    def the_deadline_of_the_stop_has_come(self) -> None:
        abort(self.connection)

    @invariant()
    def every_part_says_the_same(self) -> None:
        check(self.connection)

    @invariant()
    def replies_are_the_beginning_of_what_the_reference_answers(self) -> None:
        assert expected(self.sent).startswith(self.connection.end.taken)

    @invariant()
    def counts_are_what_crossed_the_socket(self) -> None:
        counters, end = self.connection.server.counters[0], self.connection.end
        assert counters.sent == len(end.taken) == self.connection.handler.sent
        assert counters.received == len(self.sent) - len(end.arrived)
        assert counters.requests == self.connection.handler.lines

    @invariant()
    def no_close_that_is_the_servers_own_loses_a_reply(self) -> None:
        taken = bytes(self.connection.end.taken)
        if self.end in ("eof", "max_age", "drain", "line_too_long"):
            assert taken.endswith(b"\n") or not taken
            assert taken.count(b"\n") == self.connection.handler.lines
        if self.end == "drain" and self.due_at_stop is not None:
            assert taken.startswith(self.due_at_stop)


TestConnectionModel = ConnectionModel.TestCase
