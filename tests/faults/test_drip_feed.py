"""Clients that send a byte a second: slow, and never idle for long."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median, quantiles
from time import monotonic, perf_counter

import pytest
from support import Clock, Echod, Start, ask, connect, until
from support.senders import Senders

DRIPPING = 500
ROUND_SECONDS = 2

# A process of its own: it takes no interpreter lock from the client that is measured.
DRIP = """
import socket, sys, time
port, count = int(sys.argv[1]), int(sys.argv[2])
clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
print("connected", flush=True)
for seconds in sys.stdin:
    began = time.monotonic()
    for number in range(int(seconds) * count):
        time.sleep(max(began + number / count - time.monotonic(), 0))
        clients[number % count].send(b"x")
    print("done", flush=True)
"""


@contextmanager
def drip(echod: Echod) -> Iterator[subprocess.Popen[str]]:
    """Connected clients that drip for as many seconds as standard input says."""
    words = [sys.executable, "-c", DRIP, str(echod.port), str(DRIPPING)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, text=True, bufsize=1, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "connected\n"
        yield process
        process.stdin.close()


def p99(echod: Echod, seconds: float) -> float:
    """Of the seconds that a client waits for its reply."""
    waits = []
    end = monotonic() + seconds
    with connect(echod.port) as client:
        while monotonic() < end:
            began = perf_counter()
            ask(client, b"thirty-two bytes and one newline\n")
            waits.append(perf_counter() - began)
    return quantiles(waits, n=100)[-1]


@pytest.mark.long
def test_clients_that_send_byte_by_byte_do_not_delay_other_clients(start: Start) -> None:
    """The p99 of a healthy client is at most twice what it is while they are silent."""
    echod = start()
    silent, dripping = [], []
    with drip(echod) as process:
        for _ in range(4):
            silent.append(p99(echod, ROUND_SECONDS))
            process.stdin.write(f"{ROUND_SECONDS}\n")  # type: ignore[union-attr]
            dripping.append(p99(echod, ROUND_SECONDS))
            assert process.stdout.readline() == "done\n"  # type: ignore[union-attr]
        bytes_dripped = 4 * ROUND_SECONDS * DRIPPING
        until(lambda: echod.metrics()("echod_buffered_bytes") == bytes_dripped)
    assert median(dripping) <= 2 * median(silent)
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    metrics = echod.metrics()
    assert metrics("echod_buffered_bytes") == 0
    assert metrics("echod_connections_closed_total", reason="eof") == DRIPPING + 8
    echod.stop()


def test_clients_that_stop_sending_amid_a_line_close_at_the_idle_timeout(
    start: Start, clock: Clock
) -> None:
    """And not before; bytes of their unfinished lines are freed."""
    echod = start("--idle-timeout", "1000", command=clock.command)
    with Senders(echod.port, DRIPPING, b"x") as crowd:
        assert crowd.send() == DRIPPING
        until(lambda: echod.metrics()("echod_buffered_bytes") == DRIPPING)
        clock.move(900)
        assert echod.metrics()("echod_connections_active") == DRIPPING
        clock.move(101)
        until(lambda: crowd.ends() == ["eof"] * DRIPPING)
    metrics = echod.metrics()
    assert metrics("echod_connections_closed_total", reason="idle") == DRIPPING
    assert metrics("echod_received_bytes_total") == DRIPPING
    assert metrics("echod_buffered_bytes") == 0
    echod.stop()
