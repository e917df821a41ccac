from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from time import monotonic

import pytest
from support import Sockets, Start, ask, connect, converse, get, start_with, until

from echod.telemetry.log_writer import QUEUED_EVENTS

HOSTILE = [
    b'","level":"error","event":"forged"}',
    b"\x1b[2J\x1b]0;owned\x07",
    b'\r{"event": "forged"}',
    "\u2028\u2029\x85".encode(),
    b"\xff\xfe\x00\x01\x7f",
    b"x" * 5000,
    b"key=value level=error",
]


def test_the_log_has_each_event_of_a_daemons_life_once_and_in_order(start: Start) -> None:
    """Each event once, in words that can be searched for."""
    echod = start("--service-version", "v1", ports="0,0")
    port, began = echod.port, monotonic()
    assert converse(port, b"a\nb\n") == b"one a\none b\n"
    echod.event("connection closed")
    took = monotonic() - began
    echod.stop()
    names = [event["event"].split(" on ")[0] for event in echod.events()]
    assert names == [
        "starting",
        "listening",
        "listening",
        "metrics",
        "ready",
        "connection closed",
        "draining",
        "stopped",
    ]
    closed = echod.event("connection closed")
    assert closed["peer"].startswith("127.0.0.1:")
    assert (closed["port"], closed["reason"], closed["lines"]) == (echod.port, "eof", 2)
    assert (closed["received_bytes"], closed["sent_bytes"]) == (4, 12)
    assert 0 <= closed["seconds"] <= took + 0.001
    assert echod.event("starting")["version"] == "v1"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_whatever_clients_send_an_event_is_one_line(start: Start, log_format: str) -> None:
    """At the level debug every line is logged: escaped, and cut."""
    echod = start("--log-level", "debug", "--log-format", log_format, "--metrics-port", "none",
                  "--address", "::1", prefix="pre=fix é")  # fmt: skip
    until(lambda: any("ready" in line for line in echod.lines()))
    (listening,) = [line for line in echod.lines() if "listening on" in line]
    port = int(listening.partition("]:")[2].partition(",")[0])
    for payload in HOSTILE:
        with connect(port, "::1") as client:
            ask(client, payload + b"\n", "pre=fix é".encode())
    echod.terminate()
    assert echod.wait() == 0
    raw = echod.log_path.read_bytes()
    assert not any((byte < 0x20 and byte != 0x0A) or byte == 0x7F for byte in raw)
    lines = raw.decode().splitlines()
    said = [line for line in lines if "payload" in line or "line=" in line or '"line"' in line]
    assert len(said) == len(HOSTILE)
    assert all(len(line) < 2500 for line in lines)
    if log_format == "json":
        events = [json.loads(line) for line in lines]
        assert {"forged"}.isdisjoint(event["event"] for event in events)
        assert [event["bytes"] for event in events if event["event"] == "line"] == [
            len(payload) + 1 for payload in HOSTILE
        ]


def test_a_flood_of_connections_does_not_flood_the_log(start: Start) -> None:
    """Ten closes a second are logged individually, the others in one event; none is lost."""
    echod = start()
    port, count = echod.port, 600
    for _ in range(count):
        with connect(port) as client:
            client.sendall(b"x\n")
            client.recv(10)
    echod.stop()
    single, sums = echod.events("connection closed"), echod.events("more connections closed")
    assert len(single) + sum(event["count"] for event in sums) == count
    assert sum(event["received_bytes"] for event in single + sums) == 2 * count
    seconds = {event["timestamp"][:19] for event in single + sums}
    assert len(single) <= 10 * (len(seconds) + 1)
    assert len(sums) <= len(seconds) + 1


def test_at_warning_connections_are_not_logged(start: Start) -> None:
    """Nor are the start and the stop; the service is the same."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        echod = start_with(
            start, Sockets(echo=[listening]), "--log-level", "warning", "--metrics-port", "none"
        )
        assert converse(listening.getsockname()[1], b"x\n") == b"one x\n"
        echod.terminate()
        assert echod.wait() == 0
    assert echod.events() == []


def test_a_closed_log_does_not_end_the_service(start: Start) -> None:
    """EPIPE is counted, echoing goes on."""
    reader, writer = os.pipe()
    echod = start(stdout=writer)
    os.close(writer)
    log = b""
    while b'"ready"' not in log:
        log += os.read(reader, 65536)
    os.close(reader)
    port = int(log.partition(b"listening on [::]:")[2].partition(b",")[0])
    for _ in range(3):
        assert converse(port, b"x\n") == b"one x\n"
    echod.terminate()
    assert echod.wait() == 0
    assert echod.error_path.read_text() == ""


def test_every_event_of_a_start_on_many_ports_is_logged(start: Start) -> None:
    """Even a log without a reader does not prevent the start."""
    count = QUEUED_EVENTS + 100
    reader, writer = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as metrics_socket:
        metrics_port = metrics_socket.getsockname()[1]
        sockets = Sockets(metrics=[metrics_socket])
        words = sockets.command(",".join(["0"] * count), "one", "--max-connections", "10")
        echod = start(command=lambda *_: words, pass_fds=sockets.descriptors, stdout=writer)
    os.close(writer)

    def ready() -> bool:
        with suppress(ConnectionError):
            return get(metrics_port, "/readyz")[0] == 200
        return False

    until(ready)
    with os.fdopen(reader, "rb") as log:
        events = [json.loads(log.readline()) for _ in range(count + 3)]
        echod.terminate()
        [*iter(lambda: log.read1(65536), b"")]
    assert echod.wait() == 0
    names = [event["event"].split(" on ")[0] for event in events]
    assert names == ["starting", *["listening"] * count, "metrics", "ready"]
    assert len({event.get("port") for event in events}) == count + 2


def test_json_keeps_letters_as_they_are(start: Start) -> None:
    """What a client sent, too, at the level debug; anything else is escaped, in valid UTF-8."""
    echod = start("--log-level", "Debug", "--log-format", "JSON", prefix="größer")
    line = "世界 é \x85\x1b".encode() + b"\xff\x85"
    with connect(echod.port) as client:
        ask(client, line + b"\n", "größer".encode())
    assert echod.event("line")["line"] == r"世界 é \u0085\x1b\xff\x85"
    log = echod.log_path.read_bytes()
    assert "prefix: größer".encode() in log
    assert '"世界 é '.encode() in log
    assert all(one.isprintable() for one in log.decode().split("\n"))
    echod.stop()
