"""What is promised in seconds, measured on a machine that does little else."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic

import pytest
from support import (
    Echod,
    Start,
    ask,
    connect,
    connections,
    pending,
    read_exactly,
    read_to_end,
    soon,
    stopwatch,
    until,
    without_descriptors,
)

pytestmark = pytest.mark.long


@pytest.mark.parametrize("timeout", ["0", "0.05", "1.3"])
def test_a_stop_takes_the_drain_timeout_and_a_second_at_most(start: Start, timeout: str) -> None:
    """With a client that takes nothing, and a scraper that has its answer and stays."""
    echod = start("--drain-timeout", timeout, "--write-timeout", "none")
    with pending(echod), connect(echod.metrics_port) as scraper:
        scraper.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert read_to_end(scraper).endswith(b"ok\n")
        with stopwatch(echod) as seconds:
            echod.terminate()
    assert echod.wait() == 0
    assert float(timeout) <= seconds() < float(timeout) + 1.0


def test_clients_that_keep_sending_or_do_not_close_delay_a_stop_by_a_second_or_so(
    start: Start,
) -> None:
    """Far less than the time to drain."""
    echod = start("--drain-timeout", "10")
    over = threading.Event()

    def talk() -> None:
        with connect(echod.port) as client, suppress(ConnectionError):
            while not over.is_set():
                client.sendall(b"on and on\n" * 100)
                client.recv(1 << 16)

    talking = [threading.Thread(target=talk) for _ in range(4)]
    for thread in talking:
        thread.start()
    with connect(echod.port) as staying:
        ask(staying, b"x\n")
        until(lambda: echod.metrics()("echod_requests_total") > 1000)
        with stopwatch(echod) as seconds:
            echod.terminate()
    over.set()
    for thread in talking:
        thread.join()
    assert echod.wait() == 0
    assert seconds() < 2


def test_a_stop_without_free_descriptors_ends_in_time(start: Start) -> None:
    """Although clients wait that cannot be accepted."""
    echod = start("--drain-timeout", "1", "--write-timeout", "none")
    with pending(echod), without_descriptors(echod), connect(echod.port):
        echod.event("cannot accept connections")
        with stopwatch(echod) as seconds:
            echod.terminate()
    assert echod.wait() == 0
    assert seconds() < 1 + 1


def test_a_stalled_reader_of_the_log_delays_a_stop_by_less_than_a_second(start: Start) -> None:
    """Which has nothing else to wait for."""
    theirs, ours = socket.socketpair()
    with theirs, ours:
        echod = start("--log-level", "debug", stdout=ours)
        log = b""
        while b'"ready"' not in log:
            log += theirs.recv(65536)
        port = int(log.partition(b"listening on [::]:")[2].partition(b",")[0])
        with connect(port) as client:
            for _ in range(50):
                client.sendall(b"line\n" * 100)
                read_exactly(client, 900)
        with stopwatch(echod) as seconds:
            echod.terminate()
    assert echod.wait() == 0
    assert seconds() < 1


def test_clients_that_waited_for_a_descriptor_are_served_a_second_after_there_is_one(
    start: Start,
) -> None:
    """However long there was none."""
    echod = start()
    with without_descriptors(echod):
        waiting = connect(echod.port)
        waiting.sendall(b"at last\n")
        echod.event("cannot accept connections")
        until(lambda: echod.metrics()("echod_accept_errors_total") > 10)
    began = monotonic()
    with waiting:
        assert read_exactly(waiting, 12) == b"one at last\n"
    assert monotonic() - began < 1.0


def timed(echod: Echod) -> float:
    """The seconds that a scrape takes."""
    began = monotonic()
    assert echod.get("/metrics")[0] == 200
    return monotonic() - began


def test_a_scrape_is_answered_within_a_second_beside_silent_and_slow_clients(start: Start) -> None:
    """300 silent and 300 slow clients; forty at once, and without a free descriptor too."""
    echod = start()
    port = echod.metrics_port
    with connections(port, 300), connections(port, 300) as slow:
        for client in slow:
            with suppress(OSError):  # gave way
                client.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow")
        for path in ("/metrics", "/livez", "/readyz"):
            assert soon(lambda path=path: echod.get(path)[0]) == 200  # type: ignore[misc]
        with ThreadPoolExecutor(40) as pool:
            assert sorted(pool.map(lambda _: timed(echod), range(40)))[20] < 1.0
    with without_descriptors(echod), connections(port, 10), connect(echod.port):
        echod.event("cannot accept connections")
        for path in ("/metrics", "/livez", "/readyz"):
            assert soon(lambda path=path: echod.get(path)[0]) == 200  # type: ignore[misc]


def test_an_idle_connection_ends_at_most_a_second_after_its_time(start: Start) -> None:
    """Five hundred of them too, each of which has begun a line."""
    echod = start("--idle-timeout", "3")
    with connections(echod.port, 500) as clients:
        for client in clients:
            client.sendall(b"x")
        began = monotonic()
        for client in clients:
            assert read_to_end(client) == b""
        assert 2 < monotonic() - began < 3 + 1
