"""The shell that a page is typed into, with what it started by ``&``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from support import until

from cluster.asking import is_taken

COMMAND_SECONDS = 300.0
FORWARD_SECONDS = 60.0
FORWARD = re.compile(r"^(\w+).*port-forward \S+ (\d+)(?::\d+)?.*&$", re.MULTILINE)
"""A command that forwards a port in the background: its first word and the port."""
KILL = re.compile(r"^kill %(\w+)$", re.MULTILINE)


class Shell:
    """A bash with job control, as at a terminal: ``kill %name`` ends a job with all it has
    started.
    """

    def __init__(self, directory: Path, checkout: Path) -> None:
        self._directory = directory
        self._number = 0
        self._forwards: dict[str, int] = {}
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # the ends of jobs are told there
            cwd=checkout,
            env=os.environ | {"LC_ALL": "C.UTF-8", "TZ": "UTC"},
            start_new_session=True,
        )
        self._type("set -m")

    def run(self, command: str, *, strict: bool) -> tuple[int, list[str]]:
        """A command's exit status and lines. What it forwards can be used when it returns, and a
        port whose forward it has ended is free.
        """
        self._number += 1
        typed, said, status = (
            self._directory / f"{self._number}.{kind}" for kind in ("sh", "out", "status")
        )
        typed.write_text(f"set -e\n{command}\nset +e\n" if strict else command)
        self._type(
            f"source {typed} </dev/null >{said} 2>&1; echo $? >{status}.new;"
            f" jobs -pr >{self._jobs}; mv {status}.new {status}"
        )

        def ended() -> bool:
            assert self._process.poll() is None, f"{command}\nended the shell:\n{said.read_text()}"
            return status.exists()

        until(ended, COMMAND_SECONDS)
        for name, port in FORWARD.findall(command):
            self._forwards[name] = int(port)
            self._wait(int(port), forwarded=True)
        for name in KILL.findall(command):
            if name in self._forwards:
                self._wait(self._forwards.pop(name), forwarded=False)
        return int(status.read_text()), said.read_text().splitlines()

    @property
    def jobs(self) -> list[int]:
        """The process groups of what was started by ``&`` and has not ended."""
        return [int(word) for word in self._jobs.read_text().split()] if self._number else []

    @staticmethod
    def _wait(port: int, *, forwarded: bool) -> None:
        try:
            until(lambda: is_taken(port) is forwarded, FORWARD_SECONDS)
        except AssertionError:
            state = "not forwarded" if forwarded else "still forwarded"
            raise AssertionError(f"port {port} is {state} after {FORWARD_SECONDS:g} s") from None

    def close(self) -> None:
        """Ends the shell and all that it has started: each command has a process group of its own,
        and all have the shell's session.
        """
        while members := [pid for pid in _processes() if _session(pid) == self._process.pid]:
            for pid in members:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()

    @property
    def _jobs(self) -> Path:
        return self._directory / "jobs"

    def _type(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()


def _processes() -> list[int]:
    """All that live: one that has ended may wait for long until its parent looks."""
    said = subprocess.run(
        ["ps", "-axo", "pid=,stat="],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
    ).stdout
    rows = map(str.split, said.splitlines())
    return [int(pid) for pid, state, *_ in rows if not state.startswith("Z")]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:  # it has ended, or is not ours to ask
        return 0
