from __future__ import annotations

import socket
import socketserver
import threading
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

import pytest
from support import NEVER, PATIENCE, Start, ask, connect, connections, read_to_end, until
from support.running import Running, connections_of, made_in

from echod.echo.handler import LineHandler
from echod.echo.server import EchoServer
from echod.loop.acceptor import Acceptor


def test_the_engine_is_a_threading_tcp_server_per_port_with_the_line_handler(
    running: Running,
) -> None:
    """One subclass instance per port, whose RequestHandlerClass answers, driven by the handler
    threads of a running daemon."""
    service = running.service
    assert len(service.servers) == 2
    for server in service.servers:
        assert isinstance(server, ThreadingTCPServer)
        handler_class: Any = server.RequestHandlerClass
        assert handler_class is LineHandler
        assert issubclass(LineHandler, socketserver.BaseRequestHandler)
        assert server.request_queue_size >= 4096
    with connections(running.port, 20) as clients:
        for client in clients:
            ask(client, b"hello\n")
        names = sorted(thread.name for thread in threading.enumerate())
        handlers = service.handlers
        assert [name for name in names if name.startswith("handler-")] == sorted(
            h.name for h in handlers
        )
        registered = {one for handler in handlers for one in handler._registered}
        assert registered >= {server.acceptor for server in service.servers}
        assert sum(len(connections_of(handler)) for handler in handlers) == 20
        assert len(registered) == 2 + 20


def test_only_public_hooks_of_socketserver_are_overridden() -> None:
    """What the standard library may change without notice is left alone."""
    standard = {
        name
        for base in ThreadingTCPServer.__mro__[:-1]
        for name in vars(base)
        if name.startswith("_") and not name.startswith("__")
    }
    assert standard.isdisjoint(vars(EchoServer))
    for hook in ("serve_forever", "shutdown", "shutdown_request"):
        assert hook not in vars(EchoServer)


def test_a_daemon_runs_the_threads_that_echod_threads_counts(start: Start) -> None:
    """main, log, exporter and the handlers, however many ports and clients there are."""
    echod = start("--handler-threads", "3", ports="0,0")
    port, other = echod.ports
    with connections(port, 30) as clients, connections(other, 30) as others:
        for client in clients + others:
            ask(client, b"x\n")
        names = sorted(
            Path(f"/proc/{echod.process.pid}/task/{task}/comm").read_text().strip()
            for task in [p.name for p in Path(f"/proc/{echod.process.pid}/task").iterdir()]
        )
        assert len(names) == 3 + 3
        assert echod.metrics()("echod_threads") == len(names)
        assert echod.metrics()("echod_connections_active") == 60
    assert echod.stop()["cut"] == 0


def test_a_frozen_thread_turns_livez_to_503_and_a_thawed_one_back(running: Running) -> None:
    """Liveness follows the threads that do the work, not a timer beside them."""
    assert running.get("/livez")[0] == 200
    thaw = freeze(running)
    try:
        until(lambda: running.get("/livez")[0] == 503)
        assert b"stalled: handler-0" in running.get("/livez")[1]
        assert running.get("/readyz")[0] == 200
    finally:
        thaw.set()
    until(lambda: running.get("/livez")[0] == 200)


def test_accepted_sockets_inherit_what_the_listener_was_given(running: Running) -> None:
    """Nagle is off, a dead peer is found after 60 s and six probes 10 s apart, and the kernel takes
    little of what it cannot send."""
    with connect(running.port) as client:
        ask(client, b"x\n")
        (connection,) = connections_of(running.service.handlers[0])
        for option, value in (("NODELAY", 1), ("KEEPIDLE", 60), ("KEEPINTVL", 10), ("KEEPCNT", 6)):
            number = getattr(socket, f"TCP_{option}")
            assert connection.request.getsockopt(socket.IPPROTO_TCP, number) == value
        assert (
            connection.request.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
            == 128 * 1024
        )
        assert connection.request.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_a_burst_is_accepted_in_batches(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connected clients are served in between."""
    monkeypatch.setattr("echod.loop.acceptor.BATCH", 2)
    acceptor, thaw = running.service.servers[0].acceptor, freeze(running)
    rounds: list[int] = []

    def counted() -> None:
        rounds.append(1)
        Acceptor.handle(acceptor)

    acceptor.handle = counted  # type: ignore[method-assign]
    with connections(running.port, 9) as clients:
        thaw.set()
        for client in clients:
            ask(client, b"x\n")
    del acceptor.handle
    assert len(rounds) >= 5


def test_connections_in_the_accept_queue_at_the_stop_are_served(running: Running) -> None:
    """The queue is emptied before the port closes."""
    server, thaw = running.service.servers[0], freeze(running)
    with connections(running.port, 3) as waiting:
        server.stop_accepting()
        thaw.set()
        for client in waiting:
            ask(client, b"x\n")
    until(lambda: server.socket.fileno() == -1)


def test_a_drain_waits_a_moment_for_the_first_line_of_a_new_client(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had connected before the signal: a restart refuses no client. Later ones end at once."""
    monkeypatch.setattr("echod.echo.closing.FRESH_SECONDS", PATIENCE)
    opened = "echod_connections_opened_total"
    with connect(running.port) as before, connect(running.port) as client:
        ask(before, b"x\n")
        until(lambda: running.metrics()(opened) == 2)
        running.service.drain(NEVER)
        assert read_to_end(before) == b""  # the drain has begun
        for handler in running.service.handlers:
            made_in(handler)  # in each of them
        client.sendall(b"on its ")
        client.sendall(b"way\n")
        assert read_to_end(client) == b"one on its way\n"
    until(lambda: running.metrics()("echod_connections_closed_total", reason="drain") == 2)


def test_a_new_silent_client_delays_a_drain_for_a_moment_only(running: Running) -> None:
    """A second after its coming it is ended like the others."""
    with connect(running.port) as client:
        until(lambda: running.metrics()("echod_connections_opened_total") == 1)
        running.service.drain(NEVER)
        assert read_to_end(client) == b""


def test_inherited_listeners_stay_open_and_keep_their_queue() -> None:
    """A restart behind them refuses no client: the next process serves the queue."""
    first = Running(inherited=True)
    sockets = [server.socket for server in first.service.servers]
    with sockets[0], sockets[1], connect(first.port) as served:
        ask(served, b"x\n")
        first.close()
        assert read_to_end(served) == b""
        with connect(first.port) as waiting:
            waiting.sendall(b"y\n")
            sockets[0].setblocking(True)
            accepted, _ = sockets[0].accept()
            with accepted:
                assert accepted.recv(10) == b"y\n"


def freeze(running: Running) -> threading.Event:
    """The handler thread stands still from now on, until the event is set."""
    frozen, thaw = threading.Event(), threading.Event()

    def stand_still() -> None:
        frozen.set()
        thaw.wait()

    running.service.handlers[0].post(stand_still)
    assert frozen.wait(PATIENCE)
    return thaw


def test_idle_threads_are_alive(running: Running) -> None:
    """Stamps are left without any traffic."""
    with connect(running.port):
        before = running.service.handlers[0].heartbeat.at
        until(lambda: running.service.handlers[0].heartbeat.at != before)
        assert running.get("/livez") == (200, b"ok\n")
