"""The metrics port in hostile hands: bounded, in time for honest clients, and without effect on
the echo ports.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import pytest
from support import (
    NEVER,
    Echod,
    Start,
    altered,
    ask,
    connect,
    connections,
    get,
    read_to_end,
    reset,
    scrape,
    until,
)

from echod.process.capacity import METRICS_CLIENTS
from echod.telemetry.http import OPENMETRICS, TEXT

UNHURRIED = altered(
    telemetry__exporter__DEADLINE_SECONDS=NEVER, loop__lingering_close__LINGER_SECONDS=NEVER
)
"""Where no client of the metrics port goes because its time is over."""
GROWTH = 16 << 20  # bytes of memory, whatever comes
FEW = 5  # descriptors beside those of the clients


class Crowd(threading.Thread):
    """Clients that occupy the port, and reconnect when they are disconnected. Half of them are
    silent; the others send their request byte by byte.
    """

    HEAD = b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 1000

    def __init__(self, port: int, count: int) -> None:
        super().__init__()
        self.port = port
        self.over = threading.Event()
        self.returns = 0
        self.clients = [self.come() for _ in range(count)]
        self.sent = [0] * count

    def come(self) -> socket.socket:
        client = connect(self.port)
        client.setblocking(False)
        return client

    def run(self) -> None:
        while not self.over.wait(0.3):
            for number, client in enumerate(self.clients):
                if self.is_out(client) or (number % 2 and not self.goes_on(number)):
                    client.close()
                    self.clients[number], self.sent[number] = self.come(), 0
                    self.returns += 1

    @staticmethod
    def is_out(client: socket.socket) -> bool:
        try:
            return not client.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def goes_on(self, number: int) -> bool:
        at = self.sent[number] % len(self.HEAD)
        try:
            self.sent[number] += self.clients[number].send(self.HEAD[at : at + 1])
        except OSError:
            return False
        return True


@contextmanager
def crowded(port: int, count: int) -> Iterator[Crowd]:
    crowd = Crowd(port, count)
    crowd.start()
    try:
        yield crowd
    finally:
        crowd.over.set()
        crowd.join()
        for client in crowd.clients:
            client.close()


@contextmanager
def bounded(echod: Echod) -> Iterator[None]:
    """Meanwhile a conversation goes on; afterwards what the process holds is as it was, and on the
    way it was never much more.
    """
    over = threading.Event()
    said = 0
    echod.event("ready")
    files, threads = echod.open_files(), echod.threads()
    scrape(echod)
    rss = echod.rss()

    def talk() -> None:
        nonlocal said
        with connect(echod.port) as client:
            while not over.wait(0.01):
                ask(client, b"beside\n")
                said += 1
                assert echod.open_files() <= files + METRICS_CLIENTS + FEW
                assert echod.threads() == threads
                assert echod.rss() < rss + GROWTH

    with ThreadPoolExecutor(1) as pool:
        talking = pool.submit(talk)
        try:
            yield
        finally:
            over.set()
        talking.result()
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    metrics = echod.metrics()
    assert metrics("echod_connections_opened_total") == 1
    assert metrics("echod_requests_total") == said > 0
    until(lambda: echod.open_files() == files)


def test_six_hundred_silent_and_slow_clients_do_not_delay_a_scrape_or_a_probe(start: Start) -> None:
    """Scrapes and probes are answered before a single one of them has had its time."""
    echod = start(command=UNHURRIED)
    with bounded(echod), crowded(echod.metrics_port, 600) as crowd:
        for _ in range(3):
            for path in ("/metrics", "/livez", "/readyz"):
                scrape(echod, path)
        with ThreadPoolExecutor(40) as pool:
            assert all(pool.map(lambda _: scrape(echod), range(40)))
        until(lambda: crowd.returns > 600)
        scrape(echod)
    echod.stop()


def exchange(port: int, data: bytes) -> bytes:
    """What comes back to a client that sends all of it, if it can, and then reads."""
    with connect(port) as client:
        with suppress(ConnectionError):
            client.sendall(data)
        with suppress(ConnectionError):
            return read_to_end(client)
    return b""


MIB = 1 << 20
HEADS = {
    "request line": b"GET /" + b"x" * 10 * MIB,
    "header": b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 10 * MIB,
    "headers": b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * (MIB // 4),
    "few headers too many": b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    "empty lines": b"\r\n" * 5 * MIB,
    "pipeline": b"GET /metrics HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\n" * (MIB // 16),
    "zeros": bytes(10 * MIB),
    "lone returns": b"GET /metrics HTTP/1.1\r\nX: " + b"\r" * 16_000 + b"\r\n\r\n",
    "version": b"GET /metrics HTTP/1." + b"9" * 16_000 + b"\r\n\r\n",
}


def test_endless_request_heads_close_their_own_connections_alone(start: Start) -> None:
    """Each ends long before its deadline, with one answer at most; ten megabytes are not kept
    anywhere.
    """
    echod = start(
        "--log-level", "debug", command=altered(telemetry__exporter__DEADLINE_SECONDS=NEVER)
    )
    with bounded(echod):
        for name, head in HEADS.items():
            assert exchange(echod.metrics_port, head).count(b"HTTP/1.1 ") <= 1, name
            scrape(echod)
    assert [event for event in echod.events() if event["level"] in ("warning", "error")] == []
    echod.stop()


def test_garbage_at_the_metrics_port_does_not_affect_the_next_request(start: Start) -> None:
    """Made of what parsers stumble over; some of the clients go in the middle of it."""
    echod = start()
    chance = random.Random(7)
    pieces = [b"GET ", b"HEAD ", b"/metrics", b" HTTP/1.1", b"HTTP/9", b"\r\n", b"\n", b"\r", b":",
              b"Accept: ", b"Expect: 100-continue", b"Content-Length: -1", b"\xff\xfe", b"\x00",
              b"q=", b";", b",", b"version=", b"text/plain", b"application/openmetrics-text",
              b"http://", b"?", b"\x85", b"=?utf-8?q?x?=", b" ", b"\t"]  # fmt: skip
    with bounded(echod), ExitStack() as staying:
        for number in range(600):
            head = b"".join(chance.choices(pieces, k=chance.randrange(1, 25)))
            client = staying.enter_context(connect(echod.metrics_port))
            with suppress(OSError):
                client.sendall(b"GET /metrics HTTP/1.1\r\n" * chance.randrange(2) + head)
                match number % 4:
                    case 0:
                        client.sendall(b"\r\n\r\n")
                        client.shutdown(socket.SHUT_WR)
                        read_to_end(client)
                    case 1:
                        reset(client)
                    case 2:
                        client.close()
            if number % 60 == 0:
                scrape(echod)
    assert [event for event in echod.events() if event["level"] in ("warning", "error")] == []
    echod.stop()


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("," * 16_000, TEXT),
        ("q=1," * 4_000, TEXT),
        (";" * 16_000, TEXT),
        ("application/openmetrics-text;version=1.0.0" + "," * 15_000, OPENMETRICS),
        ("," * 15_000 + "application/openmetrics-text;version=1.0.0", TEXT),  # not read so far
        ("application/openmetrics-text;q=" + "9" * 16_000, OPENMETRICS),
        ("application/openmetrics-text;q=nan,text/plain;q=inf", TEXT),
    ],
)
def test_a_hostile_accept_header_gets_the_metrics_in_one_of_two_formats(
    shared_echod: Echod, accept: str, kind: str
) -> None:
    """Of thousands of media ranges the first few are read: they took longer than the metrics."""
    status, body, headers = get(shared_echod.metrics_port, "/metrics", Accept=accept)
    assert (status, headers["Content-Type"]) == (200, kind)
    assert b"echod_build_info" in body


def test_a_new_client_of_a_full_metrics_port_has_time_to_send_its_request(
    shared_echod: Echod,
) -> None:
    """The oldest is closed, not the newest, whose request is in flight."""
    with connections(shared_echod.metrics_port, METRICS_CLIENTS) as silent, ExitStack() as later:
        late = later.enter_context(connect(shared_echod.metrics_port))
        later.enter_context(connections(shared_echod.metrics_port, METRICS_CLIENTS // 2))
        assert read_to_end(silent[METRICS_CLIENTS // 2]) == b""  # has given way to the last of them
        late.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert read_to_end(late).endswith(b"ok\n")
