"""What the tests share: a real echod process, clients, and a way to wait without luck."""

from __future__ import annotations

import fcntl
import http.client
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

PATIENCE = 60.0  # seconds: how long something that must happen may take on a busy machine
NEVER = 3600.0
"""Seconds: a time of echod's own that no test has the patience to wait for."""
ROOT = Path(__file__).parent.parent

Value = TypeVar("Value")


def until(look: Callable[[], Value], timeout: float = PATIENCE) -> Value:
    """The first true value of ``look``; fails when ``timeout`` seconds bring none."""
    deadline = time.monotonic() + timeout
    while not (value := look()):
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.005)
    return value


def soon(call: Callable[[], Value], seconds: float = 1.0, tries: int = 3) -> Value:
    """What ``call`` gives in ``seconds`` at most; a busy machine has a few tries."""
    took = []
    for _ in range(tries):
        began = time.monotonic()
        value = call()
        took.append(time.monotonic() - began)
        if took[-1] < seconds:
            return value
    raise AssertionError(f"took {took} s")


def clean_environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ECHOD_")}
    return kept | variables


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "echod", *arguments]


ALTERED = """
import importlib, json, mmap, runpy, struct, sys, time
path, constants = sys.argv[1:3]
del sys.argv[1:3]
if path:
    with open(path, "rb") as file:
        moved = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    real = time.monotonic
    time.monotonic = lambda: real() + struct.unpack("d", moved)[0]
for name, value in json.loads(constants).items():
    module, _, constant = name.rpartition(".")
    module = importlib.import_module(f"echod.{module}")
    assert hasattr(module, constant), name
    setattr(module, constant, value)
runpy.run_module("echod", run_name="__main__")
"""
"""Runs echod with other constants, and by a clock that can be moved from outside."""


def altered(clock: str = "", **constants: float) -> Callable[..., list[str]]:
    """For a command with other constants of modules, named like ``config__parsers__MAX=1``."""
    named = {name.replace("__", "."): value for name, value in constants.items()}
    return lambda *arguments: [sys.executable, "-c", ALTERED, clock, json.dumps(named), *arguments]


class Clock:
    """The monotonic clock of processes. It goes on as ever, and can be moved as well: so that what
    happens at which time need not be waited for, and does not depend on how busy the machine is.
    """

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(8))
        self._path = str(path)
        with path.open("r+b") as file:
            self._moved = mmap.mmap(file.fileno(), 8)

    def move(self, seconds: float) -> None:
        """Moves it on. The processes find out within a second."""
        self._moved[:] = struct.pack("d", struct.unpack("d", self._moved)[0] + seconds)

    def command(self, *arguments: str) -> list[str]:
        """That of a process which goes by it."""
        return self.altered()(*arguments)

    def altered(self, **constants: float) -> Callable[..., list[str]]:
        """The same with other constants."""
        return altered(self._path, **constants)


def with_open_files(
    limit: int, *arguments: str, by: Callable[..., list[str]] = command
) -> list[str]:
    """The command under an open-file limit of its own."""
    return ["/bin/sh", "-c", f'ulimit -n {limit}; exec "$0" "$@"', *by(*arguments)]


def call(
    directory: Path, words: list[str], pass_fds: Sequence[int] = (), /, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, outside the checkout."""
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        cwd=directory,
        env=clean_environment(**variables),
        timeout=PATIENCE,
        pass_fds=pass_fds,
        check=False,
    )


HAND_OVER = """
import os, sys
names, *rest = sys.argv[1:]
descriptors = [int(rest.pop(0)) for _ in filter(None, names.split(":"))]
for number, descriptor in enumerate(descriptors):
    os.dup2(descriptor, 100 + number)
for number, _ in enumerate(descriptors):
    os.dup2(100 + number, 3 + number)
os.environ.update(LISTEN_FDS=str(len(descriptors)), LISTEN_FDNAMES=names)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.execv(rest[0], rest)
"""
"""Passes descriptors on as systemd does: from 3 on, with names, for one process alone."""


class Sockets:
    """Bound sockets to be handed over, by name."""

    def __init__(self, **names: list[socket.socket]) -> None:
        self.named = [(name, one) for name, several in names.items() for one in several]

    @property
    def descriptors(self) -> list[int]:
        return [one.fileno() for _, one in self.named]

    def command(self, *arguments: str, words: Sequence[str] = ()) -> list[str]:
        """``words`` begin the command of the process that gets them, if it is not echod as such."""
        names = ":".join(name for name, _ in self.named)
        numbers = map(str, self.descriptors)
        return [sys.executable, "-c", HAND_OVER, names, *numbers, *(words or command()), *arguments]


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
        return until(lambda: self.events(name) or self._assert_running())[0]

    def _assert_running(self) -> list[dict[str, Any]]:
        assert self.process.poll() is None, self.error_path.read_text()
        return []

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


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: object) -> float:
        """The sum of a metric's samples that have these labels; there must be one."""
        wanted = {key: str(value) for key, value in labels.items()}.items()
        found = [
            value
            for (sample, having), value in self.samples.items()
            if sample == name and wanted <= dict(having).items()
        ]
        assert found, f"no sample of {name} with {labels}"
        return sum(found)


def get(
    port: int, path: str, method: str = "GET", host: str = "127.0.0.1", **headers: str
) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def scrape(echod: Echod, path: str = "/metrics") -> bytes:
    """A page of its metrics port, which must be there."""
    status, body, _ = echod.get(path)
    assert status == 200
    return body


def connect(port: int, host: str = "127.0.0.1", **options: int) -> socket.socket:
    """A connected client; ``receive_buffer`` bytes make it a slow reader's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM)
    client.settimeout(PATIENCE)
    if "receive_buffer" in options:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["receive_buffer"])
    try:
        client.connect((host, port))
    except OSError:
        client.close()
        raise
    return client


@contextmanager
def connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    try:
        for _ in range(count):
            clients.append(connect(port))  # noqa: PERF401  # closed even if one fails
        yield clients
    finally:
        for client in clients:
            client.close()


@contextmanager
def stopwatch(echod: Echod) -> Iterator[Callable[[], float]]:
    """Seconds from now to the end of the process, measured whatever else goes on. At the end
    it is waited for.
    """
    ends: list[float] = []
    began, process = time.monotonic(), os.pidfd_open(echod.process.pid)

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
def without_descriptors(echod: Echod) -> Iterator[None]:
    """Meanwhile the process, once ready, may not open another file; afterwards as before."""
    echod.event("ready")
    pid = echod.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (echod.open_files(), before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it may have been told to end
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def holds_back(pid: int, number: int) -> bool:
    """Whether a process has blocked a signal."""
    blocked = Path(f"/proc/{pid}/status").read_text().partition("SigBlk:")[2].split()[0]
    return bool(int(blocked, 16) >> (number - 1) & 1)


def insist(echod: Echod) -> None:
    """Sends SIGINT so long after the first one that it forces the end."""
    deadline = time.monotonic() + PATIENCE
    while echod.process.poll() is None and time.monotonic() < deadline:
        time.sleep(1.1)
        echod.process.send_signal(signal.SIGINT)


def repeat(process: subprocess.Popen[Any], number: int) -> None:
    """Sends a signal a few times within a millisecond, and again and again until the end."""
    for _ in range(3):
        process.send_signal(number)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(number)
        time.sleep(0.0005)


def read_to_end(client: socket.socket) -> bytes:
    """Everything up to the end of the stream; a reset raises ConnectionResetError."""
    pieces = []
    while piece := client.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def read_exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        assert piece, f"ended after {data!r}"
        data += piece
    return data


def ask(client: socket.socket, line: bytes, prefix: bytes = b"one") -> None:
    """One line and its reply, compared."""
    client.sendall(line)
    assert read_exactly(client, len(prefix) + 1 + len(line)) == prefix + b" " + line


def converse(port: int, data: bytes, host: str = "127.0.0.1") -> bytes:
    """Sends ``data``, half-closes, and gives everything that comes back."""
    with connect(port, host) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return read_to_end(client)


@contextmanager
def pending(echod: Echod) -> Iterator[socket.socket]:
    """A client that takes nothing, and to whom more replies are due than the kernel keeps."""
    with connect(echod.port, receive_buffer=4096) as client:
        take_nothing(client, echod.metrics)
        yield client


def take_nothing(client: socket.socket, metrics: Callable[[], Metrics]) -> None:
    """Has half a megabyte of replies due, of which some wait in echod when it returns."""
    client.sendall(b"\n" * 100_000)
    until(lambda: metrics()("echod_buffered_bytes") > 0)


def unsent_bytes(client: socket.socket) -> int:
    """How much the other side has not yet acknowledged; the end of the stream counts for one."""
    return int(struct.unpack("i", fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)))[0])


def jam(stuck: socket.socket) -> None:
    """Sends until replies are due that nobody takes."""
    stuck.settimeout(0.3)
    with suppress(TimeoutError):
        while True:
            stuck.sendall(b"x" * 100_000 + b"\n")
    stuck.settimeout(PATIENCE)


def reset(client: socket.socket) -> None:
    """Closes with a true RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def expected(data: bytes, prefix: bytes = b"one") -> bytes:
    """The model: what a server has to answer to ``data``."""
    return b"".join(prefix + b" " + line + b"\n" for line in data.split(b"\n")[:-1])


Start = Callable[..., Echod]
"""The fixture ``start``: options, and ports, prefix, command, env, stdout by name."""


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
