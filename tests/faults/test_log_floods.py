"""A log that every client writes into: no line can be forged, and no second flooded."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import subprocess
import sys
import threading
import tty
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any, NoReturn

import pytest
from support import (
    PATIENCE,
    Start,
    ask,
    connect,
    connections,
    converse,
    read_to_end,
    until,
    without_descriptors,
)
from support.running import Running

from echod.echo.handler import LineHandler

LINES_A_SECOND = 20
OWN_COLOURS = re.compile(r"\x1b\[\d+m")
PIECES = [
    *(bytes([code]) for code in range(0x20) if code != 0x0A),
    *(chr(code).encode() for code in range(0x7F, 0xA0)),
    *(chr(code).encode() for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))),
    *(chr(code).encode() for code in (0x2028, 0x2029, 0x200B, 0x200F, 0xFEFF, 0xE0041, 0x10FFFF)),
    *(b"\x1b[2J", b"\x1b[31m", b"\x1b]0;owned\x07", b"\x9b1m", b"\xc2\x9b1m", b"\x1b[1A\x1b[2K"),
    *(b'"}', b'","level":"error"', b'\r{"event": "forged"}', b"\\", b"\\n", b"\\u000a", b"'", b'"'),
    *(b"\xff", b"\xc0\x8a", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x8a", b"\xe2\x80", b"\xef\xbf\xbf"),
    *(b"level=error ", b"event=forged", b"%s%n{0}", b"[error    ] forged", "\u00e9\u65e5".encode()),
    b"x" * 300,
    b"\x1b" * 5000,
]


def payloads(count: int) -> list[bytes]:
    """Every piece by itself, and mixtures of them."""
    chance = random.Random(23)
    mixed = [b"".join(chance.choices(PIECES, k=chance.randrange(1, 12))) for _ in range(count)]
    return PIECES + mixed[len(PIECES) :]


def harass(port: int, metrics_port: int) -> list[bytes]:
    """A thousand lines to the echo port, and some of them as requests for metrics."""
    sent = payloads(1000)
    for start in range(0, len(sent), 50):
        with connect(port) as client:
            for payload in sent[start : start + 50]:
                ask(client, payload + b"\n")
        request = sent[start]
        for head in (
            b"GET /" + request,
            request + b" / HTTP/1.1",
            b"HEAD / HTTP/1.1\r\n" + request,
        ):
            with connect(metrics_port) as client, suppress(ConnectionError):
                client.sendall(head + b"\r\n\r\n")
                client.recv(1 << 16)
    return sent


FIRST_WORDS = {"starting", "listening", "metrics", "ready", "line", "connection", "more",
               "draining", "stopped"}  # fmt: skip


def ports_in(log: str) -> tuple[int, int]:
    """Of a log in whatever format, once it says that the process is ready."""
    port, metrics_port = re.findall(r"(?:listening|metrics) on \S*?:(\d+)", log)
    return int(port), int(metrics_port)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_payload_forges_an_event_or_drives_a_terminal(start: Start, log_format: str) -> None:
    """Each of a thousand hostile lines is one line of the log, in characters that can be seen."""
    echod = start("--log-level", "debug", "--log-format", log_format)
    until(lambda: any("ready" in line for line in echod.lines()))
    sent = harass(*ports_in(echod.log_path.read_text()))
    echod.terminate()
    assert echod.wait() == 0
    text = echod.log_path.read_bytes().decode()
    lines = text.split("\n")
    assert lines.pop() == ""
    assert lines == text.splitlines()
    assert [line for line in lines if not line.isprintable()] == []
    assert max(map(len, lines)) < 4000
    if log_format == "json":
        events = [json.loads(line) for line in lines]
        said = [event for event in events if event["event"] == "line"]
        assert [event["bytes"] for event in said] == [len(payload) + 1 for payload in sent]
        assert all(event["line"].isprintable() for event in said)
        words = [(event["level"], event["event"].split()[0]) for event in events]
    else:
        stamped = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[(\w+) *\] (\w+)")
        words = [stamped.match(line).groups() for line in lines]  # type: ignore[union-attr,misc]
    assert Counter(words)["debug", "line"] == len(sent)
    assert {level for level, _ in words} == {"debug", "info"}
    assert {word for _, word in words} <= FIRST_WORDS


def test_at_a_terminal_the_only_colours_are_the_log_s_own(start: Start) -> None:
    """Every line of a client's is drawn alike, whatever is in it."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    pieces: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # the last of the writers has gone
            while piece := os.read(master, 1 << 16):
                pieces.append(piece)

    def shown() -> str:
        return b"".join(pieces).decode()

    reader = threading.Thread(target=read)
    echod = start("--log-level", "debug", stdout=slave)
    os.close(slave)
    reader.start()
    try:
        until(lambda: "\x1b[1mready" in shown())
        sent = harass(*ports_in(shown()))
        # A terminal that is drawn late is waited for only so long at the end.
        until(lambda: b"".join(pieces).count(b"\x1b[1mline\x1b") == len(sent))
        echod.terminate()
        assert echod.wait() == 0
    finally:
        echod.close()
        reader.join(PATIENCE)
        os.close(master)
    lines = shown().split("\n")[:-1]
    assert all(OWN_COLOURS.sub("", line).isprintable() for line in lines)
    said = [line for line in lines if "\x1b[1mline\x1b" in line]
    assert len(said) == len(sent)
    assert len({tuple(OWN_COLOURS.findall(line)) for line in said}) == 1


KNOCK = """
import socket, struct, sys, time
port, lines, deadline, count = int(sys.argv[1]), int(sys.argv[2]), time.monotonic() + 1.5, 0
while count < 200 or (time.monotonic() < deadline and count < 20000):
    client = socket.create_connection(("127.0.0.1", port))
    # Ended by RST: no port is left in TIME_WAIT, of which there are not so many.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if lines:
        client.sendall(b"x\\n" * lines)
    try:
        if lines >= 0:
            client.recv(100)
    except ConnectionError:
        pass
    client.close()
    count += 1
print(count)
"""


def knock(port: int, *kinds: int) -> list[int]:
    """Connects as fast as possible for 1.5 seconds, in one process per kind. A kind is the number
    of lines per connection; if it is negative, none waits for a reply.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", KNOCK, str(port), str(kind)], stdout=subprocess.PIPE
        )
        for kind in kinds
    ]
    return [int(process.communicate(timeout=5 * PATIENCE)[0]) for process in processes]


def assert_bounded(events: list[dict[str, Any]]) -> None:
    """Not more lines in any second of the log's own time than a log can take."""
    names = [event["event"] for event in events]
    seconds = Counter(event["timestamp"][:19] for event in events[names.index("ready") + 1 :])
    assert max(seconds.values()) <= LINES_A_SECOND, seconds


def test_a_flood_of_connections_logs_a_few_lines_a_second(start: Start) -> None:
    """And each on which something was sent is in the log, by itself or in a sum."""
    echod = start(ports="0,0")
    answered, silent = knock(echod.port, 1, -1)
    assert converse(echod.port, b"x\n") == b"one x\n"  # when all before it have been accepted
    answered += 1
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    metrics = echod.metrics()
    opened = metrics("echod_connections_opened_total")
    unused = metrics("echod_connections_closed_total", reason="unused")
    assert opened == answered + unused
    assert 0 < unused <= silent
    assert metrics("echod_requests_total") == answered
    echod.stop()
    ends = [event for event in echod.events() if "connections closed" in event["event"]]
    ends += echod.events("connection closed")
    assert sum(event.get("count", 1) for event in ends) == answered
    assert sum(event["lines"] for event in ends) == answered
    assert sum(event["received_bytes"] for event in ends) == 2 * answered
    assert metrics("echod_log_events_dropped_total") == 0
    assert_bounded(echod.events())


@pytest.mark.long
def test_a_flood_of_rejected_connections_logs_two_lines(start: Start) -> None:
    """One going in and one coming out, which tells how many they were."""
    echod = start("--max-connections", "1")
    with connect(echod.port) as served:
        ask(served, b"x\n")
        knock(echod.port, 0, 0)
        ask(served, b"x\n")
    over = echod.event("no longer rejecting")
    rejected = echod.metrics()("echod_connections_rejected_total", reason="limit")
    echod.stop()
    assert over["rejected"] == rejected >= 400
    assert len(echod.events("rejecting")) == len(echod.events("no longer")) == 1
    assert_bounded(echod.events())


@pytest.mark.long
def test_a_flood_of_failed_accepts_logs_two_lines(start: Start) -> None:
    """For all ports together."""
    echod = start(ports=",".join(["0"] * 20))
    with ExitStack() as waiting, without_descriptors(echod):
        for port in echod.ports:
            waiting.enter_context(connections(port, 2))
        until(lambda: echod.metrics()("echod_accept_errors_total") > 60)
    assert echod.event("accepting connections again")["errors"] > 60
    echod.stop()
    assert len(echod.events("cannot accept")) == len(echod.events("accepting")) == 1
    assert_bounded(echod.events())


def broken(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("\x1b[2J\u202e" + "x" * 100_000)


def test_a_flood_of_exceptions_logs_a_few_lines_a_second(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a client has found one: an event each at first, then sums, and all are counted."""
    monkeypatch.setattr(LineHandler, "setup", broken)
    for _ in range(300):
        with connect(running.port) as client, suppress(ConnectionError):
            read_to_end(client)
    until(lambda: running.metrics()("echod_connections_closed_total", reason="error") == 300)
    running.service.ports.append(None)  # type: ignore[arg-type]  # which no page can be made of
    for _ in range(100):
        with connect(running.metrics_port) as client, suppress(ConnectionError):
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            read_to_end(client)
    running.service.ports.pop()
    until(running.metrics)
    running.service.events.summarize(now=True)
    bug = "unhandled exception"
    for one, more, count in (
        (f"{bug} in connection handler", f"more {bug}s in connection handlers", 300),
        (f"{bug} in event loop", f"more {bug}s in event loops", 100),
    ):
        single, sums = running.events(one), running.events(more)
        assert len(single) + sum(event["count"] for event in sums) == count
        seconds = Counter(event["timestamp"][:19] for event in single)
        assert 10 <= len(single) <= 10 * (len(seconds) + 1)
        assert len(sums) <= len(seconds) + 1
    assert max(map(len, running.lines)) < 4000
    assert all(line.isprintable() for line in running.lines)
