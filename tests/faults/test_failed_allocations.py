"""Memory that runs out: at each allocation of a handler's or the exporter's life, one by one, and
amid a full address space.
"""

from __future__ import annotations

import http.client
import importlib.util
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support import (
    Echod,
    Start,
    ask,
    clean_environment,
    connect,
    connections,
    expected,
    get,
    read_to_end,
    until,
    without_memory,
)
from support.without_memory import Plan

ENOUGH = 3
"""Calls in a row that did not come to the allocation: the method makes fewer. Several, because
those of other threads count too."""
ENDS = "eof", "line_too_long", "error", "idle"
SLOTS = 20
IN_A_ROW = 12
"""So many allocations fail: also those of a report, for example."""
MAX_LINE_BYTES = 5000
LINES = b"a plain line\n" + b"x" * 3000 + b"\ntwo\nthree\nand the beginning of"
OVERLONG = LINES + b"x" * MAX_LINE_BYTES
PENDING = b"\n" * 60_000
"""More replies than the kernel takes at once."""

needs_testcapi = pytest.mark.skipif(
    not importlib.util.find_spec("_testcapi"),
    reason="optional: this interpreter has no _testcapi",
)


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

    def be_silent(self, data: bytes) -> bool:
        """Whether it was answered and closed; how is for its deadline to say."""
        self.connections += 1
        with connect(self.echod.port) as client, suppress(ConnectionError):
            client.sendall(data)
            return read_to_end(client) == expected(data)
        return False

    def scrape(self, path: str) -> bool:
        """Whether it was answered."""
        with suppress(OSError, http.client.HTTPException):
            return get(self.echod.metrics_port, path)[0] == 200
        return False


def fails(plan: Plan, call: Callable[[], bool], method: str, *allocations: int) -> bool:
    """Whether the method came to the allocation that was to fail in its next call."""
    done, failed = plan.done, plan.failed
    plan.arm(method, *allocations)
    call()
    until(lambda: plan.done == done + 1)
    return plan.failed > failed


def fail_each(plan: Plan, method: str, step: int, call: Callable[[], bool]) -> int:
    """How many allocations the method makes, when each has failed once."""
    quiet = 0
    for number in count(1, step):
        quiet = 0 if fails(plan, call, method, number) else quiet + 1
        if quiet >= ENOUGH:
            break
    return number


def start_without_memory(
    start: Start, plan: Path, *options: str, **more: Any
) -> tuple[Plan, Echod]:
    """An echod, and what is to fail in it."""
    made = Plan(plan, new=True)
    words = [sys.executable, without_memory.__file__, str(plan)]
    echod = start(*options, command=lambda *all_: [*words, *all_], **more)
    echod.event("ready")
    return made, echod


@pytest.mark.long
@needs_testcapi
@pytest.mark.parametrize(
    ("method", "step", "data", "path"),
    [
        ("EchoServer.verify_request", 1, LINES, ""),
        ("EchoServer.process_request", 1, LINES, ""),
        ("LineHandler.handle", 1, LINES, ""),
        ("LineHandler.handle", 1, OVERLONG, ""),
        ("LineHandler.flush", 1, PENDING, ""),
        ("LineHandler.on_timer", 1, b"a line\n", ""),
        ("LingeringClose.handle", 1, OVERLONG, ""),
        ("_Client.__init__", 1, b"", "/livez"),
        ("_Client.handle", 1, b"", "/livez"),
        ("_Client.handle", 7, b"", "/metrics"),
    ],
)
def test_an_allocation_that_fails_costs_one_connection(
    start: Start, tmp_path: Path, method: str, step: int, data: bytes, path: str
) -> None:
    """Whichever it is; the process lives, and nothing is counted twice."""
    silent = method == "LineHandler.on_timer"
    options = ["--max-line-bytes", str(MAX_LINE_BYTES), "--max-connections", str(SLOTS)]
    options += ["--idle-timeout", "0.1" if silent else "none"]
    plan, echod = start_without_memory(start, tmp_path / "plan", *options)
    files, threads = echod.open_files(), echod.threads()
    client = Client(echod)
    if path:
        call = partial(client.scrape, path)
    else:
        call = partial(client.be_silent if silent else client.converse, data)
    until(call)
    last = fail_each(plan, method, step, call)
    assert plan.failed
    if not path:
        for number in range(1, last, 5):
            fails(plan, call, method, number, IN_A_ROW)
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    metrics = echod.metrics()
    opened = metrics("echod_connections_opened_total")
    assert opened <= client.connections
    if method != "EchoServer.verify_request":
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
    until(lambda: all_slots_serve(echod, SLOTS))  # an idle timeout is short
    until(call)
    echod.stop()


def all_slots_serve(echod: Echod, slots: int) -> bool:
    with connections(echod.port, slots) as clients, suppress(ConnectionError):
        for one in clients:
            one.sendall(b"x\n")
        return all(one.recv(100) == b"one x\n" for one in clients)
    return False


@pytest.mark.long
@needs_testcapi
def test_an_allocation_that_fails_in_the_main_thread_costs_nothing(
    start: Start, tmp_path: Path
) -> None:
    """Its reports to systemd are late, no more than that."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "manager"))
        manager.setblocking(False)
        environment = clean_environment(
            NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_USEC="60000000"
        )
        plan, echod = start_without_memory(start, tmp_path / "plan", env=environment)
        client = Client(echod)

        def read() -> bool:
            with suppress(BlockingIOError):
                while manager.recv(4096):
                    pass
            return True

        with connect(echod.port) as kept:
            last = fail_each(plan, "MainLoop._look", 1, read)
            for number in range(1, last):
                fails(plan, read, "MainLoop._look", number, IN_A_ROW)
            ask(kept, b"x\n")
        assert client.converse(LINES)
        echod.stop()


@pytest.mark.long
@needs_testcapi
def test_an_allocation_that_fails_in_a_drain_costs_one_connection(
    start: Start, tmp_path: Path
) -> None:
    """The process ends in time all the same, with status 0. Every fifth one, for time's sake."""
    failed = 1
    for number in count(1, 5):
        plan, echod = start_without_memory(start, tmp_path / f"plan-{number}")
        with connections(echod.port, 2) as clients:
            for one in clients:
                ask(one, b"x\n")
            plan.arm("LineHandler.on_stop", number)
            echod.terminate()
            assert [read_to_end(one) for one in clients] == [b"", b""]
        last = echod.stop()
        assert last["cut"] == 0
        (totals,) = last["totals"]
        assert (totals["opened"], totals["closed"], totals["requests"]) == (2, 2, 2)
        if not plan.failed:
            break
        failed += 1
    assert failed > 1


TIMERS = """
import _testcapi
from echod.loop.timers import Timers
class Entry:
    def __init__(self):
        self.timer_slot = 0
failed = 0
for number in range(1000):
    timers = Timers(1000.0)
    entries = [Entry() for _ in range(5)]
    for delay, entry in enumerate(entries):
        timers.schedule(entry, 1000.0 + delay / 4)
    due = None
    _testcapi.set_nomemory(number, number + 1)
    try:
        due = timers.due(1002.0)
    except MemoryError:
        pass
    _testcapi.remove_mem_hooks()
    if due is None:
        failed += 1
        due = timers.due(1002.0)
    assert len(due) == 5, (number, due)
    for entry in entries:
        timers.schedule(entry, 1003.0)
        timers.cancel(entry)
print(failed)
"""


@pytest.mark.long
@needs_testcapi
def test_no_timer_is_lost_at_an_allocation_that_fails() -> None:
    """A port that pauses would accept no more, and no connection would expire."""
    run = subprocess.run([sys.executable, "-c", TIMERS], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 5


@contextmanager
def full_address_space(echod: Echod, room: int) -> Iterator[None]:
    """Meanwhile the process may have that many bytes of address space more than now."""
    pid = echod.process.pid
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + room
    resource.prlimit(pid, resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, before)


def send_and_finish(clients: list[socket.socket], line: bytes) -> list[bytes]:
    """What each client heard whose line is complete only when all others have begun theirs."""
    for one in clients:
        with suppress(OSError):  # echod has ended it
            one.sendall(line)
    heard = [b""] * len(clients)
    for number, one in enumerate(clients):
        with suppress(ConnectionError):
            one.sendall(b"\n")
            one.shutdown(socket.SHUT_WR)
            heard[number] = read_to_end(one)
    return heard


@pytest.mark.long
@pytest.mark.parametrize("room", [0, 64 << 10, 1 << 20, 8 << 20])
def test_a_full_address_space_costs_connections_alone(start: Start, room: int) -> None:
    """On any interpreter: clients without an answer are closed, and counts are exact. With
    memory again, all is as before.
    """
    line = b"x" * 900_000
    echod = start("--max-buffered-bytes", "1000000000", "--max-connections", "151")
    client = Client(echod)
    assert client.converse(LINES)
    assert client.scrape("/metrics")
    files, threads = echod.open_files_at_rest(), echod.threads()
    # more than glibc keeps of address space for a thread, which is 64 MiB
    with full_address_space(echod, room), connections(echod.port, 150) as clients:
        heard = send_and_finish(clients, line)
        client.converse(LINES)
    client.connections += len(heard)
    answer = expected(line + b"\n")
    assert all(answer.startswith(one) for one in heard)
    assert any(one != answer for one in heard)
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    metrics = echod.metrics()
    assert metrics("echod_connections_opened_total") == client.connections
    ends = {one: metrics("echod_connections_closed_total", reason=one) for one in ("eof", "error")}
    assert sum(ends.values()) == client.connections
    assert ends["error"] > 0
    assert metrics("echod_buffered_bytes") == 0
    until(lambda: echod.open_files() == files)
    assert echod.threads() == threads
    assert all_slots_serve(echod, 151)
    assert client.converse(LINES)
    echod.stop()
