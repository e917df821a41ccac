"""Every shell block of the documents, typed as a reader would, on a host of its own.

Each page gets a copy of the checkout and a network namespace, so that its ports are free and are
nobody else's. Its blocks run in one shell from top to bottom, and what they print has the shape
that the page shows. What needs a cluster, docker or root says so in its mark and is counted.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import ROOT, until
from support.pages import SHELL, Block, alike, blocks, marked, pages

BY_CI = "make test"
"""The one command that would run this test within itself: .ci/run is its test."""
COMMAND_SECONDS = 120.0
QUIET_SECONDS = 0.5
ESCAPES = re.compile(r"\x1b\[[\d;]*[A-Za-z]")


def runnable(page: Path) -> list[Block]:
    """The shell blocks that a test can run."""
    shell = (one for one in blocks(page) if one.language in SHELL)
    return [one for one in shell if not one.needs and one.text != BY_CI]


# A translation has the same blocks: tests/qa/test_pages.py.
PAGES = [page for page in pages() if runnable(page) and ".zh-CN" not in page.name]


class Host:
    """A checkout with its programs installed, and a network with nothing but a loopback."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.checkout = directory / "echod"
        made = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", ".hypothesis")
        shutil.copytree(ROOT, self.checkout, ignore=made)
        programs = self.checkout / ".venv"
        programs.mkdir()
        (programs / "bin").symlink_to(Path(sys.executable).parent)
        for stamp in ("run", "lab", "test"):  # newer than every source: nothing is installed
            (programs / f"{stamp}.stamp").touch()
        (directory / "tmp").mkdir()
        self.environment = {
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "PATH": f"{programs / 'bin'}:{os.environ['PATH']}",
            "TERM": "xterm",
            "TMPDIR": str(directory / "tmp"),
        }
        words = ["unshare", "--net", "bash", "-c", "ip link set lo up && exec bash"]
        self.shell = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            cwd=self.checkout,
            env=self.environment,
            start_new_session=True,
        )
        self.number = 0
        self.run("true", strict=True)  # in its network: terminals enter whatever the shell is in

    def run(self, command: str, *, strict: bool) -> tuple[int, list[str]]:
        """A command's exit status and lines, in the shell that keeps its variables and jobs."""
        self.number += 1
        typed, said, status = (
            self.directory / f"{self.number}.{kind}" for kind in ("sh", "out", "status")
        )
        typed.write_text(f"set -e\n{command}\nset +e\n" if strict else command)
        line = f"source {typed} </dev/null >{said} 2>&1; echo $? >{status}.new"
        assert self.shell.stdin
        self.shell.stdin.write(f"{line}; mv {status}.new {status}\n".encode())
        self.shell.stdin.flush()

        def ended() -> bool:
            assert self.shell.poll() is None, f"{command}\nended the shell:\n{said.read_text()}"
            return status.exists()

        until(ended, COMMAND_SECONDS)
        return int(status.read_text()), said.read_text().splitlines()

    def listens(self) -> bool:
        """Whether a socket of this host listens: 0A is the state LISTEN, see proc_net_tcp(5)."""
        tables = (Path(f"/proc/{self.shell.pid}/net/{name}") for name in ("tcp", "tcp6"))
        rows = (row.split() for table in tables for row in table.read_text().splitlines())
        return any(row[3] == "0A" for row in rows)

    def close(self) -> None:
        assert self.shell.stdin
        self.shell.stdin.close()
        os.killpg(self.shell.pid, signal.SIGKILL)
        self.shell.wait()


class Terminal:
    """One more terminal of the same host, with a command that stays in its foreground."""

    def __init__(self, host: Host, command: str) -> None:
        inside, outside = pty.openpty()
        words = ["nsenter", f"--net=/proc/{host.shell.pid}/ns/net", "bash", "-c", command]
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=outside,
            stderr=outside,
            cwd=host.checkout,
            env=host.environment,
            start_new_session=True,
        )
        os.close(outside)
        self.said = bytearray()
        self.reader = threading.Thread(target=self.read, args=[inside])
        self.reader.start()

    def read(self, descriptor: int) -> None:
        """Takes all that is printed, so that no command waits for a reader."""
        with os.fdopen(descriptor, "rb", buffering=0) as terminal:
            try:
                while chunk := terminal.read(65536):
                    self.said += chunk
            except OSError:  # the other end is closed
                pass

    def lines(self) -> list[str]:
        """As they stand: what a line's end was written over is gone."""
        lines = ESCAPES.sub("", self.said.decode().replace("\r\n", "\n")).split("\n")
        return [line.rpartition("\r")[2] for line in lines[:-1]]

    def wait_for(self, expected: list[str]) -> None:
        """Until it has printed that, and for a moment nothing else."""
        printed_at = time.monotonic()
        printed = 0

        def shown() -> bool:
            nonlocal printed, printed_at
            assert self.process.poll() is None, self.lines()
            if len(self.said) != printed:
                printed, printed_at = len(self.said), time.monotonic()
            quiet = time.monotonic() - printed_at > QUIET_SECONDS
            return bool(printed) and quiet and alike(self.lines(), expected)

        try:
            until(shown, COMMAND_SECONDS)
        except AssertionError:
            raise AssertionError("\n".join(self.lines())) from None

    def interrupt(self) -> None:
        """Ctrl-C, and everything that it started has ended."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(30)
        self.reader.join(30)
        assert not self.reader.is_alive(), "something still holds the terminal"


def check(host: Host, page: Path, block: Block) -> None:
    """Types a block's commands and compares what they print."""
    for command, expected in block.calls():
        status, said = host.run(command, strict=block.language == "sh")
        shown = "\n".join(said)
        where = f"{page.name}:{block.line}: {command}\nexit status {status}, printed:\n{shown}"
        if block.language == "sh":
            assert status == 0, where
        else:
            assert alike(said, expected), where


def walk(host: Host, page: Path) -> None:
    """Runs the blocks of a page that can be run."""
    section = 0
    terminals: list[Terminal] = []
    try:
        for block in runnable(page):
            if block.section != section:
                section = block.section
                while terminals:
                    terminals.pop().interrupt()
            if block.stays:
                ((command, expected),) = block.calls()
                terminals.append(Terminal(host, command))
                if block.language == "sh":  # its output is not known
                    until(host.listens, COMMAND_SECONDS)
                terminals[-1].wait_for(expected)
            else:
                check(host, page, block)
    except AssertionError as error:
        others = [line for terminal in terminals for line in terminal.lines()]
        raise AssertionError("\n".join([str(error), "other terminals:", *others])) from error
    finally:
        for terminal in terminals:
            terminal.interrupt()


@contextmanager
def host_in(directory: Path) -> Iterator[Host]:
    directory.mkdir()
    made = Host(directory)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_print_what_it_shows(page: Path, tmp_path: Path) -> None:
    """Its commands succeed, and print what it shows; nothing of them is left."""
    for number in range(2):
        try:
            with host_in(tmp_path / str(number)) as host:
                walk(host, page)
                assert list((host.directory / "tmp").iterdir()) == []
        except AssertionError as error:
            # One judgement in a thousand rejects a split that is right.
            if number or "does not hold" not in str(error):
                raise
        else:
            return


def test_every_block_of_a_page_is_run_or_counted_by_what_it_needs(
    capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config
) -> None:
    """The rest is counted by what it needs, and what CI itself runs is in .ci/run."""
    counted = Counter(block.needs or "nothing" for _, block in marked())
    assert counted["nothing"] > 15
    assert f" {BY_CI} " in (ROOT / ".ci/run").read_text()
    needs = ", ".join(f"{kind} {count}" for kind, count in sorted(counted.items()))
    with capsys.disabled():
        writer = pytestconfig.get_terminal_writer()
        writer.line(f"\nshell blocks of the documents by what they need: {needs}")
