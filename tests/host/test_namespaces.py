"""What takes a kernel of one's own: PID 1, a host without IPv6, an unprivileged user."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support import Start, command, converse, holds_back, until

NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child"]


@pytest.fixture(scope="module", autouse=True)
def root() -> None:
    assert os.geteuid() == 0, "these tests need root: namespaces of their own"


def child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return int(until(lambda: children.read_text().split())[0])


def in_network(directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in a network namespace of its own."""
    return subprocess.run(
        ["unshare", "--net", "bash", "-c", script],
        capture_output=True,
        text=True,
        cwd=directory,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_as_pid_1_echod_drains_and_exits_with_0(start: Start, number: int) -> None:
    """The kernel ignores signals for PID 1 that it has no handler for."""
    echod = start(command=lambda *more: [*NAMESPACE, *command(*more)])
    assert echod.event("starting")["pid"] == 1
    assert converse(echod.port, b"x\n") == b"one x\n"
    with socket.create_connection(("127.0.0.1", echod.port)):
        os.kill(child_of(echod.process.pid), number)
        assert echod.wait() == 0
    last = echod.events()[-1]
    assert (last["event"], last["totals"][0]["requests"]) == ("stopped", 1)


def test_as_pid_1_a_stop_that_is_repeated_still_drains(start: Start) -> None:
    """As anywhere else; and so does one that comes before it is ready, when the kernel would
    otherwise drop it.
    """
    echod = start("--drain-delay", "3", command=lambda *more: [*NAMESPACE, *command(*more)])
    pid = child_of(echod.process.pid)
    # unshare's child blocks it too, until it becomes Python; what comes then, the kernel drops.
    until(lambda: Path(f"/proc/{pid}/comm").read_text() != "unshare\n")
    until(lambda: holds_back(pid, signal.SIGTERM))
    os.kill(pid, signal.SIGTERM)
    echod.event("draining")
    os.kill(pid, signal.SIGTERM)
    assert echod.wait() == 0
    assert echod.events()[-1]["event"] == "stopped"


def test_on_a_host_without_ipv6_echod_serves_ipv4(tmp_path: Path) -> None:
    """:: is the default, and no reason not to start. (No AF_INET6 here: a seccomp-like stand-in
    is a kernel whose IPv6 is disabled for every interface, loopback included.)"""
    script = f"""
        ip link set lo up
        sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1
        {sys.executable} -m echod 9000 one > log & pid=$!
        for _ in $(seq 200); do grep -q '"ready"' log && break; sleep 0.05; done
        echo hello | nc -q1 127.0.0.1 9000
        {sys.executable} -m echod health
        kill $pid; wait $pid; echo "status $?"
    """
    result = in_network(tmp_path, script)
    assert result.stdout.splitlines() == ["one hello", "ready", "status 0"], result.stderr


def test_without_the_privilege_a_low_port_is_refused_by_name() -> None:
    """One line, exit status 1."""
    script = f"""
        ip link set lo up
        sysctl -qw net.ipv4.ip_unprivileged_port_start=1024
        exec setpriv --inh-caps=-all \\
          --bounding-set=-all {sys.executable} -m echod 7 one
    """
    result = in_network(Path("/"), script)
    assert result.returncode == 1
    assert "PORTS 7: cannot listen on [::]:7: Permission denied" in result.stderr
    assert result.stderr.count("\n") == 1


def printed(directory: Path, script: str) -> list[str]:
    """What a script prints that has no error output."""
    result = in_network(directory, script)
    assert result.stderr == ""
    return result.stdout.splitlines()


def test_a_host_with_other_privileged_ports_is_named(tmp_path: Path) -> None:
    """The number that holds on this host, below 1024 and above; the first free port serves."""
    unprivileged = "setpriv --inh-caps=-all --bounding-set=-all"
    lines = printed(
        tmp_path,
        f"""
        ip link set lo up
        sysctl -qw net.ipv4.ip_unprivileged_port_start=2000
        for port in 80 1999; do
          {unprivileged} {sys.executable} -m echod $port one --metrics-port none 2>&1
        done
        {unprivileged} {sys.executable} -m echod 2000 one --metrics-port none > log & pid=$!
        for _ in $(seq 400); do grep -sq '"ready"' log && break; sleep 0.05; done
        echo hello | nc -q1 ::1 2000
        kill $pid; wait $pid; echo "status $?"
        """,
    )
    reason = "ports below 2000 (net.ipv4.ip_unprivileged_port_start) need the capability"
    assert [reason in line for line in lines] == [True, True, False, False]
    assert lines[2:] == ["one hello", "status 0"]


@pytest.mark.parametrize("zone", ["va", "$(ip -o link show va | cut -d: -f1)"])
def test_a_link_local_address_has_its_zone_by_name_or_by_number(tmp_path: Path, zone: str) -> None:
    """For both ports, for the health check, and for clients from that address."""
    address = f"fe80::ff:fe00:1%{zone}"
    echod = f"{sys.executable} -m echod"
    lines = printed(
        tmp_path,
        f"""
        ip link set lo up
        ip link add va type veth peer name vb
        ip link set va address 02:00:00:00:00:01 up; ip link set vb up
        until ip -6 addr show dev va | grep -q fe80; do sleep 0.05; done
        while ip -6 addr show tentative | grep -q fe80; do sleep 0.05; done
        {echod} 9000 one --address {address} --metrics-address {address} > log & pid=$!
        for _ in $(seq 400); do grep -sq '"ready"' log && break; sleep 0.05; done
        grep -o 'listening on [^,]*' log
        {echod} health --metrics-address {address}
        {echod} probe "[{address}]:9000" -n 3 --source {address} | grep -o '^one *3'
        kill $pid; wait $pid; echo "status $?"
        """,
    )
    assert [" ".join(line.split()) for line in lines] == [
        "listening on [fe80::ff:fe00:1%va]:9000",
        "ready",
        "one 3",
        "status 0",
    ]
