from __future__ import annotations

import random

from support import Start, connections, reset, until


def test_ten_thousand_connections_leave_open_files_and_threads_as_they_were(start: Start) -> None:
    """Opened and closed in every way a client may choose, and all counted."""
    echod = start("--handler-threads", "2", ports="0,0")
    port, other = echod.ports
    files, threads = echod.open_files(), echod.threads()
    chance = random.Random(3)
    for _ in range(100):
        with connections(port, 50) as clients, connections(other, 50) as others:
            for client in clients + others:
                way = chance.randrange(4)
                if way > 0:
                    client.sendall(b"hello\n")
                if way == 2:
                    assert client.recv(100) == b"one hello\n"
                if way == 3:
                    reset(client)
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    metrics = echod.metrics()
    assert metrics("echod_connections_opened_total") == 10_000
    assert metrics("echod_connections_closed_total") == 10_000
    assert metrics("echod_buffered_bytes") == 0
    until(lambda: echod.open_files() == files)
    assert echod.threads() == threads
    assert echod.stop()["cut"] == 0


def test_memory_of_many_idle_connections_is_small(start: Start) -> None:
    """And given back: what a connection costs is bounded by what it holds."""
    echod = start()
    with connections(echod.port, 100):
        before = echod.rss()
        with connections(echod.port, 2000):
            until(lambda: echod.metrics()("echod_connections_active") == 2100)
            assert (echod.rss() - before) / 2000 < 4096  # a guard; the figure is in the README
    until(lambda: echod.metrics()("echod_connections_active") == 0)
