"""Child processes, with their output in a file, and the removal of such files."""

from __future__ import annotations

import itertools
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from echod.errors import SystemRefused

LOOK_SECONDS = 0.02
REMOVALS = 3
"""Attempts to remove a directory."""
LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""The lowest and the highest port that Linux gives to connections."""
LOWEST_PORT, TRIED_PORTS = 20_000, 20
"""Where ``free_port`` looks below them."""
_turns = itertools.count(secrets.randbelow(LOWEST_PORT))  # so that no call repeats another's port


class _Child(subprocess.Popen[bytes]):
    """A child process that is killed if its start fails after the fork."""

    def __init__(self, words: Sequence[str | Path], **options: Any) -> None:
        """Raises OSError."""
        try:
            super().__init__(words, **options)
        except BaseException:
            if getattr(self, "pid", None):
                self.kill()
                self.wait()
            raise


class Process:
    """A program, running until ``stop``. Its output goes to a file in ``directory``.

    It runs in its own session, so that Ctrl-C in the terminal reaches only the lab, which stops it.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str | Path],
        directory: Path,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("wb") as log:
            try:
                self._process = _Child(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environ,
                    start_new_session=True,
                )
            except OSError as error:
                raise SystemRefused(f"{name} cannot be started: {error.strerror}") from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, or minus the signal that killed it; None while it runs."""
        return self._process.poll()

    def check(self) -> None:
        """Raise SystemRefused, with the last line of its output, if it has ended."""
        status = self.status
        if status is not None:
            raise SystemRefused(f"{self.name} has ended with status {status}: {self.said()}")

    def wait_until(self, done: Callable[[], bool], seconds: float, problem: str) -> None:
        """Wait until ``done()`` is true. Raises SystemRefused if the process ends first, or with
        ``problem`` after ``seconds``.
        """
        deadline = monotonic() + seconds
        while monotonic() < deadline:
            self.check()
            if done():
                return
            sleep(LOOK_SECONDS)
        raise SystemRefused(f"{self.name} {problem} after {seconds:g} s")

    def said(self) -> str:
        """The last line of its output."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def stop(self, seconds: float) -> None:
        """Send SIGTERM, and SIGKILL after ``seconds``, or at once if SIGTERM cannot be sent."""
        with suppress(subprocess.TimeoutExpired, OSError):
            self._process.terminate()  # does nothing if it has ended
            self._process.wait(seconds)
        self._process.kill()
        self._process.wait()


def remove(directory: Path) -> None:
    """Remove a directory of temporary files, unless the system refuses it repeatedly."""
    for _ in range(REMOVALS):  # a file descriptor may be free the next time
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            break


def free_port() -> int:
    """A free port of the loopback address, if possible one that no connection gets meanwhile."""
    with suppress(OSError, ValueError, ZeroDivisionError):  # not Linux, or no room below them
        room = range(LOWEST_PORT, int(LOCAL_PORTS.read_text().split()[0]))
        for _ in range(TRIED_PORTS):
            port = room[next(_turns) % len(room)]
            with suppress(OSError), socket.create_server(("127.0.0.1", port)):
                return port
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
