"""Stops in bad moments: at the start, at each limit, with readers that stall."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from math import inf
from time import monotonic
from typing import Any, NoReturn, cast

import pytest
from support import (
    NEVER,
    PATIENCE,
    Echod,
    Metrics,
    Start,
    altered,
    ask,
    clean_environment,
    connect,
    connections,
    converse,
    expected,
    get,
    insist,
    jam,
    pause,
    read_exactly,
    read_to_end,
    reset,
    stopwatch,
    take_nothing,
    unsent_bytes,
    until,
    without_descriptors,
)
from support.running import Running, Timed

from echod.lab.processes import free_port
from echod.process import daemon
from echod.process.lifecycle import Service
from echod.process.main_loop import MainLoop

DATA = b"".join(b"%d\n" % number for number in range(2000)) + b"half a li"


def half_close(*clients: socket.socket, data: bytes = DATA) -> None:
    """Each sends it all and ends the stream; returns when all that has arrived."""
    for client in clients:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
    until(lambda: not any(unsent_bytes(client) for client in clients))


def take_what_there_is(client: socket.socket) -> bytes:
    """Also of a connection that ends with a reset."""
    with suppress(ConnectionResetError):
        return read_to_end(client)
    return b""


def test_a_signal_right_after_the_start_refuses_no_connected_client(start: Start) -> None:
    """As soon as a client is connected, the signals are caught and the client will be served."""
    for _ in range(2):
        port = free_port()
        echod = start(
            "--address", "127.0.0.1", "--drain-timeout", str(NEVER), ports=str(port),
            command=altered(echo__closing__FRESH_SECONDS=PATIENCE),
        )  # fmt: skip
        client = until(partial(connected, port))
        assert client
        with client:
            echod.terminate()
            client.sendall(b"x\n")
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == b"one x\n"
        assert echod.wait() == 0
        assert echod.events()[-1]["totals"][0]["opened"] == 1


def connected(port: int) -> socket.socket | None:
    with suppress(ConnectionRefusedError, ConnectionResetError):  # a reset: it closes right now
        return connect(port)
    return None


@pytest.mark.parametrize("threads", ["1", "2"])
def test_half_closes_at_the_moment_of_the_signal_lose_no_reply(start: Start, threads: str) -> None:
    """They happen in the same round as the drain, for served and for waiting clients."""
    echod = start("--handler-threads", threads, "--drain-timeout", str(NEVER), ports="0,0")
    port, other = echod.ports
    with connections(port, 60) as served, ExitStack() as later:
        for client in served:
            ask(client, b"x\n")
        echod.freeze()
        waiting = later.enter_context(connections(other, 60))
        half_close(*served, *waiting)
        echod.terminate()
        echod.thaw()
        for client in served + waiting:
            assert read_to_end(client) == expected(DATA)
    assert echod.wait() == 0
    assert [total["opened"] for total in echod.events()[-1]["totals"]] == [60, 60]


def test_a_stop_over_the_connection_limit_keeps_the_promises_of_the_admitted(start: Start) -> None:
    """The others are counted as rejected, those too that waited in the queue."""
    echod = start("--max-connections", "5")
    with connections(echod.port, 5) as admitted, ExitStack() as later:
        for client in admitted:
            ask(client, b"x\n")
        assert take_what_there_is(later.enter_context(connect(echod.port))) == b""
        echod.freeze()
        half_close(*admitted)
        rejected = later.enter_context(connections(echod.port, 20))
        echod.terminate()
        echod.thaw()
        for client in admitted:
            assert read_to_end(client) == expected(DATA)
        for client in rejected:
            assert take_what_there_is(client) in (b"", expected(b"x\n"))
    assert echod.wait() == 0
    (total,) = echod.events()[-1]["totals"]
    assert total["opened"] == total["closed"]
    assert total["opened"] + total["rejected"] == 5 + 1 + 20
    assert len(echod.events("rejecting connections")) == 1


def test_a_stop_without_free_descriptors_keeps_the_promises_of_the_served(start: Start) -> None:
    """A waiting client may get a freed descriptor, or none; it does not delay the stop."""
    echod = start("--drain-timeout", str(NEVER))
    with connections(echod.port, 5) as served, ExitStack() as later:
        for client in served:
            ask(client, b"x\n")
        with without_descriptors(echod):
            waiting = later.enter_context(connect(echod.port))
            echod.event("cannot accept connections")
            half_close(*served)
            echod.terminate()
            for client in served:
                assert read_to_end(client) == expected(DATA)
        assert take_what_there_is(waiting) == b""
    assert echod.wait() == 0
    (total,) = echod.events()[-1]["totals"]
    assert total["opened"] == total["closed"] >= 5


def test_a_stop_with_a_full_buffer_budget_answers_clients_that_need_no_buffer(start: Start) -> None:
    """Replies that the kernel accepts are not buffered."""
    echod = start("--max-buffered-bytes", "50000")
    with connections(echod.port, 10) as clients, connect(echod.port) as hoarder:
        hoarder.sendall(b"x" * 50_000)
        until(lambda: echod.metrics()("echod_buffered_bytes") == 50_000)
        echod.freeze()
        half_close(*clients, data=DATA.removesuffix(b"half a li"))
        echod.terminate()
        echod.thaw()
        for client in clients:
            assert read_to_end(client) == expected(DATA)
        assert read_to_end(hoarder) == b""
    assert echod.wait() == 0
    last = echod.events()[-1]
    assert (last["cut"], last["totals"][0]["closed"]) == (0, 11)


def test_an_overlong_line_during_a_drain_closes_its_connection_as_line_too_long(
    start: Start,
) -> None:
    """After the pending replies, by a clean close, and with its own reason."""
    echod = start("--max-line-bytes", "100")
    lines = b"a\n" * 500
    with connections(echod.port, 5) as clients:
        for client in clients:
            ask(client, b"x\n")
        echod.freeze()
        half_close(*clients, data=lines + b"x" * 5000 + b"\nnever\n")
        echod.terminate()
        echod.thaw()
        for client in clients:
            assert read_to_end(client) == expected(lines)
    assert echod.wait() == 0
    (total,) = echod.events()[-1]["totals"]
    assert (total["opened"], total["closed"], total["requests"]) == (5, 5, 5 * 501)
    assert {end["reason"] for end in echod.events("connection closed")} == {"line_too_long"}


def test_connections_that_reach_their_age_during_the_drain_delay_lose_no_line(start: Start) -> None:
    """Each is answered until it ends, by its age or by the drain, and is counted once."""
    echod = start("--max-connection-age", "0.3", "--drain-delay", "0.7")
    answered = 0
    with connections(echod.port, 10) as clients:
        echod.terminate()
        for client in clients:
            with suppress(ConnectionError):
                while True:
                    client.sendall(b"x\n")
                    if not (reply := client.recv(100)):
                        break
                    assert reply == b"one x\n"
                    answered += 1
    assert echod.wait() == 0
    (total,) = echod.events()[-1]["totals"]
    assert (total["opened"], total["closed"], total["requests"]) == (10, 10, answered)
    assert {end["reason"] for end in echod.events("connection closed")} <= {"max_age", "drain"}


def test_readers_that_stall_do_not_block_a_stop(start: Start) -> None:
    """A client that takes nothing, a log without a reader, a suspended service manager."""
    with unheard(start, "--drain-timeout", "1") as (echod, _):
        echod.terminate()
        assert echod.wait() == 0


@pytest.mark.long
def test_readers_that_stall_delay_a_stop_by_less_than_a_second(start: Start) -> None:
    """By more than a second, on a quiet machine."""
    with unheard(start, "--drain-timeout", "1") as (echod, _), stopwatch(echod) as seconds:
        echod.terminate()
    assert echod.wait() == 0
    assert seconds() < 1 + 1


def test_readers_that_stall_do_not_block_a_forced_end(start: Start) -> None:
    """A SIGINT a second after the first ends it long before the drain would."""
    with unheard(start, "--drain-timeout", "600") as (echod, port):
        echod.process.send_signal(signal.SIGINT)
        until(partial(cannot_connect, port))
        insist(echod)
        assert echod.wait() == 128 + signal.SIGINT


@contextmanager
def unheard(start: Start, *options: str) -> Iterator[tuple[Echod, int]]:
    """A process whose clients, log and service manager have all stalled, and its port."""
    with ExitStack() as opened:
        reader, log = os.pipe()
        opened.callback(os.close, reader)
        manager = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        manager.bind("")  # the kernel picks an abstract address
        address = "@" + manager.getsockname()[1:].decode()
        echod = start(
            "--log-level", "debug", "--write-timeout", "none", *options, stdout=log,
            env=clean_environment(NOTIFY_SOCKET=address, WATCHDOG_USEC="400000"),
        )  # fmt: skip
        os.close(log)
        port, metrics_port = logged_ports(reader)
        stuck = opened.enter_context(connect(port, receive_buffer=4096))
        talker = opened.enter_context(connect(port))
        talk = b"no client reads it\n" * 100
        for _ in range(20):
            talker.sendall(talk)
            assert read_exactly(talker, len(expected(talk))) == expected(talk)
        take_nothing(stuck, lambda: Metrics(get(metrics_port, "/metrics")[1].decode()))
        with pytest.raises(BlockingIOError):
            while True:
                manager.sendto(b"x", socket.MSG_DONTWAIT, manager.getsockname())
        yield echod, port


def logged_ports(reader: int) -> tuple[int, int]:
    """The ports that a log names; read up to the event that is the last before clients come."""
    log = b""
    while b'"ready"' not in log:
        log += os.read(reader, 1 << 16)
    port, metrics_port = re.findall(rb"(?:listening|metrics) on \[::\]:(\d+)", log)
    return int(port), int(metrics_port)


def cannot_connect(port: int) -> bool:
    client = connected(port)
    if client:
        reset(client)
    return not client


def aborted(*_: object) -> NoReturn:
    raise ConnectionAbortedError(errno.ECONNABORTED, "gone already")


def stand_still(running: Running) -> threading.Event:
    """Until the event is set."""
    thaw = threading.Event()

    def wait() -> None:
        thaw.wait()

    running.service.handlers[0].post(wait)
    return thaw


def test_an_aborted_connection_in_the_accept_queue_hides_no_other(running: Running) -> None:
    """Both ports are emptied, whatever an accept reports of a client."""
    thaw = stand_still(running)
    for server in running.service.servers:
        server.get_request = in_turn(aborted, server.get_request)  # type: ignore[method-assign]
    with connections(running.port, 3) as some, connections(running.other_port, 3) as others:
        running.service.stop_accepting()
        thaw.set()
        for client in some + others:
            ask(client, b"x\n")


def in_turn(first: Callable[[], Any], then: Callable[[], Any]) -> Callable[[], Any]:
    calls = iter([first])

    def call() -> Any:
        return next(calls, then)()

    return call


def test_an_accept_queue_that_never_empties_is_closed_after_half_a_second(
    timed: Callable[..., Timed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a second for all ports, which have their turns: clients of the other one are served."""
    running = timed()
    monkeypatch.setattr("echod.loop.acceptor.BATCH", 2)
    thaw = stand_still(running)
    first, second = running.service.servers
    first.get_request = aborted  # type: ignore[method-assign]
    accept = second.get_request

    def accept_for_ever() -> Any:
        try:
            return accept()
        except BlockingIOError:
            aborted()

    second.get_request = accept_for_ever  # type: ignore[method-assign]
    with connections(running.other_port, 9) as waiting:
        stopping = running.service.stop_accepting()
        thaw.set()
        until(lambda: running.metrics()("echod_connections_opened_total") == len(waiting))
        running.move(0.4)
        assert all(part.is_alive() for part in stopping)
        running.move(0.2)
        assert not any(part.is_alive() for part in stopping)
        for client in waiting:
            ask(client, b"x\n")


class Times(MainLoop):
    """No signal comes; a stop of the ports takes a while."""

    def __init__(self) -> None:
        self.given: list[float] = []
        self.state = ""
        self.until = inf

    def wait(self, seconds: float | None = None) -> None:
        pause(seconds or NEVER, "no signal comes")

    def stopping(self, seconds: float) -> None:
        self.given.append(seconds)

    # The service's part.

    def open_connections(self) -> int:
        return 0

    def stop_accepting(self) -> list[Times]:
        self.until = monotonic() + 0.5
        return [self]

    def drain(self, timeout: float) -> list[Times]:
        self.given.append(timeout)
        return []

    def stop_exporter(self) -> list[Times]:
        return []

    def is_alive(self) -> bool:
        return monotonic() < self.until


def test_the_drain_timeout_counts_from_the_signal(running: Running) -> None:
    """And from the end of the delay, if there is one, not from the closing of the last port."""
    times, config = Times(), running.service.servers[0].config
    config = replace(config, drain_delay=0.1, drain_timeout=5.0)
    service = cast("Service", times)
    assert daemon._shut_down(config, service, times, running.service.events._logger, None) is None
    timeout, given = times.given
    assert timeout == 5.1
    assert given < 4.6


@pytest.mark.long
def test_a_flood_of_connects_does_not_block_a_stop(start: Start) -> None:
    """From processes that do nothing else, at two ports, beside a client that takes nothing."""
    echod = start("--drain-timeout", "1", "--write-timeout", "none", ports="0,0")
    words = [sys.executable, "-c", FLOOD, *map(str, echod.ports)]
    floods = [subprocess.Popen(words) for _ in range(2)]
    try:
        with connect(echod.port, receive_buffer=4096) as stuck:
            jam(stuck)
            until(lambda: echod.metrics()("echod_connections_closed_total") > 500)
            with stopwatch(echod) as seconds:
                echod.terminate()
    finally:
        for flood in floods:
            flood.kill()
            flood.wait()
    assert echod.wait() == 0
    assert seconds() < 1 + 1
    for total in echod.events()[-1]["totals"]:
        assert total["opened"] == total["closed"]


FLOOD = """
import socket, sys, time
end = time.monotonic() + 30
while time.monotonic() < end:
    for port in sys.argv[1:]:
        try:
            socket.create_connection(("127.0.0.1", int(port))).close()
        except OSError:
            pass
"""


@pytest.mark.long
def test_restarts_behind_inherited_sockets_lose_no_client(start: Start) -> None:
    """Whatever the moment of the signal: every client that connects is answered in full."""
    outcomes: list[bytes] = []
    over = threading.Event()

    def come_and_go(port: int) -> None:
        while not over.is_set():
            outcomes.append(converse(port, DATA))

    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        port = listener.getsockname()[1]
        clients = [threading.Thread(target=come_and_go, args=(port,)) for _ in range(4)]
        for client in clients:
            client.start()
        for seconds in (0.05, 0.1, 0.2, 0.0):
            echod = start(
                command=lambda *_: [sys.executable, "-c", HAND_OVER, str(listener.fileno())],
                pass_fds=[listener.fileno()],
            )
            echod.event("ready")
            pause(seconds, "clients come and go")
            if not seconds:
                over.set()
                for client in clients:
                    client.join()
            echod.stop()
    assert outcomes == [expected(DATA)] * len(outcomes)
    assert len(outcomes) > 4


HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="echo", LISTEN_PID=str(os.getpid()))
os.environ.update(ECHOD_PREFIX="one", ECHOD_METRICS_PORT="0")
os.execv(sys.executable, [sys.executable, "-m", "echod"])
"""
