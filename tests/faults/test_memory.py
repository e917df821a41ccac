"""Clients that would have it hold more than it may."""

from __future__ import annotations

import pytest
from support import OWN_ALLOCATOR, PATIENCE, Echod, Start, ask, connect, until
from support.senders import Senders

MIB = 1024 * 1024
CONNECTION_BYTES = 32 * 1024
"""What a connection may take beside its share of the budget."""
KERNEL_BYTES = 256 * 1024
KILOBYTE_LINES = (b"x" * 1000 + b"\n") * (8 * MIB // 1005)  # their pending replies have 8 MiB
BACK_BYTES = 6 * MIB
"""What may stay when all is over: the modules that were needed for once, and holes in the heap."""


def closed(echod: Echod, *reasons: str) -> float:
    metrics = echod.metrics()
    return sum(metrics("echod_connections_closed_total", reason=reason) for reason in reasons)


def assert_bounded(echod: Echod, before: int, budget: int, connections: int) -> None:
    """At its highest, and that it is back where it was now; without a GIL, the first alone."""
    most = 2 * budget if OWN_ALLOCATOR else budget
    assert echod.peak_rss() - before <= most + CONNECTION_BYTES * connections
    assert echod.metrics()("echod_buffered_bytes") == 0
    until(lambda: OWN_ALLOCATOR or echod.rss() - before <= BACK_BYTES)


def test_over_long_lines_of_a_thousand_clients_are_bounded_and_given_back(start: Start) -> None:
    """Each ends, as too long or over the budget, and the memory is the system's again."""
    echod = start()
    port, files, threads, before = echod.port, echod.open_files(), echod.threads(), echod.rss()
    for number in (1, 2):
        with Senders(port, 1000, b"x" * (2 * MIB)) as crowd:

            def all_ended(crowd: Senders = crowd) -> bool:
                crowd.send()
                return len(crowd.ends()) == 1000

            until(all_ended, 5 * PATIENCE)  # two gigabytes
        until(lambda: echod.metrics()("echod_connections_active") == 0)
        assert closed(echod, "line_too_long", "buffer_limit") == 1000 * number
        assert closed(echod, "line_too_long") > 0
        assert_bounded(echod, before, 64 * MIB, 1000)
    assert echod.metrics()("echod_requests_total") == 0
    until(lambda: echod.open_files() == files)
    assert echod.threads() == threads
    assert echod.stop()["cut"] == 0


def serve_beside(echod: Echod, crowd: Senders, count: int, budget: int, prefix: bytes) -> None:
    """Until all of the crowd have been ended; a client that reads is served all along."""
    held: list[float] = []
    with connect(echod.port) as healthy:

        def all_ended() -> bool:
            crowd.send()
            ask(healthy, b"and me?\n", prefix)
            metrics = echod.metrics()
            held.append(metrics("echod_buffered_bytes"))
            assert echod.get("/livez")[0] == 200
            ended = [
                metrics("echod_connections_closed_total", reason=reason)
                for reason in ("write_timeout", "buffer_limit")
            ]
            return sum(ended) == count

        until(all_ended, 60)
        ask(healthy, b"still\n", prefix)
    assert 0 < max(held) <= budget


@pytest.mark.long
@pytest.mark.parametrize(
    ("count", "prefix", "data", "budget", "over_budget"),
    [
        (200, "one", KILOBYTE_LINES, 64 * MIB, False),
        (200, "one", KILOBYTE_LINES, 2 * MIB, True),
        (500, "x" * 1024, b"\n" * 100_000, 64 * MIB, True),
        (500, "x" * 1024, b"\n" * 100_000, 2 * MIB, True),
    ],
    ids=["eight-mib-each", "little-budget", "amplified", "amplified-little-budget"],
)
def test_clients_that_do_not_read_are_reset_and_delay_no_other(
    start: Start, count: int, prefix: str, data: bytes, budget: int, over_budget: bool
) -> None:
    """No thread waits for them, their buffers are bounded, and they are closed."""
    options = ("--write-timeout", "2", "--max-buffered-bytes", str(budget))
    echod = start(*options, prefix=prefix)
    port, files, threads, before = echod.port, echod.open_files(), echod.threads(), echod.rss()
    with Senders(port, count, data, receive_buffer=4096) as crowd:
        serve_beside(echod, crowd, count, budget, prefix.encode())
        assert echod.threads() == threads
        # What the kernel took of the replies: not in the budget, but in a container's memory.
        assert echod.metrics()("echod_sent_bytes_total") <= KERNEL_BYTES * count
        assert set(crowd.ends()) == {"reset"}  # they learn that they have missed something
    assert (closed(echod, "buffer_limit") > 0) == over_budget
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    assert_bounded(echod, before, budget, count)
    until(lambda: echod.open_files() == files)
    echod.stop()
