"""Clients that break off at every stage, in every way that a socket has: nothing is raised,
nothing is left behind, and everything is counted.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from support import (
    Echod,
    Metrics,
    Start,
    connect,
    connections,
    expected,
    pause,
    read_exactly,
    read_to_end,
    reset,
    until,
)

SEED = 11
CLIENTS = 8  # at a time
AT_ONCE = 100  # that break off while the process stands still
PREFIX = b"p" * 100  # so that little input makes large replies
SLOTS = 800
STANDSTILL = 0.05  # seconds
MANY_LINES = b"\n" * 100_000  # whose replies do not fit into the sockets: some lines wait
LONG_LINES = (b"x" * (1 << 20) + b"\n") * 2  # the same, and a part of a reply waits


class Stream:
    """What one client has said and heard: all of it a prefix of what the model has to say."""

    def __init__(self, port: int, chance: random.Random, stage: Stage) -> None:
        window = {"receive_buffer": 4096} if stage.small_window else {}
        self.socket = connect(port, "127.0.0.1", **window)
        self.chance = chance
        self.stage = stage
        self.said = b""
        self.heard = 0

    def say(self, data: bytes) -> None:
        self.said += data
        self.socket.sendall(data)

    def say_lines(self) -> None:
        self.say(line(self.chance) * self.chance.randrange(1, 4))

    def say_many_lines(self) -> None:
        self.say(line(self.chance) * 500)

    def say_too_much(self) -> None:
        """And gives the process time to come to a stop over it; if that is too short, it is cut
        at one stage earlier.
        """
        self.say(self.chance.choice((MANY_LINES, LONG_LINES)))
        self.await_reply()
        pause(STANDSTILL, "the process comes to a stop over it")

    def say_half_a_line(self) -> None:
        self.say(line(self.chance)[:-1] + b"half")

    def say_byte_by_byte(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in line(self.chance)[-20:] + b"half":
            self.say(bytes([byte]))

    def await_reply(self) -> None:
        """Until it has arrived, and unread."""
        assert self.socket.recv(1, socket.MSG_PEEK)

    def hear_a_part(self) -> None:
        """Less than all of it."""
        due = expected(self.said, PREFIX)
        size = self.chance.randrange(1, min(len(due), 5000))
        assert read_exactly(self.socket, size) == due[:size]
        self.heard += size

    def hear_all(self) -> None:
        due = expected(self.said, PREFIX)
        assert read_to_end(self.socket) == due
        self.heard += len(due)

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        reset(self.socket)


def line(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(60)).replace(b"\n", b"\r") + b"\n"


@dataclass(frozen=True)
class Stage:
    """How far a client gets before it breaks off, and what its end may be counted as."""

    act: Callable[[Stream], None]
    reasons: frozenset[str]
    blind: bool  # waits for nothing from the server
    small_window: bool
    weight: int


STAGES: list[Stage] = []
Act = Callable[[Stream], None]


def stage(
    *reasons: str, blind: bool = False, small_window: bool = False, weight: int = 10
) -> Callable[[Act], Act]:
    def add(act: Act) -> Act:
        STAGES.append(Stage(act, frozenset(reasons), blind, small_window, weight))
        return act

    return add


# Before a byte.


@stage("unused", blind=True)
def resets_before_a_byte(client: Stream) -> None:
    client.reset()


@stage("unused", blind=True)
def closes_before_a_byte(client: Stream) -> None:
    client.close()


@stage("unused")
def half_closes_before_a_byte(client: Stream) -> None:
    client.half_close()
    client.hear_all()


@stage("unused", blind=True)
def half_closes_before_a_byte_and_resets(client: Stream) -> None:
    client.half_close()
    client.reset()


# In a line.


@stage("reset", blind=True)
def resets_in_a_line(client: Stream) -> None:
    client.say_half_a_line()
    client.reset()


@stage("eof", blind=True)
def closes_in_a_line(client: Stream) -> None:
    client.say_half_a_line()
    client.close()


@stage("eof")
def half_closes_in_a_line(client: Stream) -> None:
    client.say_lines()
    client.say_half_a_line()
    client.half_close()
    client.hear_all()


@stage("reset")
def resets_in_the_line_after_one_that_was_answered(client: Stream) -> None:
    client.say_lines()
    client.await_reply()
    client.say_half_a_line()
    client.reset()


@stage("reset", blind=True, weight=2)
def resets_in_a_line_that_is_long(client: Stream) -> None:
    client.say(b"x" * client.chance.randrange(200_000))
    client.reset()


@stage("eof", blind=True, weight=2)
def closes_in_a_line_that_is_long(client: Stream) -> None:
    client.say(b"x" * client.chance.randrange(200_000))
    client.close()


@stage("reset", blind=True)
def resets_after_single_bytes(client: Stream) -> None:
    client.say_byte_by_byte()
    client.reset()


@stage("eof")
def half_closes_after_single_bytes(client: Stream) -> None:
    client.say_byte_by_byte()
    client.half_close()
    client.hear_all()


@stage("eof")
def sends_an_urgent_byte_in_a_line(client: Stream) -> None:
    """It is not part of the stream."""
    client.say(b"ab")
    client.socket.send(b"!", socket.MSG_OOB)
    client.say(b"c\n")
    client.half_close()
    client.hear_all()


# After a line.


@stage("reset", blind=True)
def resets_right_after_lines(client: Stream) -> None:
    client.say_lines()
    client.reset()


@stage("eof", "reset", blind=True)
def closes_right_after_lines(client: Stream) -> None:
    client.say_lines()
    client.close()


@stage("reset", blind=True)
def resets_right_after_many_lines(client: Stream) -> None:
    client.say_many_lines()
    client.reset()


@stage("reset")
def resets_with_the_reply_unread(client: Stream) -> None:
    client.say_lines()
    client.await_reply()
    client.reset()


@stage("reset")
def closes_with_the_reply_unread(client: Stream) -> None:
    """Which the kernel makes a reset of."""
    client.say_lines()
    client.await_reply()
    client.close()


@stage("eof", "reset", blind=True)
def closes_for_reading_too_with_the_reply_on_its_way(client: Stream) -> None:
    client.say_lines()
    client.socket.shutdown(socket.SHUT_RDWR)
    client.close()


@stage("eof", "reset", blind=True)
def takes_no_reply_from_the_start(client: Stream) -> None:
    client.socket.shutdown(socket.SHUT_RD)
    client.say_lines()
    client.close()


# In the middle of the reply.


@stage("reset")
def resets_in_the_middle_of_the_reply(client: Stream) -> None:
    client.say_many_lines()
    client.hear_a_part()
    client.reset()


@stage("eof", "reset")
def closes_in_the_middle_of_the_reply(client: Stream) -> None:
    client.say_many_lines()
    client.hear_a_part()
    client.close()


@stage("reset", small_window=True, weight=2)
def resets_with_more_due_than_the_sockets_hold(client: Stream) -> None:
    client.say_too_much()
    client.reset()


@stage("reset", small_window=True, weight=2)
def resets_while_much_is_being_answered(client: Stream) -> None:
    client.say(MANY_LINES)
    client.await_reply()
    client.reset()


@stage("reset", small_window=True, weight=2)
def closes_with_more_due_than_the_sockets_hold(client: Stream) -> None:
    client.say_too_much()
    client.hear_a_part()
    client.close()


# Half-closed.


@stage("eof", "reset", blind=True)
def resets_right_after_the_half_close(client: Stream) -> None:
    client.say_lines()
    client.half_close()
    client.reset()


@stage("eof", "reset", blind=True)
def closes_right_after_the_half_close(client: Stream) -> None:
    client.say_lines()
    client.say_half_a_line()
    client.half_close()
    client.close()


@stage("eof", "reset")
def resets_half_closed_with_the_reply_unread(client: Stream) -> None:
    client.say_lines()
    client.half_close()
    client.await_reply()
    client.reset()


@stage("eof", "reset")
def resets_half_closed_in_the_middle_of_the_reply(client: Stream) -> None:
    client.say_many_lines()
    client.half_close()
    client.hear_a_part()
    client.reset()


@stage("eof", "reset", small_window=True, weight=2)
def resets_half_closed_with_more_due_than_the_sockets_hold(client: Stream) -> None:
    client.say_too_much()
    client.half_close()
    client.reset()


@stage("eof")
def resets_when_everything_is_over(client: Stream) -> None:
    client.say_lines()
    client.half_close()
    client.hear_all()
    client.reset()


@stage("eof", weight=5)
def does_nothing_wrong(client: Stream) -> None:
    client.say_many_lines()
    client.half_close()
    client.hear_all()


# All of them.


def break_off(port: int, number: int, stages: Sequence[Stage]) -> Stream:
    """One stream; the same for the same number."""
    chance = random.Random(f"{SEED}/{number}")
    (chosen,) = chance.choices(stages, [one.weight for one in stages])
    stream = Stream(port, chance, chosen)
    try:
        chosen.act(stream)
    except BaseException as error:
        error.add_note(f"stream {number}, {SEED=}: {chosen.act.__name__}")
        raise
    finally:
        stream.close()
    return stream


def be_answered(port: int) -> Stream:
    return break_off(port, 0, STAGES[-1:])


def break_off_in_turn(port: int, numbers: Iterable[int]) -> list[Stream]:
    """The last one is answered, and so all have been accepted."""
    return [*(break_off(port, number, STAGES) for number in numbers), be_answered(port)]


def break_off_at_once(echod: Echod, numbers: Iterable[int]) -> list[Stream]:
    """While the process stands still: everything that a client does is found together."""
    port, blind = echod.port, [one for one in STAGES if one.blind]
    echod.freeze()
    try:
        streams = [break_off(port, number, blind) for number in numbers]
    finally:
        echod.thaw()
    return [*streams, be_answered(port)]


def break_off_all(echod: Echod, count: int) -> list[Stream]:
    """A tenth of them at a process that stands still."""
    port, still = echod.port, count // 10
    batches = [range(at + 1, at + 50) for at in range(0, count - still, 50)]
    streams: list[Stream] = []
    with ThreadPoolExecutor(CLIENTS) as clients:
        for batch in clients.map(lambda numbers: break_off_in_turn(port, numbers), batches):
            streams += batch
    for at in range(count - still, count, AT_ONCE):
        streams += break_off_at_once(echod, range(at + 1, at + AT_ONCE))
    assert len(streams) == count
    assert {one.stage.act for one in streams} == {one.act for one in STAGES}
    return streams


def assert_counted(metrics: Metrics, streams: list[Stream]) -> None:
    """As exactly as it can be known from outside."""

    def closed(reason: str) -> float:
        return metrics("echod_connections_closed_total", reason=reason)

    def surely(reason: str) -> list[Stream]:
        return [one for one in streams if one.stage.reasons == {reason}]

    assert metrics("echod_connections_opened_total") == len(streams)
    assert closed("unused") == sum(not one.said for one in streams)
    assert closed("eof") + closed("reset") + closed("unused") == len(streams)
    assert metrics("echod_connections_closed_total") == len(streams)
    assert closed("eof") >= len(surely("eof"))
    assert closed("reset") >= len(surely("reset"))
    assert metrics("echod_buffered_bytes") == 0
    assert metrics("echod_log_events_dropped_total") == 0
    whole = [one.said for one in surely("eof")]
    said = [one.said for one in streams]
    lines = metrics("echod_requests_total")
    assert lines_in(whole) <= lines <= lines_in(said)
    assert size(whole) <= metrics("echod_received_bytes_total") <= size(said)
    due = sum(data.rfind(b"\n") + 1 for data in said) + lines_in(said) * (len(PREFIX) + 1)
    assert sum(one.heard for one in streams) <= metrics("echod_sent_bytes_total") <= due


def lines_in(data: list[bytes]) -> int:
    return sum(one.count(b"\n") for one in data)


def size(data: list[bytes]) -> int:
    return sum(map(len, data))


def assert_logged(echod: Echod, count: int) -> None:
    """So many ends, by themselves or in sums; and none of it is worth a warning."""
    assert {event["level"] for event in echod.events()} == {"info"}
    single, sums = echod.events("connection closed"), echod.events("more connections closed")
    assert {event["reason"] for event in single} <= {"eof", "reset"}
    assert len(single) + sum(event["count"] for event in sums) == count


def break_off_and_judge(start: Start, threads: str, count: int) -> None:
    limit = ("--max-connections", str(SLOTS))
    echod = start("--handler-threads", threads, *limit, prefix=PREFIX.decode())
    port = echod.port
    files, running = echod.open_files(), echod.threads()
    streams = break_off_all(echod, count)
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    assert_counted(echod.metrics(), streams)
    with connections(port, SLOTS) as clients:  # no connection slot is lost
        for client in clients:
            client.sendall(b"x\n")
        for client in clients:
            assert read_exactly(client, len(PREFIX) + 3) == PREFIX + b" x\n"
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    until(lambda: echod.open_files() == files)
    assert echod.threads() == running
    last = echod.stop()
    assert last["cut"] == 0
    assert last["totals"][0]["opened"] == last["totals"][0]["closed"] == count + SLOTS
    assert_logged(echod, sum(bool(one.said) for one in streams) + SLOTS)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_streams_that_break_off_at_any_stage_leak_nothing(start: Start, threads: str) -> None:
    """No exception, no file, no thread, no byte, no slot; an end is eof, reset or unused."""
    break_off_and_judge(start, threads, 1000)


@pytest.mark.long
@pytest.mark.parametrize("threads", ["1", "2"])
def test_ten_thousand_streams_that_break_off_leak_nothing(start: Start, threads: str) -> None:
    """The same, and more of them."""
    break_off_and_judge(start, threads, 10_000)
