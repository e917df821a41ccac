"""Counters have no lock: each has one writer, on builds without a GIL above all."""

from __future__ import annotations

import threading
from typing import Any, NoReturn

import pytest
from support import ask, connect, connections, converse, read_to_end, reset, until
from support.running import Running

from echod.echo.handler import LineHandler
from echod.echo.limits import Admission
from echod.telemetry.counters import Counters

THREADS = 4
WRITES: set[tuple[int, str, str]] = set()
"""Index of the counters, what was written, and the thread that wrote."""


def note(index: int, what: str) -> None:
    WRITES.add((index, what, threading.current_thread().name))


class Noted(Counters):
    """Counters that record the writing thread; those of a port are made in the order of the
    threads.
    """

    made = 0

    def __init__(self) -> None:
        super().__init__()
        index = Noted.made % THREADS
        Noted.made += 1
        self.rejected = NotedDict(self.rejected, index, "rejected")
        self.accept_errors = NotedDict(self.accept_errors, index, "accept_errors")
        self.index = index

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if hasattr(self, "index") and name != "index":
            note(self.index, name)

    def count_closed(self, reason: str, seconds: float) -> None:
        note(self.index, reason)
        super().count_closed(reason, seconds)


class NotedDict(dict[str, int]):
    def __init__(self, values: dict[str, int], index: int, name: str) -> None:
        super().__init__(values)
        self.index, self.name = index, name

    def __setitem__(self, key: str, value: int) -> None:
        note(self.index, self.name)
        super().__setitem__(key, value)


class NotedAdmission(Admission):
    def take(self) -> bool:
        note(0, "taken")
        return super().take()

    def give_back(self, index: int) -> None:
        note(index, "slot")
        super().give_back(index)


def broken(*_: object) -> NoReturn:
    raise RuntimeError


def meet_every_end(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of every thread that end in order, by a limit, with a reset, on a bug."""
    for port in (running.port, running.other_port):
        for data in (b"x\n", b"x" * 200 + b"\n" + b"y" * 5000):
            for _ in range(THREADS):
                converse(port, data)
        with connections(port, THREADS) as clients:
            for client in clients:
                ask(client, b"x\n")
                reset(client)
        until(lambda: not running.service.admission.taken)
    with connections(running.port, 20) as clients:
        for client in clients:
            ask(client, b"x\n")
        with connect(running.other_port) as late:
            assert read_to_end(late) == b""
    until(lambda: not running.service.admission.taken)
    with monkeypatch.context() as patch:
        patch.setattr(LineHandler, "setup", broken)
        for _ in range(THREADS):
            assert not gone_wrong(running.port)


def gone_wrong(port: int) -> bytes:
    with connect(port) as client:
        try:
            return read_to_end(client)
        except ConnectionResetError:
            return b""


def test_each_counter_is_written_by_its_own_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a connection does, whichever thread accepted it."""
    monkeypatch.setattr("echod.echo.server.Counters", Noted)
    monkeypatch.setattr("echod.process.lifecycle.Admission", NotedAdmission)
    WRITES.clear()
    running = Running(handler_threads=str(THREADS), max_connections="20", max_line_bytes="100")
    try:
        assert Noted.made % THREADS == 0
        meet_every_end(running, monkeypatch)
    finally:
        running.close()
    assert {(index, thread) for index, _, thread in WRITES} == {
        (index, f"handler-{index}") for index in range(THREADS)
    }
    for what in (
        "received",
        "requests",
        "sent",
        "seconds",
        "slot",
        "eof",
        "reset",
        "line_too_long",
        "error",
    ):
        assert {index for index, one, _ in WRITES if one == what} == set(range(THREADS)), what
    assert {index for index, one, _ in WRITES if one in ("opened", "rejected", "taken")} == {0}
