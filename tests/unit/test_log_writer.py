from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import PATIENCE, until

from echod.telemetry import log_writer as logs
from echod.telemetry import throttling
from echod.telemetry.log_writer import LogWriter, make_logger, peer, printable
from echod.telemetry.throttling import RateLimitedEvent


class Lines:
    """Replaces the writer: keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def msg(self, line: str) -> None:
        self.lines.append(line)

    debug = info = warning = error = msg

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


def logger_to(lines: Lines, *, console: bool = False, level: str = "info") -> Any:
    return make_logger(lines, level, console=console, colors=False)  # type: ignore[arg-type]


@given(st.text(), st.booleans())
def test_an_event_is_one_line_without_control_bytes_whatever_is_in_it(
    text: str, console: bool
) -> None:
    """Neither a client nor a prefix can forge an event or drive a terminal."""
    lines = Lines()
    logger_to(lines, console=console).info("said " + text, what=text)
    (line,) = lines.lines
    assert not any(ord(ch) < 0x20 or 0x7F <= ord(ch) < 0xA0 for ch in line)
    assert len(line.splitlines()) == 1
    if not console:
        assert json.loads(line)["level"] == "info"


def test_a_json_event_begins_with_time_level_and_text_and_leaves_out_what_is_not_known() -> None:
    """A person can read it too."""
    lines = Lines()
    logger_to(lines).info("ready", seconds=1.5, version=None)
    (event,) = lines.events()
    assert list(event) == ["timestamp", "level", "event", "seconds"]


@given(st.binary(max_size=2000))
def test_data_of_clients_is_logged_as_text_and_truncated(data: bytes) -> None:
    """Invalid UTF-8 is escaped, a megabyte does not reach the log."""
    assert len(printable(data)) <= max(4 * logs.CUT_AT, 8) + 3


def test_peers_are_written_the_way_people_write_them() -> None:
    """An IPv4 client of a dual-stack socket is an IPv4 client."""
    assert peer(("::ffff:192.0.2.1", 40000, 0, 0)) == "192.0.2.1:40000"
    assert peer(("192.0.2.1", 40000)) == "192.0.2.1:40000"
    assert peer(("2001:db8::1", 40000, 0, 0)) == "[2001:db8::1]:40000"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_ten_events_in_any_second_are_logged_one_by_one_and_the_others_summed_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However a flood lies to the seconds of the clock, and nothing of it is lost."""
    clock, sums = Clock(), list[dict[str, int]]()
    monkeypatch.setattr(throttling, "monotonic", clock)
    limited = RateLimitedEvent(lambda **facts: sums.append(facts), amounts=True)
    allowed = [limited.allows(2, 10, 14) for _ in range(5)]
    clock.now = 100.9
    allowed += [limited.allows(2, 10, 14) for _ in range(20)]
    assert (allowed, sums) == ([True] * 10 + [False] * 15, [])
    clock.now = 101.0
    assert [limited.allows(2, 10, 14) for _ in range(6)] == [True] * 5 + [False]
    limited.summarize()
    assert sums == []
    clock.now = 102.0
    assert limited.allows(2, 10, 14)
    limited.summarize(now=True)
    assert sums == [{"count": 16, "lines": 32, "received_bytes": 160, "sent_bytes": 224}]
    clock.now = 102.5
    assert [limited.allows(0, 1) for _ in range(10)] == [True] * 9 + [False]
    limited.summarize(now=True)
    assert sums[1:] == [{"count": 1, "lines": 0, "received_bytes": 1, "sent_bytes": 0}]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_a_stalled_reader_of_the_log_costs_events_and_never_the_caller(
    pipe: tuple[int, int],
) -> None:
    """The queue is bounded; excess events are counted, and writing continues afterwards."""
    reader, descriptor = pipe
    writer = LogWriter(descriptor)
    writer.start()
    for _ in range(3 * logs.QUEUED_EVENTS):
        writer.msg("x" * 200)
    assert writer.dropped >= logs.QUEUED_EVENTS
    writer.close(0.01, late=PATIENCE)  # gives up in time
    assert writer.is_alive()
    drain = threading.Thread(target=lambda: [*iter(lambda: os.read(reader, 1 << 16), b"")])
    drain.start()
    writer.close(PATIENCE)
    assert not writer.is_alive()
    os.close(descriptor)
    drain.join(PATIENCE)


def test_a_late_log_writer_is_waited_for_while_the_log_is_writable(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that gets no CPU for a moment, or a slow disk, must not cost the last event."""
    reader, descriptor = pipe
    writer = LogWriter(descriptor)
    on = threading.Event()

    def write(line: bytes) -> None:
        on.wait()
        os.write(descriptor, line)

    monkeypatch.setattr(writer, "_write", write)
    writer.start()
    writer.msg("stopped")
    writer.close(0.01, late=0.05)  # not for ever
    assert writer.is_alive()
    threading.Timer(0.2, on.set).start()
    writer.close(0.01, late=PATIENCE)
    assert not writer.is_alive()
    assert os.read(reader, 100) == b"stopped\n"


def test_a_log_pipe_made_non_blocking_loses_no_event(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that shares the pipe may have changed its mode."""
    reader, descriptor = pipe
    os.set_blocking(descriptor, False)
    waits: list[float] = []
    real = select.select

    def counting(*arguments: Any) -> Any:
        waits.append(0)
        return real(*arguments)

    monkeypatch.setattr(select, "select", counting)
    writer = LogWriter(descriptor)
    writer.start()
    line = "y" * 999
    for _ in range(500):  # far over a pipe's 64 KiB
        writer.msg(line)
    until(lambda: waits)
    with os.fdopen(reader, "rb", closefd=False) as stream:
        assert [stream.readline() for _ in range(500)] == [line.encode() + b"\n"] * 500
    writer.close(PATIENCE)
    assert writer.dropped == 0


def test_an_event_after_a_partly_written_one_begins_its_own_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that was full for a moment damages one event, not two."""
    written = b""
    room = [30]

    def write(_: int, data: bytes) -> int:
        nonlocal written
        if not room[0]:
            room[0] = 1000
            raise OSError(28, "No space left on device")
        taken = data[: room[0]]
        written += taken
        room[0] -= len(taken)
        return len(taken)

    monkeypatch.setattr(os, "write", write)
    writer = LogWriter(1)
    writer.start()
    for text in ("a" * 20, "b" * 20, "c" * 20, "d" * 20):
        writer.msg(text)
    writer.close(PATIENCE)
    assert written.split(b"\n") == [b"a" * 20, b"b" * 9, b"c" * 20, b"d" * 20, b""]
    assert writer.dropped == 1


def test_a_closed_log_counts_its_events_as_dropped() -> None:
    """EPIPE is no reason to stop the service."""
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        writer = LogWriter(ours.fileno())
        writer.start()
        writer.msg("anybody?")
        until(lambda: writer.dropped == 1)
        writer.close(PATIENCE)
        assert not writer.is_alive()


class Scarce(SimpleQueue[bytes | None]):
    """No memory for the first wait."""

    waits = 0

    def get(self, *args: Any, **more: Any) -> bytes | None:
        self.waits += 1
        if self.waits == 1:
            raise MemoryError
        return super().get(*args, **more)


def test_memory_that_runs_out_costs_one_event_and_not_the_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the wait for an event, and in a write."""
    written: list[bytes] = []

    def write(_descriptor: int, data: bytes) -> int:
        if data == b"lost\n":
            raise MemoryError
        written.append(data)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    writer = LogWriter(1)
    writer._queue = Scarce()
    writer.start()
    for text in ("one", "lost", "two"):
        writer.msg(text)
    writer.close(PATIENCE)
    assert not writer.is_alive()
    assert (written, writer.dropped) == ([b"one\n", b"two\n"], 1)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größer 世界 😀", "größer 世界 😀"),
        ("a\nb\x1b\x7f", r"a\nb\x1b\x7f"),
        ("a\x85\xad\u2028\u202e", r"a\u0085\u00ad\u2028\u202e"),
        ("\udc80\udcff\ud800\udfff", r"\x80\xff\ud800\udfff"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_json_keeps_letters_and_escapes_what_is_none(text: str, shown: str) -> None:
    """A byte that was no UTF-8 and the control of its number are kept apart."""
    lines = Lines()
    logger_to(lines).info("said", what=text)
    assert lines.events()[0]["what"] == shown
    assert "\\" in shown or shown in lines.lines[0]
    lines.lines[0].encode()


def test_the_log_queue_can_be_made_larger(pipe: tuple[int, int]) -> None:
    """However little of them the log takes meanwhile."""
    reader, descriptor = pipe
    count = 3 * logs.QUEUED_EVENTS
    writer = LogWriter(descriptor, count)
    for _ in range(count):
        writer.msg("x" * 200)
    assert writer.dropped == 0
    writer.msg("one too many")
    assert writer.dropped == 1
    writer.start()
    with os.fdopen(reader, "rb", closefd=False) as stream:
        assert [stream.readline() for _ in range(count)] == [b"x" * 200 + b"\n"] * count
    writer.close(PATIENCE)
