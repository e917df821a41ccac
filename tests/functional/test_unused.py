"""Connections on which the client sends nothing: what load balancers' TCP checks look like."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest
from support import (
    Echod,
    Metrics,
    Start,
    ask,
    connect,
    converse,
    read_to_end,
    reset,
    until,
)
from support.running import Running

from echod.telemetry.counters import CLOSE_REASONS

CLOSED = "echod_connections_closed_total"
CLIENT_HELLO = bytes.fromhex("1603010005010000010000")  # how TLS begins


def close(client: socket.socket) -> None:
    client.close()


def half_close(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(client) == b""
    client.close()


def shut_down(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_RDWR)
    client.close()


def half_close_and_reset(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)
    reset(client)


def close_with_time(client: socket.socket) -> None:
    """As a kubelet does, to keep no port in TIME_WAIT for long."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))
    client.close()


AT_ONCE = [close, close_with_time, shut_down, reset, half_close_and_reset]
End = Callable[[socket.socket], None]


def ended(metrics: Metrics) -> dict[str, float]:
    """Ends by reason, but for those that have not come."""
    counts = {reason: metrics(CLOSED, reason=reason) for reason in CLOSE_REASONS}
    return {reason: count for reason, count in counts.items() if count}


def ends_of(echod: Echod, count: int = 1) -> dict[str, float]:
    """The same, once there are so many and no connection is left."""
    until(lambda: echod.metrics()(CLOSED) == count)
    metrics = echod.metrics()
    assert metrics("echod_connections_opened_total") == count
    assert metrics("echod_connections_active") == 0
    assert metrics("echod_connection_duration_seconds_count") == count
    return ended(metrics)


@pytest.mark.parametrize("end", [*AT_ONCE, half_close])
def test_a_client_that_sends_nothing_ends_unused(start: Start, end: End) -> None:
    """However it ends: at once, and after it was seen to be connected and silent for a while."""
    echod = start()
    end(connect(echod.port))
    assert ends_of(echod) == {"unused": 1}
    client = connect(echod.port)
    until(lambda: echod.metrics()("echod_connections_active") == 1)
    echod.get("/livez")
    end(client)
    assert ends_of(echod, 2) == {"unused": 2}
    assert echod.stop()["totals"][0]["received_bytes"] == 0


@pytest.mark.parametrize("end", AT_ONCE)
def test_a_check_that_is_over_before_it_is_accepted_ends_unused(start: Start, end: End) -> None:
    """The kernel hands a connection over that its client has left."""
    echod = start()
    assert converse(echod.port, b"x\n") == b"one x\n"
    echod.freeze()
    for client in [connect(echod.port) for _ in range(5)]:
        end(client)
    echod.thaw()
    assert ends_of(echod, 6) == {"unused": 5, "eof": 1}


@pytest.mark.parametrize("threads", ["1", "2"])
def test_checks_among_real_clients_are_counted_as_unused(start: Start, threads: str) -> None:
    """On each port for itself."""
    echod = start("--handler-threads", threads, ports="0,0")
    port, other = echod.ports
    for _ in range(10):
        for end in (close, half_close, reset):
            end(connect(port))
        assert converse(port, b"x\n") == b"one x\n"
        client = connect(port)
        ask(client, b"x\n")
        reset(client)
    assert converse(other, b"x\n") == b"one x\n"
    assert ends_of(echod, 51) == {"unused": 30, "eof": 11, "reset": 10}
    assert echod.metrics()(CLOSED, port=port, reason="unused") == 30
    assert echod.metrics()(CLOSED, port=other, reason="unused") == 0


@pytest.mark.parametrize(
    "sent", [b"\n", b"x", b"\x00", CLIENT_HELLO, b"PROXY UNKNOWN\r\n"], ids=repr
)
def test_a_connection_with_any_byte_received_is_not_unused(start: Start, sent: bytes) -> None:
    """A line without its end, TLS, a PROXY header: its end is what it was before."""
    echod = start()
    converse(echod.port, sent)
    assert ends_of(echod) == {"eof": 1}
    client = connect(echod.port)
    client.sendall(sent)
    until(lambda: echod.metrics()("echod_received_bytes_total") == 2 * len(sent))
    reset(client)
    assert ends_of(echod, 2) == {"eof": 1, "reset": 1}


@pytest.mark.parametrize(
    ("reason", "option"), [("idle", "--idle-timeout"), ("max_age", "--max-connection-age")]
)
def test_a_silent_client_that_echod_ends_keeps_the_reason(
    start: Start, reason: str, option: str
) -> None:
    """Without a byte too."""
    echod = start(option, "0.2")
    with connect(echod.port) as client:
        assert read_to_end(client) == b""
    assert ends_of(echod) == {reason: 1}


def test_a_silent_client_that_a_stop_ends_keeps_the_reason(start: Start) -> None:
    """It has not ended by itself."""
    echod = start()
    with connect(echod.port) as client:
        until(lambda: echod.metrics()("echod_connections_active") == 1)
        assert echod.stop()["cut"] == 0
        assert read_to_end(client) == b""
    assert [event["reason"] for event in echod.events("connection closed")] == ["drain"]


def test_a_silent_client_that_leaves_amid_a_drain_ends_unused(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was given a moment for its first line, and has used it otherwise."""
    monkeypatch.setattr("echod.echo.closing.FRESH_SECONDS", 20.0)
    with connect(running.port) as before, connect(running.port) as client:
        ask(before, b"x\n")
        until(lambda: running.metrics()("echod_connections_opened_total") == 2)
        running.service.drain(60)
        assert read_to_end(before) == b""  # the drain has begun
        half_close(client)
    until(lambda: running.metrics()(CLOSED) == 2)
    assert ended(running.metrics()) == {"drain": 1, "unused": 1}


def test_checks_stay_out_of_the_log(start: Start) -> None:
    """None by itself and none in a sum, however many there are; others are as before."""
    echod = start()
    for number in range(60):
        (reset if number % 2 else close)(connect(echod.port))
    assert converse(echod.port, b"x\n") == b"one x\n"
    assert ends_of(echod, 61) == {"unused": 60, "eof": 1}
    total = echod.stop()["totals"][0]
    assert (total["opened"], total["closed"]) == (61, 61)
    (event,) = echod.events("connection closed")
    assert (event["reason"], event["lines"]) == ("eof", 1)
    assert echod.events("more connections closed") == []
    assert {event["level"] for event in echod.events()} == {"info"}


def test_at_debug_checks_are_logged_at_that_level(start: Start) -> None:
    """Individually, and a flood of them as separate sums: none is lost or counted elsewhere."""
    echod = start("--log-level", "debug")
    for _ in range(60):
        close(connect(echod.port))
    assert converse(echod.port, b"x\n") == b"one x\n"
    echod.stop()
    single, sums = echod.events("connection closed"), echod.events("more connections closed")
    checks = [event for event in single if event["level"] == "debug"]
    assert len(checks) >= 10
    assert {event["reason"] for event in checks} == {"unused"}
    assert checks[0]["peer"].startswith("127.0.0.1:")
    assert len(checks) + sum(event["count"] for event in sums) == 60
    assert {event["level"] for event in sums} <= {"debug"}
    (used,) = [event for event in single if event["level"] == "info"]
    assert used["reason"] == "eof"


def test_a_check_of_the_metrics_port_is_counted_nowhere(start: Start) -> None:
    """It has never been one of the connections."""
    echod = start()
    for end in (close, half_close, reset):
        end(connect(echod.metrics_port))
    metrics = echod.metrics()
    assert metrics("echod_connections_opened_total") == metrics(CLOSED) == 0
