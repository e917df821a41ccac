"""Calls that hardly ever fail: what the injection of every fault has found, one by one."""

from __future__ import annotations

import errno
import socket
import threading
from contextlib import suppress
from typing import Any

import pytest
from support import PATIENCE, connect, converse, read_to_end, until
from support.refused import accept_refusing
from support.running import Running

from echod.loop.event_loop import EventLoop


def refuse_to_poll(monkeypatch: pytest.MonkeyPatch, loop: EventLoop, *later: int) -> None:
    """Has the loop's poller take no more, from the registration with that number on, once."""
    poller, left = loop._poller, [*later]
    add = poller.add

    def refusing(fd: int, events: int) -> None:
        if left:
            left[0] -= 1
            if left[0] < 0:
                left.clear()
                raise OSError(errno.ENOSPC, "No space left on device")
        add(fd, events)

    monkeypatch.setattr(poller, "add", refusing)


def test_an_accepted_descriptor_that_is_refused_a_socket_is_counted_and_logged(
    monkeypatch: pytest.MonkeyPatch, running: Running
) -> None:
    """As a failed accept: no handler has had it."""
    refused = [errno.ENOMEM]

    def made(*kind: int) -> socket.SocketType:
        if refused:
            raise OSError(refused.pop(), "Cannot allocate memory")
        return socket.SocketType(*kind)

    monkeypatch.setattr("echod.loop.sockets.SocketType", made)
    with connect(running.port) as client, suppress(ConnectionResetError):
        assert read_to_end(client) == b""
    until(lambda: running.metrics()("echod_accept_errors_total", reason="ENOMEM") == 1)
    assert len(running.events("cannot accept connections")) == 1
    assert converse(running.port, b"x\n") == b"one x\n"
    assert running.metrics()("echod_connections_opened_total") == 1


def test_a_close_that_reports_an_error_is_a_close_like_any_other(
    monkeypatch: pytest.MonkeyPatch, running: Running
) -> None:
    """With its own event and no other."""
    accept_refusing(monkeypatch, close=errno.EINTR)
    assert converse(running.port, b"x\n") == b"one x\n"
    (event,) = until(lambda: running.events("connection closed"))
    assert (event["reason"], event["lines"]) == ("eof", 1)
    assert {one["level"] for one in running.events()} == {"info"}


def test_a_socket_that_cannot_be_polled_for_its_last_bytes_is_closed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would keep its slot and its descriptor for good."""
    running = Running(max_line_bytes="10")
    refuse_to_poll(monkeypatch, running.service.handlers[0], 1)
    with connect(running.port) as client, suppress(ConnectionResetError):
        client.sendall(b"x\n" + b"x" * 20)
        assert read_to_end(client) in (b"", b"one x\n")
    until(lambda: running.service.admission.taken == 0)
    (event,) = until(lambda: running.events("connection closed"))
    assert event["reason"] == "line_too_long"
    assert {one["level"] for one in running.events()} == {"info"}
    running.close()


def test_a_client_of_the_metrics_port_that_cannot_be_polled_is_let_go(
    monkeypatch: pytest.MonkeyPatch, running: Running
) -> None:
    """Whether that shows when it comes, or when its response is sent."""
    exporter: Any = running.service.exporter
    for later in (0, 1):
        refuse_to_poll(monkeypatch, exporter.loop, later)
        with connect(running.metrics_port) as client, suppress(ConnectionResetError):
            client.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            read_to_end(client)
        until(lambda: not exporter.clients)
    assert b"ok" in running.get("/livez")[1]
    assert running.events() == []


def test_loops_end_though_their_closes_report_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their threads are as good as gone."""
    died: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    loop = EventLoop("under test", lambda: None)

    def refused() -> None:
        raise OSError(errno.EIO, "Input/output error")

    real = loop._poller.close
    monkeypatch.setattr(loop._poller, "close", refused)
    loop.start()
    loop.stop(0.0)
    loop.join(PATIENCE)
    real()
    assert died == []
    assert loop._inbox.request.fileno() == -1


def test_a_client_of_the_metrics_port_without_memory_to_linger_is_closed(
    monkeypatch: pytest.MonkeyPatch, running: Running
) -> None:
    """After its response, and the port answers on."""
    exporter: Any = running.service.exporter

    def without_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("echod.telemetry.exporter.LingeringClose", without_memory)
        with connect(running.metrics_port) as client, suppress(ConnectionResetError):
            client.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            read_to_end(client)
        until(lambda: not exporter.clients)
    assert b"ok" in running.get("/livez")[1]
