from __future__ import annotations

import socket
import threading
from contextlib import suppress
from time import monotonic

import pytest
from support import (
    Clock,
    Echod,
    Start,
    ask,
    connect,
    connections,
    converse,
    expected,
    pending,
    read_exactly,
    read_to_end,
    reset,
    until,
)


def closed(echod: Echod, reason: str) -> float:
    return echod.metrics()("echod_connections_closed_total", reason=reason)


def test_a_line_that_is_too_long_ends_its_connection_after_the_replies_due(start: Start) -> None:
    """With an orderly end, though more of the line was still arriving."""
    echod = start("--max-line-bytes", "1000")
    with connect(echod.port) as client:
        client.sendall(b"a\n" * 500 + b"x" * 1000 + b"\n" + b"y" * 200_000 + b"\nnever\n")
        assert read_to_end(client) == expected(b"a\n" * 500 + b"x" * 1000 + b"\n")
    assert closed(echod, "line_too_long") == 1
    until(lambda: echod.metrics()("echod_received_bytes_total") == 202_008)
    assert converse(echod.port, b"x" * 1000 + b"\n") == b"one " + b"x" * 1000 + b"\n"
    assert echod.metrics()("echod_buffered_bytes") == 0


def test_idle_connections_end_and_busy_ones_do_not(start: Start, clock: Clock) -> None:
    """A byte in either direction is enough to be busy."""
    echod = start("--idle-timeout", "1000", command=clock.command)
    with connect(echod.port) as idle, connect(echod.port) as busy:
        ask(idle, b"x\n")
        for _ in range(2):
            clock.move(600)
            ask(busy, b"x\n")
        assert read_to_end(idle) == b""
        assert closed(echod, "idle") == 1
        ask(busy, b"still here\n")


def test_time_limits_can_be_turned_off(start: Start, clock: Clock) -> None:
    """Then nothing is even scheduled."""
    options = ("--idle-timeout", "none", "--write-timeout", "none")
    echod = start(*options, command=clock.command)
    with connect(echod.port) as client, pending(echod) as stuck:
        ask(client, b"x\n")
        clock.move(100_000)
        until(lambda: echod.metrics()("echod_connections_active") == 2)
        ask(client, b"x\n")
        assert read_exactly(stuck, 5000) == b"one \n" * 1000


def test_a_connection_past_its_age_ends_right_after_a_reply(start: Start, clock: Clock) -> None:
    """A client in conversation loses no line; it is to connect again, elsewhere perhaps."""
    echod = start("--max-connection-age", "100", command=clock.command)
    answered = 0
    began = monotonic()  # the clock that is moved goes on, too
    with connect(echod.port) as client, suppress(ConnectionError):
        client.sendall(b"x\n")
        while reply := client.recv(100):
            assert reply == b"one x\n"
            answered += 1
            clock.move(1)
            client.sendall(b"x\n")
    assert answered + (monotonic() - began) >= 89
    assert answered <= 112
    assert closed(echod, "max_age") == 1
    assert echod.metrics()("echod_requests_total") == answered


def test_echod_stops_reading_from_a_client_that_does_not_read_and_closes_it(
    start: Start, clock: Clock
) -> None:
    """Backpressure first, then the write timeout; others are served all along."""
    echod = start("--write-timeout", "1000", "--idle-timeout", "none", command=clock.command)
    with connect(echod.port) as healthy, pending(echod) as stuck:
        ask(healthy, b"x\n")
        assert echod.metrics()("echod_received_bytes_total") < 100_000
        clock.move(900)
        ask(healthy, b"x\n")
        assert closed(echod, "write_timeout") == 0
        clock.move(200)
        until(lambda: closed(echod, "write_timeout") == 1)
        with pytest.raises(ConnectionResetError):
            while stuck.recv(1 << 16):
                pass
        ask(healthy, b"x\n")
    assert echod.metrics()("echod_buffered_bytes") == 0


def test_a_reply_that_the_kernel_takes_at_first_is_waited_for_no_longer(start: Start) -> None:
    """The write timeout begins with the first byte that is not taken, in whatever step."""
    echod = start("--write-timeout", "0.5", prefix="x" * 1024)
    with connect(echod.port, receive_buffer=4096) as stuck:
        stuck.sendall(b"\n" * 60_000)
        until(lambda: closed(echod, "write_timeout") == 1)
        with pytest.raises(ConnectionResetError):  # the kernel keeps nothing for it either
            read_to_end(stuck)
    assert echod.metrics()("echod_buffered_bytes") == 0


def test_a_client_that_takes_nothing_ends_though_its_age_comes_first(start: Start) -> None:
    """An age that cannot be acted on leaves the other deadlines in force."""
    echod = start("--write-timeout", "2.5", "--max-connection-age", "0.3", prefix="x" * 1024)
    with connect(echod.port, receive_buffer=4096) as stuck:
        stuck.sendall(b"\n" * 60_000)
        until(lambda: closed(echod, "write_timeout") == 1)


def test_a_client_that_reads_again_gets_everything(start: Start) -> None:
    """Backpressure loses nothing: what was not read is read later."""
    echod = start()
    data = b"".join(b"%d\n" % number for number in range(400_000))
    with connect(echod.port, receive_buffer=4096) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        until(lambda: echod.metrics()("echod_buffered_bytes") > 0)
        received = read_exactly_fast(client, len(expected(data)))
        sender.join()
        assert received == expected(data)
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    metrics = echod.metrics()
    assert metrics("echod_sent_bytes_total") == len(received)
    assert metrics("echod_buffered_bytes") == 0


def read_exactly_fast(client: socket.socket, size: int) -> bytes:
    pieces = []
    while size:
        piece = client.recv(min(size, 1 << 20))
        assert piece
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def test_the_connection_that_would_exceed_the_buffer_budget_closes(start: Start) -> None:
    """Unfinished lines of all clients together are bounded; whole lines need no budget."""
    echod = start("--max-buffered-bytes", "100000")
    with connections(echod.port, 5) as clients, connect(echod.port) as healthy:
        for client in clients:
            client.sendall(b"x" * 30_000)
        until(lambda: closed(echod, "buffer_limit") == 2)
        assert echod.metrics()("echod_buffered_bytes") == 90_000
        ask(healthy, b"x\n")
    until(lambda: echod.metrics()("echod_buffered_bytes") == 0)
    assert converse(echod.port, b"x" * 90_000 + b"\n") == b"one " + b"x" * 90_000 + b"\n"


def test_unsent_replies_count_for_the_budget_and_end_with_a_reset(start: Start) -> None:
    """The kernel's copy is freed as well, and the client learns that it missed something."""
    echod = start("--max-buffered-bytes", "1")
    with connect(echod.port, receive_buffer=4096) as stuck:
        with pytest.raises(ConnectionError):
            for _ in range(100_000):
                stuck.sendall(b"\n" * 1000)  # no unfinished lines: only replies are buffered
        assert closed(echod, "buffer_limit") == 1
        assert echod.metrics()("echod_buffered_bytes") == 0


def test_a_client_that_has_seen_the_close_finds_its_slot_free(start: Start) -> None:
    """Whichever thread ended it: the one that accepts may be faster than the one that closes."""
    echod = start("--max-connections", "1", "--handler-threads", "2")
    port = echod.port
    assert [converse(port, b"x\n") for _ in range(500)] == [b"one x\n"] * 500
    assert echod.metrics()("echod_connections_rejected_total") == 0


def test_a_reset_is_an_outcome_with_a_reason(start: Start) -> None:
    """Inside a line, after a line, and with pending replies."""
    echod = start()
    for data in (b"half", b"whole\n"):
        client = connect(echod.port)
        client.sendall(data)
        until(lambda: echod.metrics()("echod_connections_active") == 1)
        if data == b"whole\n":
            read_exactly(client, 10)
        reset(client)
        until(lambda: echod.metrics()("echod_connections_active") == 0)
    assert closed(echod, "reset") == 2
    with pending(echod) as stuck:
        reset(stuck)
        until(lambda: closed(echod, "reset") == 3)
    assert echod.metrics()("echod_buffered_bytes") == 0
    assert echod.events("connection failed") == []
