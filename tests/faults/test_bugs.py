"""What must not happen, made to happen: each costs one connection, one event and one count."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from itertools import cycle
from time import monotonic
from typing import Any, NoReturn

import pytest
from support import ask, connect, converse, read_to_end, until
from support.running import Running, connections_of

from echod.echo.handler import LineHandler
from echod.echo.protocol import LineFormat, LineProtocol
from echod.echo.server import EchoServer
from echod.telemetry.counters import ACCEPT_ERROR_REASONS


def broken(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("a bug\nof two lines")


def only_event(running: Running, name: str) -> dict[str, Any]:
    until(lambda: running.events(name))
    (event,) = running.events(name)
    return event


def counted(running: Running, reason: str) -> float:
    return running.metrics()("echod_connections_closed_total", reason=reason)


def drop(client: socket.socket) -> bytes:
    try:
        return read_to_end(client)
    except ConnectionResetError:
        return b""


def test_an_exception_in_a_handler_closes_its_connection_alone(running: Running) -> None:
    """In the constructor and later; the others are served on."""
    server = running.service.servers[0]
    real, logged = server.new_protocol, LineFormat(b"one ", 100, logged=True)

    def protocol(client_address: Any) -> Any:
        return BrokenAt(real(client_address), 2, logged)

    server.clean_protocol = LineProtocol(logged)  # so that each connection needs its own
    server.new_protocol = protocol  # type: ignore[method-assign]
    with connect(running.port) as client:
        ask(client, b"fine\n")
        client.sendall(b"broken\n")
        assert drop(client) == b""
    event = only_event(running, "unhandled exception in connection handler")
    assert event["level"] == "error"
    assert "RuntimeError" in event["error"]
    assert "test_bugs.py" in event["at"]
    assert counted(running, "error") == 1
    del server.new_protocol
    assert converse(running.port, b"x\n") == b"one x\n"
    assert running.metrics()("echod_connections_active") == 0


class BrokenAt:
    """A protocol whose n-th receive raises."""

    def __init__(self, real: Any, number: int, logged: LineFormat) -> None:
        self.real, self.left, self.format = real, number, logged

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def receive(self, data: bytes) -> Any:
        self.left -= 1
        return self.real.receive(data) if self.left else broken()


def test_an_exception_in_a_handlers_constructor_closes_its_connection_alone(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted, and its slot is free again."""
    with monkeypatch.context() as patch, connect(running.other_port) as idle:
        ask(idle, b"x\n")
        patch.setattr(LineHandler, "setup", broken)
        with connect(running.port) as client:
            assert drop(client) == b""
        ask(idle, b"x\n")
    assert counted(running, "error") == 1
    only_event(running, "unhandled exception in connection handler")
    until(lambda: running.service.admission.taken == 0)  # after the client has seen the end
    assert converse(running.port, b"x\n") == b"one x\n"


def test_an_exception_in_the_first_read_closes_the_connection_as_an_error(running: Running) -> None:
    """handle() is called by the constructor first, as the standard has it."""
    server = running.service.servers[0]
    accept_as(server, Broken)
    with connect(running.port) as client:
        assert drop(client) == b""
    assert counted(running, "error") == 1
    assert running.metrics()("echod_connections_opened_total") == 1
    del server.get_request


def test_a_second_exception_at_its_end_does_not_count_a_connection_twice(running: Running) -> None:
    """Nor does it free two slots."""
    server = running.service.servers[0]
    accept_as(server, Broken)
    server.connection_closed = broken  # type: ignore[method-assign]
    with connect(running.port) as client:
        assert drop(client) == b""
    until(lambda: running.events("unhandled exception in event loop"))
    assert counted(running, "error") == 1
    assert running.service.admission.taken == 0
    del server.get_request, server.connection_closed


def test_an_exception_in_a_second_handler_thread_closes_its_connection_alone() -> None:
    """The one that accepts hands over; the other makes the handler, or fails to."""
    running = Running(handler_threads="2")
    try:
        server = running.service.servers[0]
        server.finish_request = broken  # type: ignore[method-assign]
        for _ in running.service.handlers:  # in turn
            with connect(running.port) as client:
                assert drop(client) == b""
        until(lambda: counted(running, "error") == 2)
        assert len(running.events("unhandled exception in connection handler")) == 2
        del server.finish_request
        assert converse(running.port, b"x\n") == converse(running.port, b"x\n") == b"one x\n"
    finally:
        running.close()


def test_an_exception_in_accepting_pauses_the_acceptor_and_ends_no_thread(running: Running) -> None:
    """It recurs after a pause, not at once; waiting clients are served afterwards."""
    server = running.service.servers[0]
    server.get_request = broken  # type: ignore[method-assign]
    began = monotonic()
    with connect(running.port) as waiting:
        until(lambda: len(running.events("unhandled exception in event loop")) >= 3)
        assert monotonic() - began > 0.15  # two pauses of a tenth, less what the wheel rounds
        assert converse(running.other_port, b"x\n") == b"one x\n"
        del server.get_request
        ask(waiting, b"x\n")
    assert running.get("/livez")[0] == 200


def test_an_exception_while_passing_a_connection_to_its_loop_closes_it_alone(
    running: Running,
) -> None:
    """Accepting continues."""
    server = running.service.servers[0]
    server._loops_in_turn = iter([])  # type: ignore[assignment]
    with connect(running.port) as client:
        assert drop(client) == b""
    only_event(running, "unhandled exception in connection handler")
    assert counted(running, "error") == 1
    server._loops_in_turn = cycle(running.service.handlers)
    assert converse(running.port, b"x\n") == b"one x\n"
    assert running.get("/livez")[0] == 200


class Uncountable:
    """Counters that have no memory to count one more connection."""

    @property
    def opened(self) -> int:
        return 1000

    @opened.setter
    def opened(self, _: int) -> None:
        raise MemoryError


def test_a_connection_that_cannot_be_counted_is_closed_and_its_slot_is_free(
    running: Running,
) -> None:
    """Its end is not counted either."""
    server = running.service.servers[0]
    real, server._accepted = server._accepted, Uncountable()  # type: ignore[assignment]
    with connect(running.port) as client:
        assert drop(client) == b""
    server._accepted = real
    assert running.service.admission.taken == 0
    assert converse(running.port, b"x\n") == b"one x\n"
    metrics = running.metrics()
    assert metrics("echod_connections_opened_total") == 1
    assert metrics("echod_connections_closed_total") == 1


def test_an_exception_in_reporting_a_close_ends_no_thread(running: Running) -> None:
    """Even the end of a connection may have a bug."""
    server = running.service.servers[0]
    server.connection_closed = broken  # type: ignore[method-assign]
    server.handle_error = broken  # type: ignore[method-assign]
    assert converse(running.port, b"x\n") == b"one x\n"
    until(lambda: running.events("unhandled exception in event loop"))
    del server.connection_closed, server.handle_error
    assert converse(running.port, b"x\n") == b"one x\n"
    assert counted(running, "eof") == 2


def test_an_exception_in_reporting_a_close_does_not_count_the_close_twice(
    running: Running,
) -> None:
    """It is reported, and the end is not counted twice."""
    server = running.service.servers[0]
    server.connection_closed = broken  # type: ignore[method-assign]
    assert converse(running.port, b"x\n") == b"one x\n"
    only_event(running, "unhandled exception in connection handler")
    del server.connection_closed
    assert counted(running, "eof") == 1
    assert counted(running, "error") == 0


def test_a_reset_between_two_steps_of_a_long_reply_is_counted_as_a_reset(running: Running) -> None:
    """The second step finds the pipe broken."""
    server = running.service.servers[0]

    class BrokenLater(Failing):
        def send(self, *arguments: Any) -> int:
            super().send(*arguments)
            self.send_error = errno.EPIPE
            return len(arguments[0])  # as if the kernel had taken all of it

    accept_as(server, BrokenLater)
    with connect(running.port) as client:
        with suppress(ConnectionError):
            client.sendall(b"\n" * 65_000)  # more replies than one step has
        drop(client)
    until(lambda: counted(running, "reset") == 1)
    assert running.metrics()("echod_buffered_bytes") == 0
    del server.get_request


def test_an_exception_in_a_timer_closes_its_connection_alone(running: Running) -> None:
    """Deadlines are looked at under the same guard."""
    handler = running.service.handlers[0]
    with connect(running.port) as client:
        ask(client, b"x\n")
        (connection,) = connections_of(handler)
        connection.on_timer = broken  # type: ignore[method-assign]
        handler.post(lambda: handler.timers.schedule(connection, 0.0))
        assert drop(client) == b""
    assert counted(running, "error") == 1


def test_an_exception_in_a_posted_call_ends_no_thread(running: Running) -> None:
    """Whatever another thread wants done."""
    running.service.handlers[0].post(broken)
    assert only_event(running, "unhandled exception in event loop")["thread"] == "handler-0"
    assert converse(running.port, b"x\n") == b"one x\n"


class Failing(socket.socket):
    """A socket on which something goes wrong."""

    accepts: list[int]
    recv_error = send_error = 0

    def _accept(self) -> Any:
        if self.accepts:
            raise OSError(self.accepts.pop(), "failed on purpose")
        return super()._accept()  # type: ignore[misc]

    def recv(self, *arguments: Any) -> bytes:
        if self.recv_error:
            raise OSError(self.recv_error, "failed on purpose")
        return super().recv(*arguments)

    def send(self, *arguments: Any) -> int:
        if self.send_error:
            raise OSError(self.send_error, "failed on purpose")
        return super().send(*arguments)


class Broken(Failing):
    """A socket whose every read raises what no handler expects."""

    def recv(self, *_: Any) -> bytes:
        return broken()


def accept_as(server: EchoServer, kind: type[Failing]) -> None:
    """From now on its connections have sockets of this kind."""
    accept = server.get_request

    def get_request() -> tuple[Any, Any]:
        request, address = accept()
        made = kind(fileno=request.detach())
        made.setblocking(False)
        made.accepts = []
        return made, address

    server.get_request = get_request  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EMFILE, "EMFILE"),
        (errno.ENFILE, "ENFILE"),
        (errno.ENOBUFS, "ENOBUFS"),
        (errno.ENOMEM, "ENOMEM"),
        (errno.ECONNABORTED, "ECONNABORTED"),
        (errno.EPROTO, "other"),
    ],
)
def test_a_failed_accept_is_counted_by_its_error_and_accepting_goes_on(
    running: Running, number: int, reason: str
) -> None:
    """Each error under its name; what the client caused is not logged."""
    assert reason in ACCEPT_ERROR_REASONS
    server = running.service.servers[0]
    running.service.handlers[0].post(lambda: None)
    with connect(running.other_port):  # a server that is not touched
        server.socket.setblocking(False)
        failing = Failing(fileno=server.socket.fileno())
        failing.setblocking(False)
        failing.accepts = [number]
        original, server.socket = server.socket, failing
        try:
            assert converse(running.port, b"x\n") == b"one x\n"
        finally:
            server.socket = original
            failing.detach()
    assert running.metrics()("echod_accept_errors_total", reason=reason) == 1
    assert len(running.events("cannot accept")) == (0 if reason == "ECONNABORTED" else 1)


@pytest.mark.parametrize(
    ("where", "number", "reason"),
    [
        ("recv", errno.ECONNRESET, "unused"),
        ("recv", errno.ETIMEDOUT, "timeout"),
        ("recv", errno.EHOSTUNREACH, "timeout"),
        ("recv", errno.ECONNREFUSED, "timeout"),  # a firewall rejects what is sent to the client
        ("recv", errno.EACCES, "timeout"),  # the same, IPv6
        ("recv", errno.EIO, "error"),
        ("send", errno.EPIPE, "reset"),
        ("send", errno.ENOBUFS, "error"),
    ],
)
def test_socket_errors_map_to_close_reasons(
    running: Running, where: str, number: int, reason: str
) -> None:
    """Outcomes with a counter, not errors with a traceback."""
    server = running.service.servers[0]

    accept_as(server, type("FailingAt", (Failing,), {f"{where}_error": number}))
    with connect(running.port) as client:
        client.sendall(b"x\n")
        assert drop(client) == b""
    until(lambda: counted(running, reason) == 1)
    assert running.events("connection failed") == []
    del server.get_request


def test_a_reply_that_a_full_socket_refuses_is_sent_later(running: Running) -> None:
    """EAGAIN on the first send loses nothing."""
    server = running.service.servers[0]

    class FullOnce(Failing):
        def send(self, *arguments: Any) -> int:
            if not self.accepts:
                self.accepts = [1]
                raise BlockingIOError
            return super().send(*arguments)

    accept_as(server, FullOnce)
    assert converse(running.port, b"x\ny\n") == b"one x\none y\n"
    del server.get_request


def test_bytes_that_only_the_kernel_buffers_do_not_postpone_the_write_timeout() -> None:
    """The kernel may accept more at every attempt; the client is still reset in time."""
    running = Running(write_timeout="0.5")

    class Roomy(Failing):
        def send(self, *arguments: Any) -> int:
            try:
                return super().send(*arguments)
            except BlockingIOError:
                return 1

    server = running.service.servers[0]

    accept_as(server, Roomy)
    try:
        with connect(running.port, receive_buffer=4096) as stuck:
            stuck.sendall(b"x" * 1000_000 + b"\n")
            until(lambda: running.metrics()("echod_buffered_bytes") > 0)
            until(lambda: counted(running, "write_timeout") == 1, 5.0)
    finally:
        running.close()
