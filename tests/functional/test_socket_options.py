"""Kernels that have not every socket option, or do not hand it on to accepted sockets."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    Sockets,
    Start,
    ask,
    call,
    clean_environment,
    command,
    connect,
    converse,
    get,
    start_with,
)
from support.refusals import ERRORS, TUNING, refuse, refusing_process
from support.running import Running, connections_of

MPTCP = 262
WANTED = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
    (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 128 * 1024),
)


@pytest.mark.parametrize("error", ERRORS)
def test_a_kernel_without_the_options_that_tune_is_served_on_with_one_warning(
    start: Start, tmp_path: Path, error: str
) -> None:
    """However many ports there are; it names them, and what their lack means."""
    variables = refusing_process(tmp_path, error, *TUNING, "IPV6_V6ONLY")
    echod = start(ports="0,0,0", env=clean_environment(**variables))
    for port in echod.ports:
        assert converse(port, b"x\ny\n") == b"one x\none y\n"
    assert get(echod.metrics_port, "/readyz")[0] == 200
    (event,) = [event for event in echod.events() if event["level"] != "info"]
    assert (event["level"], event["event"]) == ("warning", "socket options refused")
    assert event["options"] == ", ".join([*TUNING, "IPV6_V6ONLY"])
    assert event["error"] == os.strerror(getattr(errno, error))
    assert event["effect"] == (
        "Nagle's algorithm may delay replies;"
        " clients that vanish are detected late, at the latest by --idle-timeout;"
        " the kernel may buffer megabytes of replies for a client that does not read;"
        " :: still serves IPv4 clients"
    )
    echod.stop()


@pytest.mark.parametrize("error", ERRORS)
def test_inherited_sockets_without_the_options_that_tune_are_served_on(
    start: Start, tmp_path: Path, error: str
) -> None:
    """They are listening TCP sockets, whatever they do not take; and need not be reused."""
    variables = refusing_process(tmp_path, error, *TUNING, "IPV6_V6ONLY", "SO_REUSEADDR")
    with socket.create_server(("127.0.0.1", 0)) as echo, socket.socket() as metrics:
        metrics.bind(("127.0.0.1", 0))
        metrics.listen()
        echod = start_with(start, Sockets(echo=[echo], metrics=[metrics]), **variables)
        assert converse(echod.port, b"x\n") == b"one x\n"
        assert get(echod.metrics_port, "/readyz")[0] == 200
        (event,) = [event for event in echod.events() if event["level"] != "info"]
        assert event["options"] == ", ".join(TUNING)
        echod.stop()


@pytest.mark.parametrize("error", ERRORS)
def test_a_refused_so_reuseaddr_ends_the_start(tmp_path: Path, error: str) -> None:
    """A restart could not bind its ports: one line says which option, and why."""
    variables = refusing_process(tmp_path, error, "SO_REUSEADDR")
    result = call(tmp_path, command("0", "one", "--metrics-port", "0"), **variables)
    reason = os.strerror(getattr(errno, error))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "echod: error: PORTS 0: cannot listen on [::]:0: SO_REUSEADDR: " + reason + "\n"
    )


def options_of(running: Running, client: socket.socket) -> list[int]:
    """As the socket on our side of a connection has them."""
    (connection,) = (
        one
        for thread in running.service.handlers
        for one in connections_of(thread)
        if one.client_address == client.getsockname()  # one that ends has no peer
    )
    return [connection.request.getsockopt(*option) for *option, _ in WANTED]


@pytest.fixture
def kernel() -> Iterator[Any]:
    """Starts a service on another kernel: what is given stands in for its sockets."""
    with pytest.MonkeyPatch.context() as patched:
        started: list[Running] = []

        def start(double: type[socket.socket]) -> Running:
            patched.setattr(socket, "socket", double)
            started.append(Running())
            return started[-1]

        yield start
        for running in started:
            running.close()


class Forgetful(socket.socket):
    """Accepted sockets begin with the system's defaults, as those of gVisor do."""

    def _accept(self) -> tuple[int, Any]:
        descriptor, address = super()._accept()  # type: ignore[misc]
        accepted = original(fileno=descriptor)
        for level, option, default in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 0),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7200),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 75),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 9),
            (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0),
        ):
            accepted.setsockopt(level, option, default)
        return accepted.detach(), address


class Multipath(socket.socket):
    """What mptcpize makes of a TCP socket, where the kernel has MPTCP."""

    def __init__(self, family: int = -1, kind: int = -1, proto: int = -1, *rest: Any, **more: Any):
        multipath = proto == socket.IPPROTO_TCP and "fileno" not in more and has_mptcp()
        super().__init__(family, kind, MPTCP if multipath else proto, *rest, **more)


def has_mptcp() -> bool:
    try:
        original(socket.AF_INET, socket.SOCK_STREAM, MPTCP).close()
    except OSError:
        return False
    return True


original = socket.socket


@pytest.mark.parametrize("double", [Forgetful, Multipath])
def test_accepted_sockets_that_inherit_less_are_given_it(
    kernel: Any, double: type[socket.socket]
) -> None:
    """A client by plain TCP at a listener for MPTCP, too, though one by MPTCP came before."""
    running = kernel(double)
    protocols = [MPTCP, socket.IPPROTO_TCP] if has_mptcp() else [socket.IPPROTO_TCP] * 2
    for number in (0, 1, 1):
        with original(socket.AF_INET, socket.SOCK_STREAM, protocols[number]) as client:
            client.connect(("127.0.0.1", running.port))
            ask(client, b"x\n")
            assert options_of(running, client) == [value for *_, value in WANTED]


@pytest.mark.parametrize("error", ERRORS)
def test_an_accepted_socket_that_refuses_every_option_is_served(
    monkeypatch: pytest.MonkeyPatch, kernel: Any, error: str
) -> None:
    """Nothing but its own options is worse for it."""
    refuse(monkeypatch, error, *TUNING)
    monkeypatch.setattr("echod.loop.sockets.SocketType", socket.socket)  # which refuses
    running = kernel(socket.socket)
    for _ in range(3):
        with connect(running.port) as client:
            ask(client, b"x\n")
            assert options_of(running, client)[0] == 0
    assert [event for event in running.events() if event["level"] != "info"] == []
