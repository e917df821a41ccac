"""An echod process whose log goes to a pipe, and what is seen of it from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from support import Clock, Sockets, clean_environment, pause

from inject.injector import Control

HANG_SECONDS = 120.0
"""After that a wait in a life is over: something hangs."""

LATE_LOG_SECONDS = 1.0
"""Longest time in which the log tells of a start: then an event was lost."""


class Hang(Exception):
    """What must happen has not happened in time."""


class Refused(Exception):
    """The process has ended before it was ready."""


def wait_for(look: Callable[[], Any], what: str, seconds: float = HANG_SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := look()):
        if time.monotonic() > deadline:
            raise Hang(what)
        pause(0.002, "looks again")
    return value


class Manager:
    """A service manager: what it is told."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.told: list[str] = []

    def read(self) -> list[str]:
        with suppress(BlockingIOError):
            while True:
                self.told += self.socket.recv(4096).decode().split("\n")
        return self.told

    def close(self) -> None:
        self.socket.close()


class Process:
    """One echod that is injected into."""

    def __init__(
        self,
        directory: Path,
        arguments: Sequence[str],
        control: Control,
        sockets: Sockets | None,
        by: Callable[..., list[str]] | None = None,
        **variables: str,
    ) -> None:
        """``by`` makes the command; otherwise it goes by a clock that can be moved."""
        self.clock = Clock(directory / "clock")
        self.manager = Manager(directory / "notify")
        self._errors = directory / "stderr"
        self._log, writing = os.pipe()
        os.set_blocking(self._log, False)
        self._text = b""
        variables |= {"NOTIFY_SOCKET": str(directory / "notify")} | control.variables
        words = (by or self.clock.command)(*arguments)
        if sockets:
            words = sockets.command(*arguments, words=self.clock.command())
            variables["ECHOD_PREFIX"] = "one"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=errors,
                cwd=directory,
                env=clean_environment(**variables),
                pass_fds=sockets.descriptors if sockets else (),
            )
        os.close(writing)
        self.pid = self.process.pid

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._log)
        self.manager.close()

    # What it says.

    def output(self) -> str:
        with suppress(BlockingIOError):
            while piece := os.read(self._log, 1 << 16):
                self._text += piece
        return self._text.decode()

    def log(self) -> list[str]:
        """The lines that are whole."""
        return self.output().split("\n")[:-1]

    def events(self) -> list[dict[str, Any]]:
        """All that are whole: of one, the write may have failed in the middle."""
        found = []
        for line in self.log():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    @property
    def errors(self) -> str:
        return self._errors.read_text(errors="replace")

    # How it is.

    def ready(self) -> None:
        """Waits until it is, by the log or by what the service manager is told."""

        def look() -> bool:
            if self.process.poll() is not None:
                raise Refused
            if "READY=1" in self.manager.read():
                return True
            return any('"event": "ready"' in line for line in self.log())

        wait_for(look, "ready")

    def descriptors(self) -> list[str]:
        """What they are open on, but libffi's own file."""
        found = []
        for one in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(re.sub(r"\d+", "", os.readlink(one)))
        return sorted(one for one in found if "libffi" not in one)

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def listening(self) -> set[int]:
        """The ports of its listening sockets."""
        return listening(self.pid)

    def ports(self) -> tuple[list[int], int]:
        """The echo ports and the metrics port, one of whose events the log may have lost."""
        deadline = time.monotonic() + LATE_LOG_SECONDS
        while True:
            if self.process.poll() is not None:
                raise Refused
            found = self.listening()
            ports = {
                name: [one["port"] for one in self.events() if one["event"].startswith(name)]
                for name in ("listening on", "metrics on")
            }
            echo, metrics = ports.values()
            missing = sorted(found - {*echo, *metrics})
            if metrics and not missing:
                return echo, metrics[0]
            if len(missing) == 1 and time.monotonic() > deadline:
                return (echo + missing, metrics[0]) if metrics else (echo, missing[0])
            if time.monotonic() > deadline + HANG_SECONDS:
                raise Hang("the ports in the log")
            pause(0.002, "looks again")

    # Its end.

    def terminate(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        try:
            return self.process.wait(HANG_SECONDS)
        except subprocess.TimeoutExpired:
            raise Hang("the end") from None


def listening(pid: int) -> set[int]:
    """The ports of a process's listening sockets."""
    inodes = set()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(one)))
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports
