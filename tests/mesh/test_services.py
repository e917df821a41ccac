"""The recipes of docs/probe-services.md, typed against real servers behind real balancers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import real_services
from real_services import LOOPBACK, VERSIONS, Host, Ports, listens
from support import ROOT
from support.encrypted import CA
from support.pages import Block, alike, blocks

from echod.lab.envoy import Envoy
from echod.lab.processes import free_port

PAGE = ROOT / "docs/probe-services.md"
RECIPES = [block for block in blocks(PAGE) if block.needs == "services"]
ADDRESS = re.compile(r"\b((\w+)\.example:(\d+))")
"""Where a recipe connects to."""

JUDGED = "one=80,two=20"


class Stage:
    """Two versions of each service, and balancers of 80/20 before them."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.versions: dict[str, Ports] = {
            "redis": real_services.redis(host),
            "postgres": real_services.postgres(host),
            "mysql": real_services.mariadb(host),
            "mqtt": real_services.mosquitto(host),
            "ssh": real_services.sshd(host),
        }
        self.versions["shop"], self.versions["gateway"] = real_services.nginx(host)
        self.versions["proxy"] = real_services.two_ports()
        self.balanced = {name: free_port() for name in self.versions}
        self._start_haproxy()

    def _start_haproxy(self) -> None:
        def split(name: str, ports: Ports) -> str:
            servers = "".join(
                f"  server {version} {LOOPBACK}:{ports[version]} weight {weight}\n"
                for version, weight in zip(VERSIONS, (80, 20), strict=True)
            )
            return f"backend {name}\n  balance roundrobin\n{servers}"

        def front(name: str, more: str = "") -> str:
            bind = f"  bind {LOOPBACK}:{self.balanced[name]}\n"
            return f"frontend to-{name}\n{bind}{more or f'  default_backend {name}'}\n"

        by_sni = (
            "  tcp-request inspect-delay 10s\n"
            "  tcp-request content accept if { req.ssl_hello_type 1 }\n"
            "  use_backend gateway if { req.ssl_sni -i shop.example }"
        )
        times = "".join(f"  timeout {what} 60s\n" for what in ("connect", "client", "server"))
        parts = ["defaults\n  mode tcp\n" + times]
        parts += [split(name, ports) for name, ports in self.versions.items()]
        parts += [front(name) for name in self.versions if name != "gateway"]
        parts.append(front("gateway", by_sni))
        for version in VERSIONS:  # what expects the header, and takes it off
            bind = f"{LOOPBACK}:{self.versions['proxy'][version]} accept-proxy"
            server = f"{LOOPBACK}:{self.versions['redis'][version]}"
            parts.append(f"listen {version}\n  bind {bind}\n  server {version} {server}\n")
        path = self.host.write("haproxy.cfg", "\n".join(parts))
        self.host.run("haproxy", ["haproxy", "-db", "-f", path], self.balanced["redis"])
        assert all(map(listens, self.balanced.values()))

    def typed(self, command: str, port: int) -> subprocess.CompletedProcess[str]:
        """What a reader types, with this stage's addresses."""
        command = ADDRESS.sub(f"{LOOPBACK}:{port}", command)
        for shown, version in (("6401", "one"), ("6402", "two")):
            command = command.replace(shown, str(self.versions["redis"][version]))
        return subprocess.run(
            ["bash", "-c", command],
            check=False,
            cwd=self.host.directory,
            env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with real_services.host() as host:
        shutil.copy(CA, host.directory)
        yield Stage(host)


def recipe(block: Block) -> tuple[str, str, list[str]]:
    """The service, the commands as one, and what the last of them prints."""
    calls = block.calls()
    command = "\n".join(text for text, _ in calls)
    _, name, port = ADDRESS.findall(command)[0]
    return ("proxy" if port == "6380" else name), command, calls[-1][1]


def judge(stage: Stage, command: str, port: int) -> list[str]:
    """What 80/20 comes to, which passes, and that 70/30 does not."""
    right = stage.typed(command, port)
    if "does not hold: " in right.stdout:  # of one in a thousand that are right this is said
        right = stage.typed(command, port)
    assert (right.returncode, right.stderr) == (0, ""), right.stdout + right.stderr
    if JUDGED in command:
        wrong = stage.typed(command.replace(JUDGED, "one=70,two=30"), port)
        assert wrong.returncode == 1, wrong.stdout + wrong.stderr
        assert "does not hold: " in wrong.stdout
    return right.stdout.replace(f"{LOOPBACK}:{port}", ADDRESS.findall(command)[0][0]).splitlines()


@pytest.mark.parametrize("block", RECIPES, ids=lambda block: f"line {block.line}")
def test_a_recipe_tells_80_20_from_70_30_behind_haproxy(stage: Stage, block: Block) -> None:
    """Exit status 0, and 1."""
    service, command, expected = recipe(block)
    said = judge(stage, command, stage.balanced[service])
    assert alike(said[-2:], expected[-2:])


@pytest.mark.parametrize("block", RECIPES, ids=lambda block: f"line {block.line}")
def test_a_recipe_tells_80_20_from_70_30_behind_envoy(stage: Stage, block: Block) -> None:
    """And prints what the page shows."""
    service, command, expected = recipe(block)
    upstreams = {version: (LOOPBACK, port) for version, port in stage.versions[service].items()}
    envoy = Envoy((LOOPBACK, 0), upstreams, {"one": 80, "two": 20})
    try:
        said = judge(stage, command, envoy.port)
    finally:
        envoy.stop()
    assert alike(said, expected), "\n".join(said)


def test_a_login_does_not_get_the_host_blocked(stage: Stage) -> None:
    """Banners alone do, after a hundred of them; no login is an aborted connection in the log."""
    banner, login = (
        recipe(block)[1].partition(" --name ")[0] for block in RECIPES if "mysql" in block.text
    )
    log = stage.host.directory / "mariadb-one.log"

    def asked(command: str, source: str) -> tuple[str, str]:
        more = f" -n 150 --concurrency 1 --source {source}"
        done = stage.typed(command.rstrip("\\\n ") + more, stage.versions["mysql"]["one"])
        lines = [line for line in log.read_text().splitlines() if source in line]
        return done.stdout, "\n".join(line for line in lines if "be resolved" not in line)

    said, logged = asked(login, "127.0.0.6")
    assert "failed" not in said
    assert logged == ""
    said, logged = asked(banner, "127.0.0.5")
    assert "Host '127.0.0.5' is blocked because of many connection errors" in said
    assert logged.count("closed normally without authentication") >= 100
