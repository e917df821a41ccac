"""What fails outside of echod: the system, the network, the readers of its output, the clock."""

from __future__ import annotations

import errno
import os
import random
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import (
    PATIENCE,
    ROOT,
    Clock,
    Start,
    ask,
    clean_environment,
    connect,
    connections,
    converse,
    expected,
    get,
    jam,
    pause,
    read_exactly,
    read_to_end,
    reset,
    unsent_bytes,
    until,
)
from support.running import Running, Timed, connections_of


class Refusing:
    """A listening socket whose next accepts fail."""

    def __init__(self, real: socket.socket, *numbers: int) -> None:
        self._real, self._numbers = real, [*numbers]

    def _accept(self) -> Any:
        if self._numbers:
            raise OSError(self._numbers.pop(), "on purpose")
        return self._real._accept()  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def test_refused_accepts_are_counted_by_port_and_logged_once(
    timed: Callable[..., Timed],
) -> None:
    """The state is one for all ports; what a client caused is no event at all."""
    running = timed()
    first, second = running.service.servers
    first.socket = Refusing(first.socket, errno.ECONNABORTED, errno.ENOBUFS)  # type: ignore[assignment]
    second.socket = Refusing(second.socket, errno.ENOMEM, errno.ECONNABORTED)  # type: ignore[assignment]
    errors = "echod_accept_errors_total"
    with connect(running.port) as one, connect(running.other_port) as other:
        until(lambda: running.metrics()(errors) >= 2)
        for client in (one, other):
            running.move(0.2)  # the pause after a refusal
            ask(client, b"x\n")
    metrics = running.metrics()
    counted = {
        (labels["port"], labels["reason"]): value
        for (name, pairs), value in metrics.samples.items()
        if name == errors and value
        for labels in [dict(pairs)]
    }
    port, other_port = str(running.port), str(running.other_port)
    assert counted == {
        (port, "ENOBUFS"): 1,
        (port, "ECONNABORTED"): 1,
        (other_port, "ENOMEM"): 1,
        (other_port, "ECONNABORTED"): 1,
    }
    running.move(0.5)
    assert running.events("accepting connections again") == []
    running.move(1)
    (begun,), (over,) = running.events("cannot accept"), running.events("accepting connections")
    assert begun["port"] in (running.port, running.other_port)
    assert over["errors"] == 2


def test_resets_in_the_middle_of_a_reply_are_counted_and_logged_once_each(start: Start) -> None:
    """With replies everywhere: taken, in the kernel, in the process, not even made."""
    echod = start("--handler-threads", "2", ports="0,0")
    chance = random.Random(5)
    data = b"".join(b"%d\n" % number for number in range(200_000))
    sent = taken = 0
    for number in range(8):
        client = connect(echod.ports[number % 2], receive_buffer=16384)
        client.setblocking(False)
        with suppress(BlockingIOError):
            sent += client.send(data)
        client.settimeout(PATIENCE)
        taken += len(read_exactly(client, chance.randrange(1, 200_000)))
        reset(client)
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    metrics = echod.metrics()
    for port in echod.ports:
        assert metrics("echod_connections_closed_total", port=port) == 4
        assert metrics("echod_connections_closed_total", port=port, reason="reset") == 4
    assert metrics("echod_buffered_bytes") == 0
    assert metrics("echod_received_bytes_total") <= sent
    assert metrics("echod_sent_bytes_total") >= taken
    assert converse(echod.port, b"x\n") == b"one x\n"
    last = echod.stop()
    assert [total["closed"] for total in last["totals"]] == [5, 4]
    ends = echod.events("connection closed") + echod.events("more connections closed")
    assert sum(end.get("count", 1) for end in ends) == 9
    assert sum(end["sent_bytes"] for end in ends) == sum(
        total["sent_bytes"] for total in last["totals"]
    )
    assert {event["level"] for event in echod.events()} == {"info"}


class Log:
    """A log in a FIFO, whose reader comes and goes."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self.text = b""
        self.come()
        self.end = os.open(path, os.O_WRONLY)

    def come(self) -> None:
        self._reader = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)

    def go(self) -> None:
        os.close(self._reader)

    def read(self) -> bytes:
        """All that has been written so far."""
        with suppress(BlockingIOError):
            while piece := os.read(self._reader, 1 << 16):
                self.text += piece
        return self.text

    def port(self, name: bytes) -> int:
        return int(self.text.partition(name + b" on [::]:")[2].split(b'"')[0].split(b",")[0])

    def lines(self) -> int:
        """How many lines of clients it tells of."""
        return self.read().count(b'"event": "line"')


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "fifo")
    yield log
    log.go()


def test_every_log_event_that_is_not_written_is_counted_as_dropped(start: Start, log: Log) -> None:
    """Dropped events are those produced minus those written, with a stalled or missing reader."""
    echod = start("--log-level", "debug", stdout=log.end)
    os.close(log.end)
    until(lambda: b'"ready"' in log.read())
    metrics_port = log.port(b"metrics")

    def dropped() -> int:
        page = get(metrics_port, "/metrics")[1].decode()
        return int(
            float(re.findall(r"^echod_log_events_dropped_total (.+)$", page, re.MULTILINE)[0])
        )

    with connect(log.port(b"listening")) as client:

        def talk(lines: int) -> None:
            data = b"words\n" * lines
            client.sendall(data)
            assert read_exactly(client, len(expected(data))) == expected(data)

        talk(3000)
        assert 0 < dropped() < 3000
        until(lambda: log.lines() + dropped() == 3000)
        stalled = dropped()
        log.go()
        talk(100)
        until(lambda: dropped() == stalled + 100)
        log.come()
        talk(50)
        until(lambda: log.lines() == 3050 - stalled)
        assert dropped() == stalled + 100
    echod.terminate()
    assert echod.wait() == 0
    assert log.lines() == 3050 - stalled
    assert log.text.endswith(b"}\n")
    assert b'"stopped"' in log.text.splitlines()[-1]


def test_a_suspended_service_manager_receives_ready_when_it_resumes(start: Start) -> None:
    """It would wait without end, and stop the service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")
        manager.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                manager.sendto(b"full", manager.getsockname())
        address = "@" + manager.getsockname()[1:].decode()
        echod = start(env=clean_environment(NOTIFY_SOCKET=address))
        echod.event("sd_notify failed")
        assert converse(echod.port, b"x\n") == b"one x\n"
        received: list[bytes] = []

        def read() -> bool:
            with suppress(BlockingIOError):
                while True:
                    received.append(manager.recv(4096))
            return received[-1] != b"full"

        until(read)
        ready = next(message for message in received if message != b"full")
        assert ready.startswith(b"READY=1\nSTATUS=ready: ")
        echod.stop()
        read()
    assert received[-1].startswith(b"STOPPING=1\n")
    assert b"READY=1" not in b"".join(received).replace(ready, b"")
    assert len(echod.events("sd_notify failed")) == 1


JUMPING = """
import datetime, itertools, sys, time
real, jumps = time.time, itertools.cycle([0, 1e8, 3600, -1e8])
time.time = lambda: real() + next(jumps)
time.time_ns = lambda: int(time.time() * 1e9)
class Jumping(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=next(jumps))
datetime.datetime = Jumping
exec(sys.argv.pop(1))
"""
"""echod where the time of day jumps by hours and years at every call."""


def test_a_wall_clock_that_jumps_changes_timestamps_and_nothing_else(
    start: Start, clock: Clock
) -> None:
    """Deadlines, durations, health and the drain go by a clock that does not."""
    echod = start(
        "--idle-timeout", "100", "--write-timeout", "100", "--drain-delay", "0.2",
        command=lambda *arguments: [sys.executable, "-c", JUMPING, *clock.command(*arguments)[2:]],
    )  # fmt: skip
    with connect(echod.port) as idle, connect(echod.port) as busy:
        ask(idle, b"x\n")
        for _ in range(20):
            ask(busy, b"x\n")
            assert echod.get("/livez")[0] == 200
        clock.move(60)
        ask(busy, b"x\n")
        clock.move(60)
        ask(busy, b"x\n")
        closed = echod.event("connection closed")
        assert closed["reason"] == "idle"
        assert 120 <= closed["seconds"] < 3000
        assert read_to_end(idle) == b""
        ask(busy, b"x\n")
        metrics = echod.metrics()
        assert 120 <= metrics("echod_connection_duration_seconds_sum") < 3000
        echod.stop()
        assert read_to_end(busy) == b""
    assert [event["reason"] for event in echod.events("connection closed")] == ["idle", "drain"]
    assert 120 < echod.events()[-1]["seconds"] < 3000
    stamps = [event["timestamp"] for event in echod.events()]
    assert stamps != sorted(stamps)


def test_only_what_is_shown_as_a_time_of_day_uses_the_wall_clock() -> None:
    """Log timestamps and the Date header, through libraries; the chart of the lab page."""
    names = set()
    for path in (ROOT / "echod").rglob("*.py"):
        text = path.read_text()
        if path != ROOT / "echod/lab/page/page.py":
            names |= set(re.findall(r"^ *from time import (.+)$", text, re.MULTILINE))
        assert not re.findall(
            r"^ *(?:import time\b|(?:from|import) datetime\b)", text, re.MULTILINE
        ), path
    imported = {name for line in names for name in line.split(", ")}
    assert imported == {"monotonic", "process_time", "sleep"}


@pytest.mark.long
def test_a_suspended_process_times_out_no_client_that_sent_data_meanwhile(start: Start) -> None:
    """Its deadlines have passed, but what clients sent and took is there. And it is healthy."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, ExitStack() as opened:
        manager.bind("")
        address = "@" + manager.getsockname()[1:].decode()
        echod = start(
            "--idle-timeout", "2.5", "--write-timeout", "2.5", "--handler-threads", "2",
            env=clean_environment(NOTIFY_SOCKET=address, WATCHDOG_USEC="2000000"),
        )  # fmt: skip
        port, metrics_port = echod.port, echod.metrics_port
        slow = opened.enter_context(connect(port, receive_buffer=4096))
        jam(slow)
        clients = opened.enter_context(connections(port, 20))
        for client in clients:
            ask(client, b"before\n")
        echod.freeze()
        for client in clients:
            client.sendall(b"meanwhile\n")
        scrapers = opened.enter_context(connections(metrics_port, 3))
        for scraper in scrapers:
            scraper.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        slow.settimeout(0.3)
        with pytest.raises(TimeoutError):
            while True:
                slow.recv(1 << 20)
        pause(3.2, "longer than any deadline, and than a stall may be")
        echod.thaw()
        for scraper in scrapers:
            assert read_to_end(scraper).endswith(b"ok\n")
        for client in clients:
            assert read_exactly(client, 14) == b"one meanwhile\n"
        slow.settimeout(PATIENCE)
        assert read_exactly(slow, 50_000)
        metrics = echod.metrics()
        assert metrics("echod_connections_closed_total") == 0
        assert echod.events("the watchdog") == []


def test_data_and_closes_that_are_pending_at_a_deadline_go_before_the_timeout(
    timed: Callable[..., Timed],
) -> None:
    """A line that has come is answered, and an end is the end that the client made."""
    running = timed(idle_timeout="1000", handler_threads="1")
    (handler,) = running.service.handlers
    with connect(running.port) as speaking, connect(running.port) as leaving:
        for client in (speaking, leaving):
            ask(client, b"x\n")
        for connection in connections_of(handler):
            handler.post(partial(handler.pause, connection))  # no event comes from now on
        running.move(0)
        speaking.sendall(b"y\n")
        leaving.shutdown(socket.SHUT_WR)
        until(lambda: not unsent_bytes(speaking) and not unsent_bytes(leaving))
        running.move(1001)
        assert read_exactly(speaking, 6) == b"one y\n"
        assert read_to_end(leaving) == b""
        closed = "echod_connections_closed_total"
        assert running.metrics()(closed, reason="eof") == 1
        assert running.metrics()(closed) == 1


def test_a_thread_without_a_turn_since_a_suspension_is_not_called_stalled(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a suspension of the whole process, the exporter may be the first to run."""
    handler = running.service.handlers[0]
    assert running.get("/livez")[0] == 200
    assert handler.heartbeat.at
    old = handler.heartbeat.at - 60
    monkeypatch.setattr(
        "echod.process.lifecycle.sleep", lambda _: until(lambda: handler.heartbeat.at != old)
    )
    handler.heartbeat.at = old
    assert running.get("/livez") == (200, b"ok\n")
