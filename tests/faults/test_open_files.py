from __future__ import annotations

import threading
from contextlib import ExitStack
from time import monotonic

from support import (
    Start,
    ask,
    connect,
    connections,
    converse,
    read_exactly,
    until,
    without_descriptors,
)


def test_without_free_descriptors_it_waits_quietly_and_recovers(start: Start) -> None:
    """Counted, one line in and one out, hardly any CPU, and nobody served is cut."""
    echod = start()
    port = echod.port
    with connections(port, 10) as served, ExitStack() as later:
        for client in served:
            ask(client, b"before\n")
        until(lambda: echod.metrics()("echod_connections_active") == 10)
        with without_descriptors(echod):
            waiting = later.enter_context(connections(port, 5))
            for client in waiting:
                client.sendall(b"at last\n")
            echod.event("cannot accept connections")
            cpu, began = echod.cpu_seconds(), monotonic()
            while monotonic() - began < 2:
                ask(served[0], b"meanwhile\n")
                threading.Event().wait(0.1)
            assert (echod.cpu_seconds() - cpu) / (monotonic() - began) < 0.05
        began = monotonic()
        for client in waiting:
            assert read_exactly(client, 12) == b"one at last\n"
        assert monotonic() - began < 1.0
        later.close()
        for client in served:
            ask(client, b"after\n")
    metrics = echod.metrics()
    assert metrics("echod_accept_errors_total", reason="EMFILE") > 10
    assert metrics("echod_connections_closed_total") <= metrics("echod_connections_opened_total")
    assert converse(port, b"x\n") == b"one x\n"
    over = echod.event("accepting connections again")
    assert over["errors"] > 10
    echod.stop()
    assert len(echod.events("cannot accept")) == len(echod.events("accepting connections")) == 1


def test_a_drain_without_free_descriptors_ends_too(start: Start) -> None:
    """What cannot be accepted does not hold the stop up."""
    echod = start()
    with without_descriptors(echod), connect(echod.port):
        echod.event("cannot accept connections")
        echod.terminate()
        assert echod.wait() == 0
