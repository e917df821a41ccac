"""LineHandler answers plain lines without the protocol: nothing may show which way they went."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st
from support import expected
from support.fakes import START, Connection, FakeServer

from echod.echo.protocol import LineFormat
from echod.loop.sockets import FIRST_RECV_BYTES, RECV_BYTES

SETTINGS = {"max_line_bytes": "20", "max_buffered_bytes": "200", "max_connection_age": "50"}
ROOMY = {"max_connection_age": "50"}


class GeneralServer(FakeServer):
    """Every connection takes the general way, as it does when each line is logged."""

    def new_format(self) -> LineFormat:
        return LineFormat(b"one ", self.config.max_line_bytes, logged=True)


class Seen(NamedTuple):
    """All that clients, operators and the log can see of a connection."""

    replies: bytes
    lines: tuple[int, int, int]
    counted: tuple[int, int, int]
    ends: dict[str, list[int]]
    closes: list[tuple[str, float]]
    buffered: int
    active_at: float
    state: str
    polled: list[int]
    closed: bool


def see(connection: Connection) -> Seen:
    handler, server = connection.handler, connection.server
    (counters,) = server.counters
    return Seen(
        bytes(connection.end.taken),
        (handler.lines, handler.received, handler.sent),
        (counters.requests, counters.received, counters.sent),
        counters.ends,
        server.closes,
        server.budget.buffered,
        handler.active_at,
        handler.state.value,
        list(connection.loop.registered.values()),
        connection.end.closed,
    )


def arrive(data: bytes) -> Callable[[Connection], None]:
    return lambda connection: connection.receive(data)


def room(size: int) -> Callable[[Connection], None]:
    def step(connection: Connection) -> None:
        connection.end.room = size
        connection.loop.run()

    return step


def time(seconds: float) -> Callable[[Connection], None]:
    return lambda connection: connection.loop.pass_time(seconds)


def reset(connection: Connection) -> None:
    connection.meet(ConnectionResetError(errno.ECONNRESET, ""))


def stop(connection: Connection) -> None:
    if connection.loop.stop_deadline is None:
        connection.loop.stop(connection.loop.now + 5)


PIECES = st.lists(
    st.sampled_from(
        [b"", b"a", b"\n", b"a\n", b"\n\n", b"a\nb\n", b"a\nb"]
        + [b"x" * size + b"\n" for size in (18, 19, 20, 21)]
    ),
    max_size=4,
).map(b"".join)
STEPS = st.one_of(
    PIECES.map(arrive),
    st.sampled_from([0, 3, 7, 1 << 20]).map(room),
    st.sampled_from([0.2, 1.1, 40.0]).map(time),
    st.sampled_from([Connection.meet_eof, reset, stop]),
)


def both_ways(
    steps: list[Callable[[Connection], None]], settings: dict[str, str] = SETTINGS
) -> list[Seen]:
    """What is seen after each step, which must be the same either way."""
    seen = []
    ways = Connection(FakeServer(**settings)), Connection(GeneralServer(**settings))
    for connection in ways:
        connection.handler.ages_at = START + 50  # not jittered
        connection.handler._schedule()
    for step in steps:
        fast, general = (act(step, connection) for connection in ways)
        assert fast == general
        seen.append(fast)
    for connection in ways:
        shared = connection.server.clean_protocol
        assert (shared.clean, shared.buffered, shared.overlong) == (True, 0, False)
    return seen


def act(step: Callable[[Connection], None], connection: Connection) -> Seen:
    if connection.loop.registered:
        step(connection)
    return see(connection)


@given(st.lists(STEPS, max_size=12))
@example([arrive(b"a\n"), room(3), arrive(b"b\n"), arrive(b"c\n"), room(1 << 20), stop])
@example([arrive(b"x" * 20 + b"\n"), arrive(b"x" * 21 + b"\n")])
@example([stop, arrive(b"a\n")])
@example([time(49.9), time(0.2), arrive(b"a\n")])
def test_a_connection_is_the_same_by_both_ways(steps: list[Callable[[Connection], None]]) -> None:
    """Bytes, counts, events, deadlines and what is polled for, after every step."""
    both_ways(steps)


LARGER = st.lists(
    st.one_of(
        st.just(b"a\n"),
        st.integers(1, 4).map(lambda lines: b"x" * 111 + b"\n" * lines),
        st.integers(-2, 2).map(lambda more: b"x" * (FIRST_RECV_BYTES + more) + b"\n"),
        st.integers(-1, 1).map(lambda more: b"a\n" * (FIRST_RECV_BYTES // 2 + more)),
        st.integers(-1, 1).map(lambda more: b"\n" * (RECV_BYTES + more)),
        st.just(b"x" * RECV_BYTES),
    ),
    min_size=1,
    max_size=4,
).map(b"".join)
WIDER_STEPS = st.one_of(
    LARGER.map(arrive),
    st.sampled_from([0, 3, 700, 1 << 20]).map(room),
    st.sampled_from([Connection.meet_eof, stop]),
)


@given(st.lists(WIDER_STEPS, max_size=6))
@example([arrive(b"a\n" * (FIRST_RECV_BYTES // 2)), arrive(b"a\n"), stop])
@example([arrive(b"a\n" * FIRST_RECV_BYTES), room(3), arrive(b"a\nb\n"), room(1 << 20), stop])
def test_inputs_that_fill_buffers_are_the_same_by_both_ways(
    steps: list[Callable[[Connection], None]],
) -> None:
    """Whichever buffer it is, and however many lines are in it."""
    both_ways(steps, ROOMY)


@given(st.lists(st.sampled_from([b"a\n", b"a\nb\n", b"\n" * 7, b"b" * 30 + b"\n"]), max_size=8))
def test_one_line_and_several_may_follow_each_other(inputs: list[bytes]) -> None:
    """Whatever the handler expects."""
    seen = both_ways([arrive(one) for one in inputs], ROOMY)
    data = b"".join(inputs)
    if seen:
        assert seen[-1].replies == expected(data)
        assert seen[-1].counted == (data.count(b"\n"), len(data), len(expected(data)))


def test_a_connection_reads_more_at_a_time_once_its_input_fills_the_first_buffer() -> None:
    """A small buffer costs a short line less, and a large one a long line."""
    connection = Connection(FakeServer())

    def reads_next(data: bytes) -> int:
        connection.receive(data)
        connection.receive(b"\n")
        return connection.end.recv_bytes

    assert reads_next(b"a\n" * (FIRST_RECV_BYTES // 2 - 1)) == FIRST_RECV_BYTES
    assert reads_next(b"a\n" * (FIRST_RECV_BYTES // 2)) == RECV_BYTES
    assert reads_next(b"a\n") == RECV_BYTES


def test_every_cut_of_an_input_gives_the_same_replies_by_both_ways() -> None:
    """In two, and in three."""
    data = b"a\n\nbcd\n" + b"x" * 20 + b"\ne\n"
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            parts = data[:first], data[first:second], data[second:]
            seen = both_ways([arrive(part) for part in parts])
            assert seen[-1].replies == expected(data)
            assert seen[-1].counted == (5, len(data), len(expected(data)))
