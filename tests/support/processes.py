"""A real echod process, and what is done to it from outside."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support.clients import Metrics, connect, get, take_nothing
from support.commands import Sockets, clean_environment, command
from support.waiting import PATIENCE, pause, until

OWN_ALLOCATOR = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
"""Whether this is a build without a GIL: it has a heap for each thread, and not the C library's."""


class Echod:
    """An echod process whose log and error output go to files."""

    def __init__(self, directory: Path, arguments: Sequence[str], **options: Any) -> None:
        self.log_path = directory / "stdout"
        self.error_path = directory / "stderr"
        environment = options.pop("env", clean_environment())
        with self.log_path.open("wb") as log, self.error_path.open("wb") as errors:
            self.process = subprocess.Popen(
                options.pop("command", command)(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=options.pop("stdout", log),
                stderr=errors,
                cwd=directory,  # not the checkout: the installed package is under test
                env=environment,
                **options,
            )

    def lines(self) -> list[str]:
        return self.log_path.read_text().splitlines()

    def events(self, name: str = "") -> list[dict[str, Any]]:
        events = [json.loads(line) for line in self.log_path.read_text().split("\n")[:-1]]
        return [event for event in events if event["event"].startswith(name)]

    def event(self, name: str) -> dict[str, Any]:
        """The first event whose text begins with ``name``; waits for it."""

        def look() -> list[dict[str, Any]]:
            has_ended = self.process.poll() is not None  # before the look, which may find its last
            found = self.events(name)
            assert found or not has_ended, self.error_path.read_text()
            return found

        return until(look)[0]

    @property
    def ports(self) -> list[int]:
        self.event("ready")
        return [event["port"] for event in self.events("listening on")]

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def metrics_port(self) -> int:
        return int(self.event("metrics on")["port"])

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
        return get(self.metrics_port, path, method, **headers)

    def metrics(self) -> Metrics:
        status, body, _ = self.get("/metrics")
        assert status == 200
        return Metrics(body.decode())

    def rss(self) -> int:
        """Resident memory in bytes."""
        return self._status("VmRSS") * 1024

    def peak_rss(self) -> int:
        """The most of it there has been."""
        return self._status("VmHWM") * 1024

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0])

    def open_files(self) -> int:
        """Without libffi's: newer ones open their own file when ctypes is first imported, which
        giving memory back does, and keep it.
        """
        targets = []
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                targets.append(os.readlink(descriptor))
        return sum("/libffi.so" not in target for target in targets)

    def open_files_at_rest(self) -> int:
        """The same once what has ended is closed, as a scrape's connection is after its client has
        the answer: the number that stays for a while.
        """
        before = None
        while (now := self.open_files()) != before:
            before = now
            pause(0.2, "time for the process to close what has ended")
        return now

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def freeze(self) -> None:
        """Stands still until ``thaw``; connections and signals wait meanwhile."""
        self.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def stop(self) -> dict[str, Any]:
        """Ends it in order and gives its last event."""
        self.terminate()
        assert self.wait() == 0
        assert self.error_path.read_text() == ""
        last = self.events()[-1]
        assert last["event"] == "stopped"
        return last

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            finally:
                self.process.kill()
        assert "Traceback" not in self.error_path.read_text()


Start = Callable[..., Echod]
"""The fixture ``start``: options, and ports, prefix, command, env, stdout by name."""


def start_with_prefix(start: Start, variables: dict[str, str], prefix: bytes, given: str) -> Echod:
    """Starts echod with a prefix that may be no text, as an ``argument`` or as its variable."""
    words: list[Any] = command("0")
    environment: dict[Any, Any] = {**variables, "ECHOD_METRICS_PORT": "none"}
    if given == "argument":
        words.append(prefix)
    else:
        environment[b"ECHOD_PREFIX"] = prefix
    return start(command=lambda *_: words, env=environment)


def start_with(
    start: Start,
    sockets: Sockets,
    *arguments: str,
    words: Sequence[str] = (),
    **variables: str,
) -> Echod:
    return start(
        command=lambda *_: sockets.command(*arguments, words=words),
        env=clean_environment(**{"ECHOD_PREFIX": "one"} | variables),
        pass_fds=sockets.descriptors,
    )


def scrape(echod: Echod, path: str = "/metrics") -> bytes:
    """A page of its metrics port, which must be there."""
    status, body, _ = echod.get(path)
    assert status == 200
    return body


@contextmanager
def pending(echod: Echod) -> Iterator[socket.socket]:
    """A client that reads nothing, with more pending replies than the kernel buffers."""
    with connect(echod.port, receive_buffer=4096) as client:
        take_nothing(client, echod.metrics)
        yield client


@contextmanager
def stopwatch(echod: Echod, began: float | None = None) -> Iterator[Callable[[], float]]:
    """Seconds from now, or from ``began``, until the end of the process, which is reaped."""
    ends: list[float] = []
    began = time.monotonic() if began is None else began
    process = os.pidfd_open(echod.process.pid)

    def wait() -> None:
        select.select([process], [], [], PATIENCE)
        ends.append(time.monotonic())

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        yield lambda: ends[0] - began
        waiting.join()
    finally:
        waiting.join(PATIENCE)
        os.close(process)


@contextmanager
def without_descriptors(echod: Echod, limit: int | None = None) -> Iterator[None]:
    """Meanwhile the process, once ready, may not open another file; afterwards as before.

    ``limit`` is for a process whose files come and go: what it has open now may be more than what
    it needs a moment later.
    """
    echod.event("ready")
    pid = echod.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    limit = echod.open_files_at_rest() if limit is None else limit
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it may have ended already
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def holds_back(pid: int, number: int) -> bool:
    """Whether a process has blocked a signal."""
    blocked = Path(f"/proc/{pid}/status").read_text().partition("SigBlk:")[2].split()[0]
    return bool(int(blocked, 16) >> (number - 1) & 1)


def insist(echod: Echod) -> None:
    """Sends SIGINT so long after the first one that it forces the end."""
    deadline = time.monotonic() + PATIENCE
    while echod.process.poll() is None and time.monotonic() < deadline:
        pause(1.1, "SIGINT forces the end a second after the first")
        echod.process.send_signal(signal.SIGINT)


def repeat(process: subprocess.Popen[Any], number: int) -> None:
    """Sends a signal a few times within a millisecond, and again and again until the end."""
    for _ in range(3):
        process.send_signal(number)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(number)
        pause(0.0005, "signals one after the other")
