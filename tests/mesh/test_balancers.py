"""The probe behind real balancers: what the order of connections says of how each one chooses."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support import call, command, pause, peers, until
from support.peers import Behaviour, serving

from echod.lab import envoy
from echod.lab.envoy import Envoy
from echod.lab.processes import Process, free_port

LOOPBACK = "127.0.0.1"
RARELY = ("--alpha", "0.000001")
"""How often a test may fail by chance."""


@pytest.fixture(scope="module", autouse=True)
def balancers() -> None:
    for program, package in (("haproxy", "haproxy"), ("nginx", "nginx libnginx-mod-stream")):
        assert shutil.which(program), f"{program} is missing: apt-get install {package}"


def probe(directory: Path, port: int, *words: object) -> tuple[int, Any, str]:
    """Exit status, JSON, and the table of a second run."""
    both = [
        call(directory, command("probe", f"{LOOPBACK}:{port}", *map(str, words), *more))
        for more in (["--json"], [])
    ]
    return both[0].returncode, json.loads(both[0].stdout), both[1].stdout


def z(found: Any) -> float:
    return float(found["independence"]["runs"]["z"])


@pytest.fixture
def backends() -> Iterator[tuple[int, int]]:
    """Ports of one and two."""
    with serving(peers.prefixing(b"one")) as one, serving(peers.prefixing(b"two")) as two:
        yield one, two


def listens(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection((LOOPBACK, port)).close()
        return True
    return False


@contextmanager
def running(name: str, words: list[str], directory: Path, port: int) -> Iterator[int]:
    process = Process(name, words, directory)
    try:

        def ready() -> bool:
            process.check()
            return listens(port)

        until(ready)
        yield port
    finally:
        process.stop(10)


@contextmanager
def haproxy(directory: Path, balance: str, one: int, two: int) -> Iterator[int]:
    """80/20, by a way of balancing."""
    port = free_port()
    path = directory / "haproxy.cfg"
    path.write_text(
        f"""\
defaults
  mode tcp
  timeout connect 5s
  timeout client 10s
  timeout server 10s
listen echo
  bind {LOOPBACK}:{port}
  balance {balance}
  server one {LOOPBACK}:{one} weight 80
  server two {LOOPBACK}:{two} weight 20
"""
    )
    with running("haproxy", ["haproxy", "-db", "-f", str(path)], directory, port):
        yield port


@contextmanager
def nginx(directory: Path, one: int, two: int) -> Iterator[int]:
    """80/20, by its stream module."""
    program = shutil.which("nginx") or ""
    module = Path(program).resolve().parents[1] / "lib/nginx/modules/ngx_stream_module.so"
    port = free_port()
    path = directory / "nginx.conf"
    path.write_text(
        f"""\
load_module {module};
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
stream {{
  upstream echo {{
    server {LOOPBACK}:{one} weight=4;
    server {LOOPBACK}:{two} weight=1;
  }}
  server {{ listen {LOOPBACK}:{port}; proxy_pass echo; }}
}}
"""
    )
    words = [program, "-c", str(path), "-p", str(directory), "-e", "stderr"]
    with running("nginx", words, directory, port):
        yield port


@contextmanager
def one_cluster(
    directory: Path, policy: str, ports: tuple[int, int], tcp: dict[str, Any] | None = None
) -> Iterator[int]:
    """An Envoy whose cluster has both versions as its hosts."""
    port = free_port()
    hosts = [
        {"endpoint": {"address": {"socket_address": {"address": LOOPBACK, "port_value": one}}}}
        for one in ports
    ]
    assignment = {"cluster_name": "echo", "endpoints": [{"lb_endpoints": hosts}]}
    proxy = {
        "@type": envoy._TCP_PROXY,
        "stat_prefix": "echo",
        "cluster": "echo",
        **(tcp or {}),
    }
    listener = {
        "name": "echo",
        "address": {"socket_address": {"address": LOOPBACK, "port_value": port}},
        "filter_chains": [{"filters": [{"name": "tcp", "typed_config": proxy}]}],
    }
    cluster = {
        "name": "echo",
        "type": "STATIC",
        "lb_policy": policy,
        "connect_timeout": "5s",
        "load_assignment": assignment,
    }
    path = directory / "envoy.json"
    path.write_text(
        json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
    )
    words = [envoy.find(), "-c", str(path), "--use-dynamic-base-id", "--concurrency", "1"]
    with running("envoy", [*words, "-l", "error"], directory, port):
        yield port


@contextmanager
def in_runs(counts: tuple[int, int], ports: tuple[int, int]) -> Iterator[int]:
    """A balancer of our own: so many connections to one, so many to the other, and so on."""
    turn = [ports[0]] * counts[0] + [ports[1]] * counts[1]

    def behave(connection: socket.socket, number: int) -> None:
        with closing(socket.create_connection((LOOPBACK, turn[number % len(turn)]))) as other:
            other.sendall(peers.line_of(connection))
            connection.sendall(peers.line_of(other))

    with serving(behave) as port:
        yield port


def test_a_balancer_that_draws_is_independent(tmp_path: Path, backends: tuple[int, int]) -> None:
    """Envoy picks a cluster at random for each connection; so does HAProxy by `random`."""
    one, two = backends
    upstreams = {"one": (LOOPBACK, one), "two": (LOOPBACK, two)}
    lab = Envoy((LOOPBACK, 0), upstreams, {"one": 4, "two": 1})
    try:
        status, found, table = probe(tmp_path, lab.port, "--expect", "one=80,two=20", *RARELY)
    finally:
        lab.stop()
    assert (status, found["verdict"]) == (0, "holds")
    assert abs(z(found)) < 4
    assert found["independence"]["homogeneity"]["p"] > 1e-6
    assert "more often than chance" not in table


@pytest.mark.parametrize("name", ["haproxy", "nginx"])
def test_a_balancer_that_takes_turns_passes_and_is_seen(
    tmp_path: Path, backends: tuple[int, int], name: str
) -> None:
    """Both spread a weight evenly over their turns."""
    made = (
        haproxy(tmp_path, "roundrobin", *backends)
        if name == "haproxy"
        else nginx(tmp_path, *backends)
    )
    with made as port:
        words = ("--expect", "one=80,two=20", "--concurrency", 1)
        status, found, table = probe(tmp_path, port, *words)
    assert (status, found["verdict"]) == (0, "holds")
    assert z(found) > 4
    assert "versions take turns more often than chance" in table


def test_a_balancer_that_goes_in_runs_is_seen(tmp_path: Path, backends: tuple[int, int]) -> None:
    """Its first run is longer than chance makes it: the verdict says what helps."""
    with in_runs((801, 199), backends) as port:
        status, found, table = probe(tmp_path, port, "--expect", "one=80.1,two=19.9")
        assert (status, found["versions"][1]["seen"]) == (1, 0)
        assert "a balancer that works in runs; then a verdict takes whole cycles of it" in table
        sources = ("--source", "127.0.0.0/29", "--expect", "one=80.1,two=19.9")
        status, found, table = probe(tmp_path, port, *sources)
        assert status == 1
        assert "whole cycles" in table
        status, found, table = probe(tmp_path, port, "-n", 2000, "--concurrency", 1)
    assert (status, found["versions"][0]["seen"]) == (0, 1602)
    assert z(found) < -4
    assert "equal versions follow each other more often than chance" in table
    assert "whole cycles" in table


def test_affinity_by_source_is_seen_and_many_sources_undo_it(
    tmp_path: Path, backends: tuple[int, int]
) -> None:
    """One source stays with one version."""
    with haproxy(tmp_path, "source", *backends) as port:
        status, found, table = probe(tmp_path, port, "--expect", "one=80,two=20")
        assert status == 1
        assert min(row["seen"] for row in found["versions"]) == 0
        assert "possibly affinity (use several sources: --source)" in table
        status, found, table = probe(tmp_path, port, "-n", 500, "--source", "127.0.0.0/24")
    assert found["sources"] == 254
    assert min(row["seen"] for row in found["versions"]) > 0
    assert "affinity" not in table


def test_a_ring_of_hashes_is_affinity_by_source(tmp_path: Path, backends: tuple[int, int]) -> None:
    """Envoy's, by the address that a connection comes from."""
    policy: dict[str, Any] = {"hash_policy": [{"source_ip": {}}]}
    with one_cluster(tmp_path, "RING_HASH", backends, policy) as port:
        status, _, table = probe(tmp_path, port, "--expect", "one=50,two=50")
        assert (status, "possibly affinity" in table) == (1, True)
        words = ("-n", 1000, "--source", "127.0.0.0/25", "--source", "127.0.1.0/25")
        _, found, table = probe(tmp_path, port, *words)
    assert min(row["seen"] for row in found["versions"]) > 200


def slow(seconds: float) -> Behaviour:
    answer: Callable[[socket.socket, int], None] = peers.prefixing(b"two")

    def behave(connection: socket.socket, number: int) -> None:
        pause(seconds, "a version that is slow")
        answer(connection, number)

    return behave


def test_a_balancer_by_load_answers_to_the_concurrency(tmp_path: Path) -> None:
    """Envoy's least request: one at a time it is even, with more the slow version gets less."""
    with ExitStack() as stack:
        one = stack.enter_context(serving(peers.prefixing(b"one")))
        two = stack.enter_context(serving(slow(0.1)))
        port = stack.enter_context(one_cluster(tmp_path, "LEAST_REQUEST", (one, two)))
        words = ("-n", 300, "--concurrency")
        alone = probe(tmp_path, port, *words, 1)[1]
        many = probe(tmp_path, port, *words, 20)[1]
        status = probe(tmp_path, port, "--expect", "one=50,two=50", "--concurrency", 20)[0]
    shares = [found["versions"][0]["share"] for found in (alone, many)]
    assert 0.35 < shares[0] < 0.65
    assert shares[1] > 0.6
    assert status == 1
