from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import (
    PATIENCE,
    Sockets,
    Start,
    ask,
    call,
    clean_environment,
    command,
    connect,
    converse,
    read_to_end,
    start_with,
    until,
)
from support.running import Running

from echod.process.main_loop import MainLoop
from echod.process.signals import StopSignals
from echod.process.systemd import ServiceManager


@pytest.fixture
def tcp() -> Iterator[Any]:
    """Makes listening sockets of 127.0.0.1."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(socket.create_server(("127.0.0.1", 0)))


def test_echod_serves_on_inherited_sockets(start: Start, tcp: Any) -> None:
    """By their names, without PORTS; a restart behind them refuses no client."""
    first, second, metrics = tcp(), tcp(), tcp()
    port, other = first.getsockname()[1], second.getsockname()[1]
    sockets = Sockets(echo=[first, second], metrics=[metrics])
    echod = start_with(start, sockets)
    assert echod.ports == [port, other]
    assert echod.metrics_port == metrics.getsockname()[1]
    assert converse(port, b"x\n") + converse(other, b"y\n") == b"one x\none y\n"
    with connect(port) as client:
        ask(client, b"z\n")
        echod.terminate()
        assert read_to_end(client) == b""
        assert echod.wait() == 0
        with connect(port) as waiting:
            waiting.sendall(b"w\n")
            again = start_with(start, sockets)
            until(lambda: again.events("ready"))
            ask(waiting, b"v\n", prefix=b"one w\none")
            waiting.shutdown(socket.SHUT_WR)
    again.stop()


def test_a_setting_must_agree_with_the_inherited_socket(
    start: Start, tcp: Any, tmp_path: Path
) -> None:
    """Otherwise one of the two would be wrong about the clients that it serves."""
    echo, metrics = tcp(), tcp()
    port, metrics_port = (one.getsockname()[1] for one in (echo, metrics))
    sockets = Sockets(echo=[echo], metrics=[metrics])
    agreeing = {
        "ECHOD_PORTS": str(port),
        "ECHOD_ADDRESS": "127.0.0.1",
        "ECHOD_METRICS_PORT": str(metrics_port),
        "ECHOD_METRICS_ADDRESS": "127.0.0.1",
    }
    start_with(start, sockets, **agreeing).event("ready")
    for variable, option, value in (
        ("ECHOD_PORTS", "PORTS", f"1{port % 1000},{port}"),
        ("ECHOD_ADDRESS", "--address", "::"),
        ("ECHOD_METRICS_PORT", "--metrics-port", "none"),
        ("ECHOD_METRICS_ADDRESS", "--metrics-address", "::1"),
    ):
        line = refusal(tmp_path, sockets, **agreeing | {variable: value})
        expected = f"echod: error: {option} {value}: must match the inherited sockets"
        assert line.startswith(expected)


def refusal(directory: Path, sockets: Sockets, **variables: str) -> str:
    """The one line with which it ends, at once and with exit status 2."""
    result = call(
        directory,
        sockets.command(),
        sockets.descriptors,
        **{"ECHOD_PREFIX": "one"} | variables,
    )
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    return result.stderr


def test_inherited_sockets_that_echod_cannot_serve_are_refused(tmp_path: Path, tcp: Any) -> None:
    """An unknown name, a second one for metrics, a port twice, and what is no listener at all."""
    one = tcp()
    assert "LISTEN_FDNAMES 'echo:other'" in refusal(tmp_path, Sockets(echo=[one], other=[tcp()]))
    assert "at most one for metrics" in refusal(tmp_path, Sockets(metrics=[one, tcp()]))
    assert "one for each echo port" in refusal(tmp_path, Sockets(echo=[one, one]))
    with socket.socket() as silent, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        unix, other = socket.socketpair()
        with unix, other, Path(os.devnull).open() as file:
            for descriptor in (silent, datagrams, unix, file):
                line = refusal(tmp_path, Sockets(echo=[descriptor]))  # type: ignore[list-item]
                assert "inherited descriptor 3: must be a listening TCP socket" in line


def test_sockets_for_another_process_are_left_alone(start: Start, tcp: Any) -> None:
    """The variables are inherited by children that they are not meant for; or a wrapper has not
    started echod without exec. One warning says so.
    """
    echod = start_with(
        start, Sockets(echo=[tcp()]), "0", "--metrics-port", "0", LISTEN_PID=str(os.getpid())
    )
    assert converse(echod.port, b"x\n") == b"one x\n"
    assert echod.port != 0
    (event,) = echod.events("inherited sockets ignored")
    assert event["level"] == "warning"
    assert event["reason"] == (
        f"LISTEN_PID '{os.getpid()}' is not this process, {echod.process.pid}:"
        " a wrapper script must exec echod"
    )


def test_a_start_that_fails_without_ignored_sockets_names_them(tmp_path: Path, tcp: Any) -> None:
    """Behind a wrapper that does not exec its ports are missing, or in use."""
    echo = tcp()
    sockets = Sockets(echo=[echo])
    line = refusal(tmp_path, sockets, LISTEN_PID="")
    assert line.startswith("echod: error: PORTS is missing: give it, or set ECHOD_PORTS;")
    assert "; inherited sockets ignored: LISTEN_PID '' is not this process, " in line
    port = str(echo.getsockname()[1])
    variables = {"ECHOD_PORTS": port, "ECHOD_PREFIX": "one", "LISTEN_PID": "1"}
    result = call(tmp_path, sockets.command(), sockets.descriptors, **variables)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "Address already in use; inherited sockets ignored: LISTEN_PID '1' is" in result.stderr


def test_addresses_of_inherited_sockets_are_compared_as_addresses(start: Start) -> None:
    """However they are written; an IPv4 address in an IPv6 one is the same address."""
    with socket.socket(socket.AF_INET6) as mapped:
        mapped.bind(("::ffff:127.0.0.1", 0))
        mapped.listen()
        for written in ("::ffff:127.0.0.1", "::FFFF:7F00:1", "127.0.0.1"):
            sockets = Sockets(echo=[mapped])
            variables = {"ECHOD_ADDRESS": written, "ECHOD_METRICS_PORT": "none"}
            echod = start_with(start, sockets, **variables)
            assert converse(echod.port, b"x\n") == b"one x\n"
            echod.stop()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The end of a NOTIFY_SOCKET that a service manager reads."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(PATIENCE)
        yield receiver


def notified(manager: socket.socket, wanted: str) -> list[str]:
    """The first message with an assignment that begins so; skips those before."""
    while True:
        message = manager.recv(4096).decode().split("\n")
        if any(assignment.startswith(wanted) for assignment in message):
            return message


def test_the_service_manager_receives_readiness_status_and_stop(
    start: Start, manager: socket.socket
) -> None:
    """Ready when it listens and not before, its connections, and how long a stop may take."""
    echod = start(
        "--drain-delay", "0.5", env=clean_environment(NOTIFY_SOCKET=manager.getsockname())
    )
    message = notified(manager, "READY=1")
    port = echod.port
    assert message == ["READY=1", f"STATUS=ready: 0 connections on ports {port}"]
    with connect(port) as client:
        ask(client, b"x\n")
        assert notified(manager, "STATUS=") == [f"STATUS=ready: 1 connections on ports {port}"]
        echod.terminate()
        message = notified(manager, "STOPPING=1")
        assert message[1:] == [
            f"EXTEND_TIMEOUT_USEC={(0.5 + 4 + 10) * 1e6:.0f}",
            f"STATUS=draining: 1 connections on ports {port}",
        ]
    assert echod.wait() == 0


def test_the_watchdog_is_fed_in_time(start: Start, manager: socket.socket) -> None:
    """Several times in each of its periods, while draining too."""
    environment = clean_environment(NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_USEC="400000")
    echod = start("--drain-delay", "1", env=environment)
    for _ in range(10):
        notified(manager, "WATCHDOG=1")
    echod.terminate()
    notified(manager, "STOPPING=1")
    notified(manager, "WATCHDOG=1")
    assert echod.wait() == 0


def test_a_watchdog_for_another_process_is_not_fed(start: Start, manager: socket.socket) -> None:
    """WATCHDOG_PID says whose it is, and a warning says so."""
    environment = clean_environment(
        NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_USEC="400000", WATCHDOG_PID="1"
    )
    echod = start(env=environment)
    notified(manager, "READY=1")
    with connect(echod.port) as client:
        ask(client, b"x\n")
        assert "WATCHDOG=1" not in notified(manager, "STATUS=")
    (event,) = echod.events("watchdog ignored")
    assert event["level"] == "warning"
    assert event["reason"].startswith("WATCHDOG_PID '1' is not this process, ")
    echod.stop()


@pytest.mark.parametrize("wanted", ["often", "0", "-1", "9" * 30])
def test_a_watchdog_without_a_time_is_refused(tmp_path: Path, wanted: str) -> None:
    """It would end the service at an unknown time."""
    result = call(tmp_path, command("0", "one"), WATCHDOG_USEC=wanted)
    assert result.returncode == 2
    assert result.stderr == (
        f"echod: error: WATCHDOG_USEC {wanted!r}: must be a number of microseconds\n"
    )


def test_a_service_manager_that_has_gone_causes_one_event(start: Start, tmp_path: Path) -> None:
    """And is notified again when it is back."""
    path = tmp_path / "notify"
    environment = clean_environment(NOTIFY_SOCKET=str(path), WATCHDOG_USEC="400000")
    echod = start(env=environment)
    assert converse(echod.port, b"x\n") == b"one x\n"
    echod.event("sd_notify failed")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(PATIENCE)
        receiver.bind(str(path))
        notified(receiver, "WATCHDOG=1")
    echod.stop()
    assert len(echod.events("sd_notify failed")) in (1, 2)  # gone again


def test_a_service_manager_at_an_abstract_address_is_notified(start: Start) -> None:
    """``@name`` is how the variable spells it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("")  # the kernel picks an abstract one
        receiver.settimeout(PATIENCE)
        address = "@" + receiver.getsockname()[1:].decode()
        echod = start(env=clean_environment(NOTIFY_SOCKET=address))
        notified(receiver, "READY=1")
        echod.stop()


def wait(event: threading.Event) -> None:
    event.wait()


class Waiting(StopSignals):
    """No signal comes; the time passes."""

    def __init__(self) -> None:
        self.passing = threading.Event()

    def wait(self, timeout: float | None = None) -> None:
        self.passing.wait(timeout)


def test_the_watchdog_starves_while_a_thread_is_frozen(
    running: Running, manager: socket.socket
) -> None:
    """A running main thread is not enough; the log names the stuck thread."""
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "400000"}
    main_loop = MainLoop(
        running.service, Waiting(), ServiceManager(environment), running.service.events._logger
    )
    thaw = threading.Event()
    running.service.handlers[0].post(lambda: wait(thaw))
    until(lambda: main_loop.wait(0.2) or running.events("watchdog notifications paused"))
    assert "stalled: handler-0" in running.events("watchdog notifications paused")[0]["problem"]
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):  # what came before it starved
        while True:
            manager.recv(4096)
    main_loop.wait(0.3)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
    thaw.set()
    until(lambda: main_loop.wait(0.2) or running.events("watchdog notifications resumed"))
    assert b"WATCHDOG=1" in manager.recv(4096)
