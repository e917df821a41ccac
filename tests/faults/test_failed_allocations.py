"""Memory that runs out at any allocation of a handler's or the exporter's life, one by one."""

from __future__ import annotations

import http.client
import importlib.util
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from support import Echod, Start, connect, expected, get, read_to_end, until, without_memory
from support.without_memory import METHODS, Plan

ENOUGH = 30
"""Allocations in a row that change nothing: the call makes no more."""
ENDS = "eof", "line_too_long", "error"
MAX_LINE_BYTES = 5000
LINES = b"a plain line\n" + b"x" * 3000 + b"\ntwo\nthree\nand the beginning of"
OVERLONG = LINES + b"x" * MAX_LINE_BYTES
PENDING = b"\n" * 60_000
"""More replies than the kernel takes at once."""


class Client:
    """Conversations and scrapes, each with one failed allocation."""

    def __init__(self, echod: Echod) -> None:
        self.echod = echod
        self.connections = 0

    def converse(self, data: bytes) -> bool:
        """Whether all of it was answered; what came was the beginning of that."""
        self.connections += 1
        heard = b""
        with connect(self.echod.port, receive_buffer=4096) as client:
            try:
                client.sendall(data[:30])
                client.sendall(data[30:])
                client.shutdown(socket.SHUT_WR)
                heard = read_to_end(client)
            except TimeoutError:
                raise
            except OSError:  # a reset, at whichever of these
                pass
        assert expected(data).startswith(heard)
        return heard == expected(data)

    def scrape(self, path: str) -> bool:
        """Whether it was answered."""
        with suppress(OSError, http.client.HTTPException):
            return get(self.echod.metrics_port, path)[0] == 200
        return False


def fail_each(plan: Plan, method: str, step: int, call: Callable[[], bool]) -> int:
    """How many calls were damaged, when each allocation of the method has failed once."""
    damaged = quiet = 0
    for number in count(1, step):
        plan.arm(METHODS.index(method) + 1, number)
        met, good = plan.done, call()
        assert plan.done == met + 1
        damaged += not good
        quiet = quiet + 1 if good else 0
        if quiet >= ENOUGH:
            break
    return damaged


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "step", "data", "path"),
    [
        ("LineHandler.handle", 1, LINES, ""),
        ("LineHandler.handle", 1, OVERLONG, ""),
        ("LineHandler.flush", 1, PENDING, ""),
        ("_Client.handle", 1, b"", "/livez"),
        ("_Client.handle", 97, b"", "/metrics"),
    ],
)
def test_an_allocation_that_fails_costs_one_connection(
    start: Start, tmp_path: Path, method: str, step: int, data: bytes, path: str
) -> None:
    """Whichever it is; the process lives, and nothing is counted twice."""
    if not importlib.util.find_spec("_testcapi"):
        pytest.skip("optional: this interpreter has no _testcapi")
    plan = Plan(tmp_path / "plan", new=True)
    words = [sys.executable, without_memory.__file__, str(tmp_path / "plan")]
    options = ("--max-line-bytes", str(MAX_LINE_BYTES))
    echod = start(*options, command=lambda *all_: [*words, *all_])
    echod.event("ready")
    files, threads = echod.open_files(), echod.threads()
    client = Client(echod)
    call = partial(client.scrape, path) if path else partial(client.converse, data)
    assert call()
    damaged = fail_each(plan, method, step, call)
    assert damaged > 3
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    metrics = echod.metrics()
    opened = metrics("echod_connections_opened_total")
    assert opened == client.connections
    assert metrics("echod_connections_closed_total") == opened
    ends = [metrics("echod_connections_closed_total", reason=one) for one in ENDS]
    assert sum(ends) == opened
    assert metrics("echod_requests_total") <= opened * data.count(b"\n")
    assert metrics("echod_received_bytes_total") <= opened * len(data)
    assert metrics("echod_sent_bytes_total") <= opened * len(expected(data))
    assert metrics("echod_buffered_bytes") == 0
    assert metrics("echod_connections_active") == 0
    until(lambda: echod.open_files() == files)
    assert echod.threads() == threads
    assert call()
    echod.stop()
