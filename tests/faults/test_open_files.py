from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from support import (
    NEVER,
    PATIENCE,
    Echod,
    Metrics,
    Start,
    altered,
    ask,
    call,
    connect,
    connections,
    converse,
    pause,
    read_exactly,
    read_to_end,
    scrape,
    until,
    with_open_files,
    without_descriptors,
)
from support.running import Running, Timed

from echod.loop.acceptor import PAUSE_SECONDS, ReserveDescriptor
from echod.telemetry import exporter
from echod.telemetry.exporter import State
from echod.telemetry.metrics import FAMILIES

PAGES = ("/metrics", "/livez", "/readyz")
UNHURRIED = altered(
    telemetry__exporter__DEADLINE_SECONDS=NEVER, loop__lingering_close__LINGER_SECONDS=NEVER
)
"""Where no client of the metrics port goes because its time is over."""
PATIENT = {State.LINGERING: 0.0, State.READING: NEVER, State.SENDING: NEVER}


def test_without_free_descriptors_echod_pauses_accepting_and_recovers(start: Start) -> None:
    """Counted, one line in and one out, hardly any CPU, and no served client is cut off."""
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
            with connections(echod.metrics_port, 10):  # they wait too, for one spare descriptor
                cpu, began = echod.cpu_seconds(), monotonic()  # a busy machine gives it less CPU
                while monotonic() - began < 2:
                    ask(served[0], b"meanwhile\n")
                    pause(0.1, "a client at an ordinary pace")
                assert (echod.cpu_seconds() - cpu) / (monotonic() - began) < 0.05
            until(lambda: echod.metrics()("echod_accept_errors_total", reason="EMFILE") > 5)
        for client in waiting:
            assert read_exactly(client, 12) == b"one at last\n"
        later.close()
        for client in served:
            ask(client, b"after\n")
    metrics = echod.metrics()
    assert metrics("echod_accept_errors_total", reason="EMFILE") > 5
    assert metrics("echod_connections_closed_total") <= metrics("echod_connections_opened_total")
    assert converse(port, b"x\n") == b"one x\n"
    over = echod.event("accepting connections again")
    assert over["errors"] > 5
    echod.stop()
    assert len(echod.events("cannot accept")) == len(echod.events("accepting connections")) == 1


@pytest.mark.parametrize("limit", [64, 65, 80, 100, 128, 200, 256])
def test_a_low_open_file_limit_is_shared_so_that_no_accept_fails(
    tmp_path: Path, start: Start, limit: int
) -> None:
    """With every connection and every client of the metrics port there at once, and more: no
    accept fails, and metrics and health answer.
    """
    echod = start(command=lambda *more: with_open_files(limit, *more))
    warning = echod.event("limits lowered to fit the open-file limit")
    slots, clients = warning["max_connections"], warning["metrics_clients"]
    assert (warning["level"], warning["open_files"]) == ("warning", limit)
    assert slots >= limit // 3
    with connections(echod.port, slots) as full, connections(echod.metrics_port, clients):
        for client in full:
            ask(client, b"x\n")
        for path in PAGES * 2:
            assert scrape(echod, path)
        with connections(echod.port, 10) as more, ThreadPoolExecutor(5) as pool:
            assert all(pool.map(lambda _: scrape(echod), range(20)))
            for client in more:
                with suppress(ConnectionResetError):
                    assert read_to_end(client) == b""
        health = altered(process__health_check__TIMEOUT_SECONDS=PATIENCE / 2)
        result = call(tmp_path, health("health", "--metrics-port", str(echod.metrics_port)))
        assert result.stdout == "ready\n"
        for client in full:
            ask(client, b"still here\n")
        metrics = echod.metrics()
    assert metrics("echod_connections_limit") == metrics("echod_connections_opened_total") == slots
    assert metrics("echod_connections_rejected_total") == 10
    assert metrics("echod_accept_errors_total") == 0
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    assert converse(echod.port, b"x\n") == b"one x\n"
    echod.stop()


@contextmanager
def starving(echod: Echod) -> Iterator[None]:
    """Without a free descriptor, and with clients on the echo port that wait for one."""
    with without_descriptors(echod), connections(echod.port, 8) as waiting:
        for client in waiting:
            client.sendall(b"x\n")
        echod.event("cannot accept connections")
        yield


def test_without_free_descriptors_metrics_and_health_are_answered(start: Start) -> None:
    """With every family of echod's own, and no other client loses its own."""
    echod = start(command=UNHURRIED)
    echod.event("ready")
    files = echod.open_files()
    with starving(echod):
        for _ in range(3):
            for path in PAGES:
                scrape(echod, path)
        metrics = Metrics(scrape(echod).decode())
        names = {name for name, _ in metrics.samples}
        for family in FAMILIES:
            assert family.name + ("_count" if family.kind == "histogram" else "") in names
        assert metrics("echod_accept_errors_total", reason="EMFILE") > 0
        assert metrics("echod_connections_opened_total") == 0  # none has got the spare one
        assert echod.open_files() <= files
        until(lambda: echod.open_files() == files)
    until(lambda: echod.metrics()("echod_connections_opened_total") == 8)
    until(lambda: echod.open_files() == files)
    echod.stop()


def test_a_client_that_keeps_the_reserve_descriptor_is_closed_for_a_probe(start: Start) -> None:
    """Despite clients that send nothing, that stay after the response, or that do not read it."""
    # Its page is larger than a socket's buffer.
    echod = start(ports=",".join(["0"] * 40), command=UNHURRIED)

    def stay(say: bytes, hear: bytes) -> None:
        with connect(echod.metrics_port, receive_buffer=4096) as staying:
            staying.sendall(say)
            assert read_exactly(staying, len(hear)) == hear
            assert b"ok" in scrape(echod, "/livez")

    with starving(echod):
        for say, hear in (
            (b"", b""),
            (b"GET /readyz HTTP/1.1\r\n\r\n", b"HTTP/1.1 200"),
            (b"GET /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 200"),
        ):
            stay(say, hear)


def test_ten_scrapes_at_once_share_the_reserve_descriptor(start: Start) -> None:
    """One after another, and each gets its whole page."""
    echod = start()
    with starving(echod), ThreadPoolExecutor(10) as pool:
        for page in pool.map(lambda _: scrape(echod), range(20)):
            assert b"echod_accept_errors_total" in page


class Staged(socket.socket):
    """A listener with a call to be made before each of its next accepts."""

    calls: list[Callable[[], None]]

    def _accept(self) -> Any:
        if self.calls:
            self.calls.pop(0)()
        return super()._accept()  # type: ignore[misc]


def refuse(number: int = errno.EMFILE) -> None:
    raise OSError(number, "refused")


def stage(running: Running, *calls: Callable[[], None]) -> None:
    """Has the metrics port make these calls, one before each accept."""
    assert running.service.exporter
    exporter, done = running.service.exporter, threading.Event()

    def replace() -> None:
        listening = exporter.listener.socket.detach()  # the same descriptor: it stays polled
        staged = Staged(fileno=listening)
        staged.setblocking(False)
        staged.calls = list(calls)
        exporter.listener.socket = exporter.acceptor.request = staged
        done.set()

    exporter.loop.post(replace)
    assert done.wait(PATIENCE)


def test_no_echo_connection_takes_the_descriptor_that_the_metrics_port_releases(
    running: Running,
) -> None:
    """Waiting clients are accepted once the metrics port has its client, not in between."""
    opened: list[int] = []
    with ExitStack() as clients:

        def before() -> None:
            clients.enter_context(connect(running.port))
            pause(0.3, "time in which it would be accepted wrongly")
            opened.append(running.service.ports[0].total().opened)

        stage(running, refuse, before)
        assert running.get("/livez")[0] == 200
        assert opened == [0]
        until(lambda: running.metrics()("echod_connections_opened_total") == 1)


def test_a_pause_in_accepting_at_the_metrics_port_delays_no_accepted_client(
    timed: Callable[..., Timed],
) -> None:
    """Its one thread has other clients to answer while it cannot accept."""
    running = timed()
    refused: list[int] = []

    def pause() -> None:
        refused.append(errno.ENOBUFS)
        refuse(errno.ENOBUFS)

    stage(running, lambda: None, pause)
    with connect(running.metrics_port) as client:
        client.sendall(b"GET /livez ")
        until(lambda: running.service.exporter and running.service.exporter.clients)
        with connect(running.metrics_port) as waiting:
            waiting.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            until(lambda: refused)
            client.sendall(b"HTTP/1.1\r\n\r\n")
            assert read_to_end(client).endswith(b"ok\n")
            waiting.setblocking(False)
            with pytest.raises(BlockingIOError):
                waiting.recv(1)
            waiting.settimeout(PATIENCE)
            running.move(PAUSE_SECONDS + 0.1)
            assert read_to_end(waiting).endswith(b"ok\n")


def test_a_client_on_the_reserve_descriptor_has_a_moment_to_send_its_request(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although another waits; a client that has its response is closed first."""
    monkeypatch.setattr(exporter, "PATIENCE_SECONDS", PATIENT)
    stage(running, refuse, lambda: None, refuse)
    with connect(running.metrics_port) as first:
        until(lambda: running.service.exporter and running.service.exporter.clients)
        with connect(running.metrics_port) as second:
            pause(0.1, "time in which the first would give way wrongly")
            for client in first, second:
                client.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
                assert read_to_end(client).endswith(b"ok\n")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_reserve_descriptor_that_another_process_takes_is_regained_later(
    running: Running, number: int
) -> None:
    """Of the host's open files any process may take the one that was let go."""

    def again() -> None:
        refuse(number)

    for _ in range(3):
        stage(running, again, again, again)
        assert running.get("/livez")[0] == 200
    assert running.events() == []


def test_a_client_that_has_gone_before_its_accept_leaves_the_reserve_descriptor(
    running: Running,
) -> None:
    """The spare descriptor is back, and the next one is answered with it."""
    stage(running, refuse, partial(refuse, errno.EAGAIN), refuse)
    with connect(running.metrics_port):
        assert running.get("/livez")[0] == 200
    assert running.events() == []


def test_an_exception_in_a_closed_metrics_port_does_not_listen_again(
    running: Running,
) -> None:
    """Not even a pause, whose end would listen again."""
    assert running.service.exporter
    exporter = running.service.exporter
    loop, acceptor = exporter.loop, exporter.acceptor

    def end() -> None:
        acceptor.on_stop()  # while a client has the reserve descriptor
        loop._begin_stop(monotonic())
        acceptor.on_error(OSError())

    stage(running, refuse)
    with connect(running.metrics_port):
        until(lambda: exporter.clients)
        loop.post(end)
        until(lambda: not loop.is_alive())
    assert len(running.events()) == 1


def test_a_drain_without_free_descriptors_completes(start: Start) -> None:
    """What cannot be accepted does not hold the stop up."""
    echod = start()
    with without_descriptors(echod), connect(echod.port):
        echod.event("cannot accept connections")
        echod.terminate()
        assert echod.wait() == 0


@pytest.mark.parametrize("error", [OSError, MemoryError])
def test_a_reserve_descriptor_that_is_lost_is_taken_back_later(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """With the next close. It raises nothing, as its callers could do no more about it."""

    def refuse_all(*_: object) -> int:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse_all)
        reserve = ReserveDescriptor(threading.Lock())
        lost = [reserve.in_use]
    ours, theirs = socket.socketpair()
    with ours:
        reserve.replace(theirs)
        assert theirs.fileno() == -1
    lost.append(reserve.in_use)
    assert lost == [True, False]
    reserve.close()
