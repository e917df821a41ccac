from __future__ import annotations

import errno
import http
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from time import monotonic
from typing import Any, NoReturn

import pytest
from support import (
    NEVER,
    PATIENCE,
    connect,
    connections,
    get,
    read_exactly,
    read_to_end,
    reset,
    until,
)
from support.running import Running, StandingClock

from echod.loop import lingering_close
from echod.loop.listeners import Listener, bind, listen
from echod.process.capacity import METRICS_CLIENTS
from echod.telemetry import exporter
from echod.telemetry.exporter import Exporter
from echod.telemetry.http import Page, health_page

BIG = b"x" * (32 << 20)  # more than the kernel keeps for two sockets


def start(exporter: Exporter) -> None:
    exporter.loop.start()
    listen(exporter.listener)
    exporter.loop.ask(exporter.acceptor.start)


def stop(exporter: Exporter, now: float | None = None) -> None:
    exporter.loop.stop((now or monotonic()) + 0.1)
    exporter.loop.join()


class Started:
    def __init__(self) -> None:
        self.bugs: list[str] = []
        self.listener = bind("--metrics-port", "127.0.0.1", 0)
        self.exporter = Exporter(
            self.listener,
            {
                "/ok": lambda _: health_page(""),
                "/big": lambda _: Page(http.HTTPStatus.OK, "text/plain", BIG),
                "/broken": self.broken,
            },
            lambda: self.bugs.append("bug"),
            threading.Lock(),
            METRICS_CLIENTS,
        )
        self.port = self.listener.port
        start(self.exporter)

    @staticmethod
    def broken(_: str) -> NoReturn:
        raise RuntimeError("a page that cannot be made")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """Even with clients that take their time."""
    monkeypatch.setattr(exporter, "DEADLINE_SECONDS", NEVER)
    monkeypatch.setattr(lingering_close, "LINGER_SECONDS", NEVER)
    started = Started()
    yield started
    stop(started.exporter)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StandingClock:
    """By which an exporter goes."""
    clock = StandingClock()
    monkeypatch.setattr("echod.loop.event_loop.monotonic", clock)
    return clock


def ask(client: socket.socket) -> bytes:
    client.sendall(b"GET /ok HTTP/1.1\r\n\r\n")
    return read_to_end(client)


def big_request(port: int) -> socket.socket:
    client = connect(port, receive_buffer=4096)
    client.sendall(b"GET /big HTTP/1.1\r\n\r\n")
    assert read_exactly(client, 8) == b"HTTP/1.1"
    return client


def test_a_metrics_client_that_sends_or_reads_nothing_is_closed_at_its_deadline(
    clock: StandingClock,
) -> None:
    """After ten seconds: a deadline holds for each connection."""
    started = Started()
    clients, loop = started.exporter.clients, started.exporter.loop
    with connect(started.port) as silent, big_request(started.port) as unread:
        until(lambda: len(clients) == 2)
        clock.move(9.8, loop)
        assert len(clients) == 2
        clock.move(0.4, loop)
        assert len(clients) == 0
        assert read_to_end(silent) == b""
        with pytest.raises(ConnectionResetError):
            assert len(read_to_end(unread)) < len(BIG)
            raise ConnectionResetError  # a plain end before the last byte is as good
    stop(started.exporter, clock())


def test_a_metrics_client_that_stays_after_its_answer_is_closed_after_a_second(
    clock: StandingClock,
) -> None:
    """However much it sends meanwhile."""
    started = Started()
    clients, loop = started.exporter.clients, started.exporter.loop
    with connect(started.port) as client:
        assert ask(client).endswith(b"ok\n")
        for _ in range(4):
            client.sendall(b"GET /ok HTTP/1.1\r\n\r\n")
            clock.move(0.2, loop)
        assert len(clients) == 1
        clock.move(0.4, loop)
        assert len(clients) == 0
    stop(started.exporter, clock())


def test_a_client_that_reads_slowly_gets_its_whole_page(started: Started) -> None:
    """What the socket does not take at once is sent later."""
    with big_request(started.port) as client:
        assert read_to_end(client).endswith(BIG[:1000])


def test_a_metrics_client_that_resets_amid_its_page_is_closed(started: Started) -> None:
    """Whether it was to be read from or written to."""
    reset(connect(started.port))
    reset(big_request(started.port))
    until(lambda: not started.exporter.clients)
    assert get(started.port, "/ok")[0] == 200


def test_a_page_that_raises_closes_one_connection_and_is_reported(started: Started) -> None:
    """The port goes on."""
    with connect(started.port) as client:
        client.sendall(b"GET /broken HTTP/1.1\r\n\r\n")
        assert read_to_end(client) == b""
    assert started.bugs == ["bug"]
    assert get(started.port, "/ok")[0] == 200


def test_answered_clients_that_stay_do_not_fill_the_metrics_port(started: Started) -> None:
    """The oldest gives way when none has an unfinished request."""
    started.exporter._max_clients = 3
    with ExitStack() as clients:
        for _ in range(6):
            client = clients.enter_context(connect(started.port))
            client.sendall(b"GET /ok HTTP/1.1\r\n\r\n")
            assert read_to_end(client).endswith(b"ok\n")
        assert len(started.exporter.clients) <= 3
        assert get(started.port, "/ok")[0] == 200


def test_a_hundred_answered_clients_that_stay_do_not_block_new_ones(
    started: Started,
) -> None:
    """They have the least to lose, and give way to the newcomer, not the newcomer to them."""
    with connections(started.port, METRICS_CLIENTS) as staying:
        for client in staying:
            client.sendall(b"GET /ok HTTP/1.1\r\n\r\n")
            assert read_to_end(client).endswith(b"ok\n")
        with connections(started.port, 20) as probes:
            for client in probes:
                client.sendall(b"GET /ok HTTP/1.1\r\n\r\n")
            for client in probes:
                assert read_to_end(client).endswith(b"ok\n")


@pytest.mark.parametrize("answered", [True, False])
def test_a_full_metrics_port_closes_the_client_with_least_to_lose(
    started: Started, answered: bool
) -> None:
    """A client with its response first, then one that has sent no request, even if others came
    earlier. A client that is receiving its response comes last.
    """
    started.exporter._max_clients = 2 + answered
    with ExitStack() as clients:
        reading = clients.enter_context(big_request(started.port))
        asking = clients.enter_context(connect(started.port))
        asking.sendall(b"GET /ok ")
        if answered:
            assert ask(clients.enter_context(connect(started.port))).endswith(b"ok\n")
        # All before it have been accepted, and one has given way.
        assert ask(clients.enter_context(connect(started.port))).endswith(b"ok\n")
        if answered:
            asking.sendall(b"HTTP/1.1\r\n\r\n")
            assert read_to_end(asking).endswith(b"ok\n")
        else:
            with suppress(ConnectionResetError):
                assert read_to_end(asking) == b""
        assert len(read_to_end(reading)) > len(BIG)


@pytest.mark.parametrize("version", [b"", b" HTTP/0.9", b" HTTP/1.0"])
def test_an_old_request_gets_a_head_too(started: Started, version: bytes) -> None:
    """HTTP/0.9 has none, and today's clients cannot tell such a response from a broken one."""
    with connect(started.port) as client:
        client.sendall(b"GET /ok" + version + b"\r\n\r\n")
        assert read_to_end(client).startswith(b"HTTP/1.1 200 OK\r\n")


def test_the_metrics_port_drops_data_after_a_request(started: Started) -> None:
    """One answer a connection."""
    with connect(started.port) as client:
        client.sendall(b"GET /ok HTTP/1.1\r\n\r\n")
        assert read_to_end(client).count(b"HTTP/1.1") == 1
        client.sendall(b"GET /ok HTTP/1.1\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        until(lambda: not started.exporter.clients)


def test_events_of_a_closed_metrics_client_do_nothing(started: Started) -> None:
    """An event of the round in which it gave way, or a second end, finds it closed."""
    loop, done = started.exporter.loop, threading.Event()
    with connect(started.port):
        until(lambda: started.exporter.clients)
        (client,) = started.exporter.clients
        for call in (client.close, client.handle, client.flush, client.close, done.set):
            loop.post(call)
        assert done.wait(PATIENCE)
    assert started.bugs == []
    assert get(started.port, "/ok")[0] == 200


def test_a_response_being_sent_is_cut_off_at_the_end_of_the_stop(started: Started) -> None:
    """A slow reader is cut then, however much is left."""
    loop = started.exporter.loop
    with big_request(started.port) as client:
        until(lambda: started.exporter.clients)
        (served,) = started.exporter.clients

        def no_room() -> bool:
            before, done = len(served._unsent), threading.Event()
            loop.post(served.flush)
            loop.post(done.set)
            assert done.wait(PATIENCE)
            return len(served._unsent) == before

        until(no_room)  # to be asked to send then is no reason to fail
        stop(started.exporter)
        with suppress(ConnectionResetError):
            assert len(read_to_end(client)) < len(BIG)


class Refusing(socket.socket):
    """A listener whose next accepts fail."""

    failures: list[int]

    def _accept(self) -> Any:
        if self.failures:
            if not (number := self.failures.pop()):
                raise RuntimeError("a bug")
            raise OSError(number, "refused")
        return super()._accept()  # type: ignore[misc]


def test_a_refused_accept_is_tried_again_after_a_pause() -> None:
    """No busy loop without memory for a socket, say, and the port recovers."""
    bound = bind("--metrics-port", "127.0.0.1", 0)
    listener = Refusing(fileno=bound.socket.detach())
    listener.setblocking(False)
    listener.failures = [errno.ENOBUFS, errno.EAGAIN, 0]
    bugs: list[str] = []
    exporter = Exporter(
        Listener(listener),
        {"/ok": lambda _: health_page("")},
        lambda: bugs.append("one"),
        threading.Lock(),
        METRICS_CLIENTS,
    )
    start(exporter)
    try:
        assert get(Listener(listener).port, "/ok")[0] == 200
        assert (listener.failures, bugs) == ([], ["one"])
    finally:
        stop(exporter)


def test_an_inherited_listener_stays_open() -> None:
    """It belongs to the service manager: a restart refuses no client."""
    bound = bind("--metrics-port", "127.0.0.1", 0)
    with bound.socket:
        listen(bound)
        listener = Listener(bound.socket, inherited=True)
        exporter = Exporter(listener, {}, lambda: None, threading.Lock(), METRICS_CLIENTS)
        start(exporter)
        assert get(bound.port, "/")[0] == 404
        stop(exporter)
        with connect(bound.port) as waiting:  # in the queue of the next process
            waiting.sendall(b"GET / HTTP/1.1\r\n\r\n")


def test_an_exception_in_a_page_is_logged_by_the_daemon(running: Running) -> None:
    """With what was raised and where, and no traceback."""
    running.service.ports.append(None)  # type: ignore[arg-type]
    with connect(running.metrics_port) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert read_to_end(client) == b""
    (event,) = running.events("unhandled exception in event loop")
    assert event["thread"] == "exporter"
    assert "AttributeError" in event["error"]
    assert "metrics.py" in event["at"]
    running.service.ports.pop()
    assert running.get("/metrics")[0] == 200
