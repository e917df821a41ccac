"""The clients that people follow the tutorials with: nc, and bash alone."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from support import Echod


def shell(script: str, shell: str = "bash") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [shell, "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )


@pytest.fixture(scope="module", autouse=True)
def clients() -> None:
    for client, package in (("nc", "netcat-openbsd"), ("busybox", "busybox")):
        assert shutil.which(client), f"{client} is missing: apt-get install {package}"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_loop_of_the_tutorial_prints_the_reply_and_ends(shared_echod: Echod, host: str) -> None:
    """As istio.io has it: the date, a second's pause, and nc waits for the end of the stream."""
    # busybox is what the tutorial's client pod has. (Debian's nc ends at the server's end only:
    # with -N it shuts its side down as busybox does.)
    for client in ("busybox nc", "nc -N"):
        result = shell(f"(date; sleep 1) | {client} {host} {shared_echod.port}")
        assert result.stdout.startswith(b"one ")
        assert result.stdout.count(b"\n") == 1
        assert (result.returncode, result.stderr) == (0, b"")


def test_the_authorization_task_gets_exactly_its_text(shared_echod: Echod) -> None:
    """It compares the output as a whole."""
    port = shared_echod.port
    assert shell(f'echo "port 9000" | nc -N 127.0.0.1 {port}').stdout == b"one port 9000\n"
    assert shell(f"printf 'x\\n' | nc -q1 127.0.0.1 {port}").stdout == b"one x\n"


def test_bash_alone_is_a_client(shared_echod: Echod) -> None:
    """/dev/tcp, one line there and back, and an abrupt close."""
    port = shared_echod.port
    script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo hi >&3; head -n1 <&3"
    assert shell(script).stdout == b"one hi\n"


def test_a_client_that_reads_one_line_gets_it(shared_echod: Echod) -> None:
    """The rest of what it asked for is its own affair."""
    script = f"seq 100000 | nc 127.0.0.1 {shared_echod.port} | head -n1"
    assert shell(script).stdout == b"one 1\n"


def test_ten_thousand_lines_through_nc_come_back_in_order(shared_echod: Echod) -> None:
    """A pipe into nc is a half-close behind many lines."""
    script = f"seq 10000 | nc -N 127.0.0.1 {shared_echod.port} | cksum"
    script += "; seq 10000 | sed 's/^/one /' | cksum"
    first, second = shell(script).stdout.splitlines()
    assert first == second
