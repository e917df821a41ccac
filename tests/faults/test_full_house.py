"""More clients than connection slots."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from itertools import cycle
from time import monotonic

import pytest
from support import Echod, Start, connect, converse, until

LIMIT = 200
TOO_MANY = 100


def is_served(client: socket.socket) -> bool:
    """Asks; who is rejected sees the end of the stream, or a reset."""
    try:
        client.sendall(b"x\n")
        return client.recv(100) == b"one x\n"
    except ConnectionError:
        return False


class Watch(threading.Thread):
    """Scrapes and probes all along; ``waits`` are how long it took, in seconds."""

    def __init__(self, echod: Echod) -> None:
        super().__init__()
        self.echod = echod
        self.waits: list[float] = []
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.01):
            for path in ("/metrics", "/livez"):
                began = monotonic()
                assert self.echod.get(path)[0] == 200
                self.waits.append(monotonic() - began)


def test_admission_is_exact_over_three_ports(start: Start) -> None:
    """A hundred too many at once: so many are rejected and counted, and the next free slot is
    the next client's. Scrapes and probes are answered all along."""
    assert fill_the_house(start).waits


@pytest.mark.long
def test_with_a_full_house_scrapes_and_probes_are_answered_within_a_second(start: Start) -> None:
    """On a quiet machine."""
    assert max(fill_the_house(start).waits) < 1.0


def fill_the_house(start: Start) -> Watch:
    """Has more clients than connection slots, and gives what has watched it."""
    echod = start("--max-connections", str(LIMIT), ports="0,0,0")
    ports, files = echod.ports, echod.open_files()
    watch = Watch(echod)
    served: list[socket.socket] = []
    rejected: list[socket.socket] = []
    with ExitStack() as closing:

        def dial() -> None:
            for _, port in zip(range((LIMIT + TOO_MANY) // 4), cycle(ports), strict=False):
                client = closing.enter_context(connect(port))
                (served if is_served(client) else rejected).append(client)

        threads = [threading.Thread(target=dial) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(served), len(rejected)) == (LIMIT, TOO_MANY)
        metrics = echod.metrics()
        assert metrics("echod_connections_rejected_total", reason="limit") == TOO_MANY
        assert metrics("echod_connections_opened_total") == LIMIT
        assert metrics("echod_connections_active") == LIMIT
        served[0].close()
        until(lambda: one_more(ports[0]))
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    assert converse(ports[1], b"again\n") == b"one again\n"
    over = echod.event("no longer rejecting connections")
    watch.over.set()
    watch.join()
    metrics = echod.metrics()
    assert over["rejected"] == metrics("echod_connections_rejected_total") >= TOO_MANY
    until(lambda: echod.open_files() == files)
    echod.stop()
    assert len(echod.events("rejecting")) == len(echod.events("no longer rejecting")) == 1
    return watch


def one_more(port: int) -> bool:
    with connect(port) as client:
        return is_served(client)
