"""The probe against two echods behind a real Envoy, which splits connections by weight."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Echod, Start, ask, call, clean_environment, command, connect, until

from echod.errors import SystemRefused
from echod.lab import envoy
from echod.lab.envoy import Envoy

FREE = ("127.0.0.1", 0)
RARELY = ("--alpha", "0.000001")
"""How often a test may fail by chance."""


@pytest.fixture
def versions(start: Start) -> dict[str, Echod]:
    return {
        "v1": start("--service-version", "v1", prefix="one"),
        "v2": start("--service-version", "v2", prefix="two"),
    }


@pytest.fixture
def mesh(versions: dict[str, Echod]) -> Iterator[Envoy]:
    upstreams = {name: ("127.0.0.1", one.port) for name, one in versions.items()}
    running = Envoy(FREE, upstreams, {"v1": 80, "v2": 20})
    yield running
    running.stop()


def probe(directory: Path, *words: object) -> tuple[int, Any]:
    result = call(directory, command("probe", *map(str, words), "--json"))
    assert result.stderr == ""
    return result.returncode, json.loads(result.stdout)


def test_80_20_passes_as_80_20_and_70_30_does_not(
    tmp_path: Path, mesh: Envoy, versions: dict[str, Echod]
) -> None:
    """And the servers have counted what the client has seen."""
    words = [f"127.0.0.1:{mesh.port}", "--expect", "one=80,two=20", *RARELY]
    for one in versions.values():
        words += ["--metrics", f"http://127.0.0.1:{one.metrics_port}/metrics"]
    status, found = probe(tmp_path, *words)
    assert (status, found["verdict"]) == (0, "holds")
    made = found["connections"]
    assert found["servers"] == {"match": True, "requests": made, "connections": made}
    mesh.shift({"v1": 70, "v2": 30})
    status, found = probe(tmp_path, *words)
    assert (status, found["verdict"]) == (1, "does not hold")
    assert found["servers"]["match"]


def test_a_shift_that_is_waited_for_is_seen(
    tmp_path: Path, mesh: Envoy, versions: dict[str, Echod]
) -> None:
    """From the old weights to the new ones while the probe looks."""
    words = (f"127.0.0.1:{mesh.port}", "--expect", "one=50,two=50", "--tolerance", 10)
    waiting = subprocess.Popen(
        command("probe", *map(str, words), "--wait", "20", "--json"),
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=clean_environment(),
    )
    metrics = versions["v2"].metrics
    until(lambda: metrics()("echod_requests_total") > 100)
    assert waiting.poll() is None
    mesh.shift({"v1": 50, "v2": 50})
    output, _ = waiting.communicate(timeout=30)
    found = json.loads(output)
    assert (waiting.returncode, found["verdict"]) == (0, "holds")
    assert found["stopped_at"] > found["judged"]


def test_a_shift_cuts_no_connection(tmp_path: Path, mesh: Envoy) -> None:
    """What is open stays at its version; only new connections follow the weights."""
    mesh.shift({"v1": 100, "v2": 0})
    with connect(mesh.port) as client:
        ask(client, b"before\n")
        mesh.shift({"v1": 0, "v2": 100})
        ask(client, b"after\n")
        with connect(mesh.port) as new:
            ask(new, b"new\n", b"two")
        ask(client, b"still\n")
    assert probe(tmp_path, f"127.0.0.1:{mesh.port}", "--expect", "two=1,one=0")[0] == 0


def test_a_version_that_is_gone_is_failures_not_a_share(
    tmp_path: Path, mesh: Envoy, versions: dict[str, Echod]
) -> None:
    """Envoy accepts, and closes: not the other version's, and never dropped."""
    versions["v2"].stop()
    status, found = probe(
        tmp_path, f"127.0.0.1:{mesh.port}", "--expect", "one=80,error=20", *RARELY
    )
    assert status == 0
    assert set(found["failures"]) <= {"reset", "closed"}
    status, _ = probe(tmp_path, f"127.0.0.1:{mesh.port}", "--expect", "one=80,two=20")
    assert status == 3


def test_a_stopped_envoy_leaves_no_process_file_or_port(versions: dict[str, Echod]) -> None:
    """No process, no file, no port."""
    upstreams = {name: ("127.0.0.1", one.port) for name, one in versions.items()}
    mesh = Envoy(FREE, upstreams, {"v1": 1})
    assert mesh._process
    pid, port, directory = mesh._process.pid, mesh.port, mesh._directory
    assert directory.exists()
    mesh.stop()
    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConnectionRefusedError):
        connect(port)


@pytest.mark.parametrize("weights", [{}, {"v1": 0}, {"v1": -1, "v2": 1}, {"v3": 1}])
def test_impossible_weights_are_refused(mesh: Envoy, weights: dict[str, int]) -> None:
    """And those that hold stay."""
    with pytest.raises(SystemRefused, match=r"weights .*: must be from 0 on"):
        mesh.shift(weights)
    mesh.shift({"v1": 1, "v2": 0})
    with connect(mesh.port) as client:
        ask(client, b"x\n")


def test_a_port_in_use_is_a_clear_error() -> None:
    """With what Envoy said of it; nothing is left."""
    with socket.create_server(FREE) as taken, pytest.raises(SystemRefused, match="envoy"):
        Envoy(("127.0.0.1", taken.getsockname()[1]), {"v1": FREE}, {"v1": 1})


def test_an_envoy_that_died_is_a_clear_error(mesh: Envoy) -> None:
    """Instead of a wait for weights that are never taken."""
    assert mesh._process
    os.kill(mesh._process.pid, 9)

    def dead() -> bool:
        try:
            mesh.check()
        except SystemRefused:
            return True
        return False

    until(dead)
    with pytest.raises(SystemRefused, match="envoy has ended with status -9"):
        mesh.shift({"v1": 1})


def test_without_envoy_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's program first, then the one on the path."""
    assert envoy.find().endswith("envoy/_bin/envoy")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemRefused, match=r"pip install '\.\[lab\]'"):
        envoy.find()
