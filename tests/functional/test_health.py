from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support import NEVER, PATIENCE, Start, altered, call, command, connect, pause, until

ASKING = altered(process__health_check__TIMEOUT_SECONDS=PATIENCE / 2)
"""A check that has more than its three seconds, where the answer matters and not the time."""


def health(
    directory: Path, *options: str, by: Callable[..., list[str]] = ASKING, **variables: str
) -> tuple[int, str]:
    result = call(directory, by("health", *options), **variables)
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    return result.returncode, result.stdout.strip()


def test_a_ready_daemon_is_healthy_by_flag_or_environment(start: Start, tmp_path: Path) -> None:
    """The environment is the daemon's own, as in a container."""
    port = str(start().metrics_port)
    assert health(tmp_path, "--metrics-port", port) == (0, "ready")
    assert health(tmp_path, ECHOD_METRICS_PORT=port) == (0, "ready")
    ipv4 = start("--metrics-address", "0.0.0.0", "--address", "127.0.0.1")
    port = str(ipv4.metrics_port)
    assert health(tmp_path, ECHOD_METRICS_PORT=port, ECHOD_METRICS_ADDRESS="0.0.0.0") == (
        0,
        "ready",
    )


def test_health_reports_a_draining_daemon_as_not_ready(start: Start, tmp_path: Path) -> None:
    """Readiness goes first, while connections are still accepted and answered."""
    echod = start("--drain-delay", str(NEVER))
    port = echod.metrics_port
    echod.terminate()
    echod.event("draining")
    status, line = health(tmp_path, "--metrics-port", str(port))
    assert (status, line.endswith("/readyz: 503 draining")) == (1, True)
    assert echod.get("/livez")[0] == 200
    assert echod.metrics()("echod_ready") == 0
    with connect(echod.port) as client:
        client.sendall(b"x\n")
        assert client.recv(100) == b"one x\n"
    echod.process.kill()
    echod.wait()


def test_health_fails_where_nothing_listens(tmp_path: Path) -> None:
    """The line names the URL and the error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        status, line = health(tmp_path, "--metrics-port", port)
    assert status == 1
    assert f"http://127.0.0.1:{port}/readyz" in line
    assert "refused" in line


def trickle(client: socket.socket) -> bool:
    """True when the other side has gone."""
    try:
        client.sendall(b"X")
    except OSError:
        return True
    pause(0.2, "an answer that trickles")
    return False


def test_a_port_of_another_program_is_not_healthy(tmp_path: Path) -> None:
    """A port that speaks no HTTP, or nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])

        def speak() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(b"220 no web server\r\n\r\n")
            client, _ = server.accept()
            with client:
                until(lambda: client.recv(1000) == b"")
            client, _ = server.accept()
            with client:
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
            client, _ = server.accept()
            with client:
                client.sendall(b"HTTP/1.1 200 OK\r\n")
                until(lambda: trickle(client))

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        assert health(tmp_path, "--metrics-port", port)[0] == 1
        status, line = health(tmp_path, "--metrics-port", port, by=command)
        assert (status, "timed out" in line) == (1, True)
        status, line = health(tmp_path, "--metrics-port", port)
        assert (status, "200 from something that is not echod" in line) == (1, True)
        # An endless response, byte by byte.
        status, line = health(tmp_path, "--metrics-port", port, by=command)
        assert (status, "timed out" in line) == (1, True)
        thread.join()


ECHOD = b"HTTP/1.1 503 Service Unavailable\r\nserver: echod\r\n"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"220 mail\r\n", "220 mail"),  # and not a second longer: it waits for an answer
        (b"HTTP/1.1 200 OK\r\nServer: other\r\n\r\n", "200 from something that is not echod"),
        (ECHOD + b"\r\n" + b"draining" * 100, "503 drainingdraining"),
        (ECHOD + b"X: " + b"x" * 20_000, "no complete HTTP response"),
    ],
)
def test_health_does_not_wait_for_the_server_to_close(
    tmp_path: Path, said: bytes, words: str
) -> None:
    """Whether or not the server closes after it."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(said)
                done.wait(PATIENCE)

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        status, line = health(tmp_path, "--metrics-port", str(server.getsockname()[1]))
        done.set()
        assert (status, words in line) == (1, True), line
        thread.join()


@pytest.mark.parametrize("said", [b"", b"HTT", ECHOD])
def test_a_health_answer_that_breaks_off_is_not_taken(tmp_path: Path, said: bytes) -> None:
    """Whatever it began with."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1000)
                client.sendall(said)

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        status, line = health(tmp_path, "--metrics-port", str(server.getsockname()[1]))
        assert (status, "no complete HTTP response" in line) == (1, True)
        thread.join()


@pytest.mark.parametrize("port", ["none", "0"])
def test_health_without_a_metrics_port_is_not_ready(tmp_path: Path, port: str) -> None:
    """A container probe knows 0 and 1 alone."""
    status, line = health(tmp_path, ECHOD_METRICS_PORT=port)
    assert (status, "the metrics port is off" in line) == (1, True)
