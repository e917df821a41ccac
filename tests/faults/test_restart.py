"""Restarts behind a listening socket that another process keeps open: the test itself."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support import (
    NEVER,
    PATIENCE,
    ROOT,
    Echod,
    Sockets,
    Start,
    altered,
    ask,
    connect,
    connections,
    expected,
    read_exactly,
    read_to_end,
    reset,
    start_with,
    until,
)

LOAD = ROOT / "tests/host/in_guest/restart_load.py"


class Door:
    """The listening socket, and the echods that answer behind it in turn or together."""

    def __init__(self, start: Start, listening: socket.socket) -> None:
        self.start = start
        self.port: int = listening.getsockname()[1]
        self.sockets = Sockets(echo=[listening])

    def open(self, *options: str, words: Sequence[str] = (), **variables: str) -> Echod:
        options = ("--metrics-port", "0", *options)
        echod = start_with(self.start, self.sockets, *options, words=words, **variables)
        echod.event("ready")
        return echod


@pytest.fixture
def door(start: Start) -> Iterator[Door]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Door(start, listening)


@contextmanager
def loaded(port: int, directory: Path) -> Iterator[dict[str, Any]]:
    """Clients come all the time; what became of them is known at the end."""
    report: dict[str, Any] = {}
    running = directory / "running"
    running.touch()
    words = [sys.executable, str(LOAD), str(port), "one", str(running)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as load:
        try:
            yield report
            running.unlink()
            report.update(json.loads(load.communicate(timeout=5 * PATIENCE)[0]))
        finally:
            load.kill()


UNHURRIED = altered(
    echo__closing__FRESH_SECONDS=PATIENCE, loop__lingering_close__LINGER_SECONDS=PATIENCE
)
"""If a client has no CPU for some seconds, it still gets its pending replies."""


def restart(
    door: Door, directory: Path, times: int, *, overlap: bool, words: Sequence[str] = ()
) -> dict[str, Any]:
    """What became of the clients; all of it must have been counted, and once."""
    options = ("--drain-timeout", str(NEVER))
    current = door.open(*options, words=words)
    stopped = []
    with loaded(door.port, directory) as load:
        current.event("connection closed")
        for number in range(times):
            threads = str(1 + number % 2)
            if overlap:
                new = door.open(*options, "--handler-threads", threads, words=words)
                stopped.append(current.stop())
            else:
                stopped.append(current.stop())
                new = door.open(*options, "--handler-threads", threads, words=words)
            current = new
            current.event("connection closed")
    stopped.append(current.stop())
    assert {last["cut"] for last in stopped} == {0}
    totals = [last["totals"][0] for last in stopped]
    assert all(total["opened"] for total in totals)
    sums = {name: sum(total[name] for total in totals) for name in totals[0] if name != "port"}
    assert sums.pop("received_bytes") <= load["sent_bytes"]
    assert sums == {
        "opened": load["connections"],
        "closed": load["connections"],
        "rejected": 0,
        "requests": load["replies"],
        "sent_bytes": load["received_bytes"],
    }
    return load


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapping"])
def test_a_restart_under_load_refuses_and_resets_no_client(
    door: Door, tmp_path: Path, overlap: bool
) -> None:
    """Every line taken is answered, and an end comes between lines."""
    load = restart(door, tmp_path, 2, overlap=overlap, words=UNHURRIED())
    # A busy machine may keep a client from asking until it is let go.
    assert set(load["outcomes"]) - {"asked too late"} == {"answered", "ended between lines"}


@pytest.mark.long
def test_fifty_restarts_at_200_connections_a_second_refuse_no_client(
    door: Door, tmp_path: Path
) -> None:
    """The same on a quiet machine, which delays next to no client."""
    load = restart(door, tmp_path, 50, overlap=False)
    assert load["connections"] == sum(load["outcomes"].values()) >= 200 * load["seconds"]
    assert load["outcomes"].pop("asked too late", 0) <= load["connections"] / 100
    assert set(load["outcomes"]) == {"answered", "ended between lines"}


def test_a_kill_breaks_only_connections_that_were_accepted(door: Door) -> None:
    """Clients in the accept queue, whatever they have sent, are served by the next process."""
    first = door.open()
    with connections(door.port, 20) as accepted, ExitStack() as closing:
        for client in accepted:
            ask(client, b"x\n")
        first.freeze()
        for client in accepted[:10]:
            client.sendall(b"never read\n")
        asked, silent = queue(door.port, closing)
        first.process.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        for client in accepted:
            see_end(client)
        second = door.open()
        for client in silent:
            client.sendall(b"x\n")
        for client in asked + silent:
            assert read_exactly(client, 6) == b"one x\n"
    until(lambda: second.metrics()("echod_connections_active") == 0)
    assert second.metrics()("echod_connections_opened_total") == 160
    (total,) = second.stop()["totals"]
    assert (total["opened"], total["closed"]) == (160, 160)
    assert 150 <= total["requests"] <= 160  # of those who did not wait for their reply


def queue(port: int, closing: ExitStack) -> tuple[list[socket.socket], list[socket.socket]]:
    """Connects 100 who have asked, 50 of whom have half-closed too, and 50 who have yet to ask;
    and 10 who are gone already, half of them with a reset."""
    asking, parting, silent = (closing.enter_context(connections(port, 50)) for _ in range(3))
    for client in asking + parting:
        client.sendall(b"x\n")
    for client in parting:
        client.shutdown(socket.SHUT_WR)
    for leave in (reset, socket.socket.close):
        for client in closing.enter_context(connections(port, 5)):
            client.sendall(b"y\n")
            leave(client)
    return asking + parting, silent


def see_end(client: socket.socket) -> None:
    """The end of the stream or a reset, and nothing before it."""
    with suppress(ConnectionResetError):
        assert read_to_end(client) == b""


def test_a_full_inherited_queue_at_a_stop_is_answered_by_the_old_or_the_new_process(
    door: Door,
) -> None:
    """What the old process has not accepted when it stops, it leaves to the new one."""
    old = door.open()
    old.freeze()
    with connections(door.port, 350) as waiting:  # more than are accepted at one wake
        for client in waiting:
            client.sendall(b"x\n")
            client.shutdown(socket.SHUT_WR)
        old.terminate()
        old.thaw()
        assert old.wait() == 0
        new = door.open()
        for client in waiting:
            assert read_to_end(client) == b"one x\n"
    stopped = [old.events()[-1], new.stop()]
    assert sum(last["totals"][0]["opened"] for last in stopped) == 350
    assert sum(last["totals"][0]["requests"] for last in stopped) == 350


def test_clients_that_connect_during_a_drain_are_served_by_the_next_process(door: Door) -> None:
    """However long the old process still answers those whom it has accepted."""
    data = b"".join(b"%06d\n" % number for number in range(10_000))
    prefix = "x" * 1024
    old = door.open("--drain-timeout", str(NEVER), ECHOD_PREFIX=prefix)
    with connect(door.port, receive_buffer=4096) as slow, connect(door.port) as idle:
        ask(idle, b"x\n", prefix.encode())
        slow.sendall(data)
        slow.shutdown(socket.SHUT_WR)
        until(lambda: old.metrics()("echod_buffered_bytes") > 0)
        old.terminate()
        assert read_to_end(idle) == b""  # the drain has begun
        with connect(door.port) as late:
            late.sendall(b"y\n")
            new = door.open(ECHOD_PREFIX="two")
            assert read_exactly(late, 6) == b"two y\n"
            assert old.metrics()("echod_connections_opened_total") == 2
            assert read_to_end(slow) == expected(data, prefix.encode())
            assert old.wait() == 0
            ask(late, b"z\n", b"two")
    assert old.events()[-1]["cut"] == 0
    (total,) = new.stop()["totals"]
    assert (total["opened"], total["closed"], total["requests"]) == (1, 1, 2)
