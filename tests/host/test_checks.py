"""TCP checks as load balancers and people make them: HAProxy, nc."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support import Start, converse, until

from echod.lab.processes import Process, free_port

CLOSED = "echod_connections_closed_total"
HAPROXY = """
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen echo
  bind 127.0.0.1:{port}
  option tcp-check
  tcp-check connect linger
  server v1 127.0.0.1:{one} check inter 100ms
  server v2 127.0.0.1:{two} check inter 100ms
"""


@pytest.fixture(scope="module", autouse=True)
def clients() -> None:
    for client, package in (("nc", "netcat-openbsd"), ("haproxy", "haproxy")):
        assert shutil.which(client), f"{client} is missing: apt-get install {package}"


def test_haproxy_s_checks_are_unused_and_its_clients_are_not(start: Start, tmp_path: Path) -> None:
    """Each server is asked again and again; what comes through has a reply and an end."""
    servers = [start("--service-version", "v1"), start("--service-version", "v2")]
    port = free_port()
    path = tmp_path / "haproxy.cfg"
    path.write_text(HAPROXY.format(port=port, one=servers[0].port, two=servers[1].port))
    haproxy = Process("haproxy", ["haproxy", "-db", "-f", str(path)], tmp_path)
    try:
        until(lambda: all(one.metrics()(CLOSED, reason="unused") >= 5 for one in servers))
        for _ in range(10):
            assert converse(port, b"x\n") == b"one x\n"
    finally:
        haproxy.stop(10)
    until(lambda: all(one.metrics()("echod_connections_active") == 0 for one in servers))
    scrapes = [one.metrics() for one in servers]
    assert sum(scrape("echod_connections_opened_total") for scrape in scrapes) == sum(
        scrape(CLOSED, reason="unused") + scrape("echod_requests_total") for scrape in scrapes
    )
    assert sum(scrape("echod_requests_total") for scrape in scrapes) == 10


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_scan_by_nc_is_unused(start: Start, host: str) -> None:
    """It finds the port open, and no event in the log."""
    echod = start()
    words = ["nc", "-z", host, str(echod.port)]
    assert subprocess.run(words, timeout=20, check=False).returncode == 0
    until(lambda: echod.metrics()(CLOSED, reason="unused") == 1)
    assert echod.events("connection closed") == []
