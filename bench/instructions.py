"""User instructions of echod per line and per connection, counted by valgrind's callgrind.

This figure repeats to 1 % even on a busy machine. It excludes the kernel, whose share of a line is
larger, and the effects of caches.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench import report
from bench.peers import ECHOD, HERE, PREFIX
from bench.problems import Failed, NotHere
from bench.running import end, environment
from echod.lab.processes import free_port

LINE = b"hello, world 1234\n"
REPLY = PREFIX.encode() + b" " + LINE
CONNECTIONS = 64
PIPELINES, PIPELINED = 16, 32
AT_ONCE = 8  # connections that begin together
CONNECTION_ROUNDS = 50
"""Rounds of connections in a chunk: with 10 of them, the connections that one chunk counts for the
next made chunks differ by a third, and their median by 4 %."""
CHUNKS = 9
"""Number of repetitions, of which the median is taken: some contain ticks of the clock, and the end
of one may be counted with the next."""
START_SECONDS, ANSWER_SECONDS = 120.0, 60.0

FIGURES = {
    "line-64": "line, 64 connections",
    "line-1": "line, 1 connection",
    "pipelined": f"line, {PIPELINES} connections with {PIPELINED} lines in flight",
    "connection": "connection: connect, one line, close",
}


class Counted:
    """An echod under callgrind, which counts only between ``zero`` and ``count``."""

    def __init__(self, python: str, directory: Path) -> None:
        valgrind = shutil.which("valgrind")
        if not valgrind or not shutil.which("vgdb"):
            raise NotHere("--instructions needs valgrind")
        self._directory = directory
        self.port = free_port()
        # Without events of closed connections, whose number in the log depends on time.
        options = ("--metrics-port", "0", "--log-level", "warning")
        words = [
            *(valgrind, "--tool=callgrind", f"--callgrind-out-file={directory}/out"),
            *(python, *ECHOD[:2], str(self.port), PREFIX, *options),
        ]
        with (directory / "err").open("wb") as errors:
            self.process = subprocess.Popen(  # noqa: S603
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=directory,
                env=environment() | _borrowed(python),
            )
        self._until_ready()

    def _until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError):
                self.connect().close()
                return
            time.sleep(0.1)
        said = (self._directory / "err").read_text(errors="replace").strip().splitlines()
        self.close()
        raise Failed(f"echod does not start under callgrind: {said[-1] if said else 'no output'}")

    def connect(self) -> socket.socket:
        """A new connection."""
        return socket.create_connection(("127.0.0.1", self.port), ANSWER_SECONDS)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Within this block, echod receives all events of clients at once."""
        self.process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + ANSWER_SECONDS
        while set(self._states()) != {"T"}:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise Failed("echod under callgrind cannot be suspended")
            time.sleep(0.0002)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def _states(self) -> Iterator[str]:
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(OSError):
                yield (task / "stat").read_text().rpartition(")")[2].split()[0]

    def zero(self) -> None:
        """Start counting."""
        self._command("zero")

    def count(self) -> int:
        """The number of instructions since ``zero``."""
        before = set(self._directory.iterdir())
        self._command("dump")
        new = [one for one in self._directory.iterdir() if one not in before]
        found = [re.search(r"^totals: (\d+)", one.read_text(), re.MULTILINE) for one in new]
        return sum(int(one[1]) for one in found if one)

    def _command(self, word: str) -> None:
        subprocess.run(  # noqa: S603
            ["vgdb", f"--pid={self.process.pid}", word],  # noqa: S607
            capture_output=True,
            timeout=ANSWER_SECONDS,
            check=True,
        )

    def close(self) -> None:
        """End it."""
        end(self.process, ANSWER_SECONDS)


def _borrowed(python: str) -> dict[str, str]:
    """Another interpreter uses the packages of this environment, which are pure Python."""
    more = {} if python == sys.executable else {"PYTHONPATH": sysconfig.get_path("purelib")}
    return more | {"PYTHONHASHSEED": "0"}


def interpreters() -> dict[str, str]:
    """Paths of interpreters by description: the running one, and the system's if it differs and is
    suitable.
    """
    found = {}
    for python in (sys.executable, "/usr/bin/python3"):
        about = _described(python)
        if about and about not in found:
            found[about] = python
    return found


def _described(python: str) -> str:
    """The description of an interpreter; empty if it is none, or too old."""
    words = [python, str(HERE / "interpreter.py")]
    try:
        result = subprocess.run(words, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """The table by interpreter, in Markdown."""
    head = ("Python", *FIGURES.values())
    rows = [
        (about, *(f"{figures[one]:,.0f}" for one in FIGURES)) for about, figures in found.items()
    ]
    return report.table(head, rows)


def measure(python: str, directory: Path) -> dict[str, float]:
    """Instructions by the names of FIGURES. Raises Failed, and NotHere without valgrind."""
    with ExitStack() as stack:
        counted = Counted(python, directory)
        stack.callback(counted.close)
        clients = [stack.enter_context(counted.connect()) for _ in range(CONNECTIONS)]
        connections = _Connections(counted)
        stack.callback(connections.close)
        try:
            return {
                "line-64": _median(counted, lambda: _lines(counted, clients, 25), 25 * CONNECTIONS),
                "line-1": _median(counted, lambda: _one(clients[0], 300), 300),
                "pipelined": _median(
                    counted,
                    lambda: _pipelines(counted, clients[:PIPELINES], 10),
                    10 * PIPELINES * PIPELINED,
                ),
                "connection": _median(counted, connections, CONNECTION_ROUNDS * AT_ONCE),
            }
        except (OSError, subprocess.SubprocessError) as error:
            raise Failed(f"echod under callgrind: {error}") from error


def _median(counted: Counted, load: Callable[[], None], units: int) -> float:
    load()  # has the interpreter specialize the code
    found = []
    for _ in range(CHUNKS):
        counted.zero()
        load()
        found.append(counted.count())
    return statistics.median(found) / units


def _lines(counted: Counted, clients: list[socket.socket], rounds: int) -> None:
    for _ in range(rounds):
        with counted.suspended():
            for client in clients:
                client.sendall(LINE)
        for client in clients:
            _receive(client, REPLY)


def _one(client: socket.socket, lines: int) -> None:
    for _ in range(lines):
        client.sendall(LINE)
        _receive(client, REPLY)


def _pipelines(counted: Counted, clients: list[socket.socket], rounds: int) -> None:
    for _ in range(rounds):
        with counted.suspended():
            for client in clients:
                client.sendall(LINE * PIPELINED)
        for client in clients:
            _receive(client, REPLY * PIPELINED)


class _Connections:
    """Rounds in which connections close and the same number open, with a line on each."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted
        self._open: list[socket.socket] = []

    def __call__(self) -> None:
        for _ in range(CONNECTION_ROUNDS):
            with self._counted.suspended():
                self.close()
                self._open = [self._counted.connect() for _ in range(AT_ONCE)]
                for client in self._open:
                    client.sendall(LINE)
            for client in self._open:
                _receive(client, REPLY)

    def close(self) -> None:
        """Close the connections of the last round."""
        for client in self._open:
            client.close()


def _receive(client: socket.socket, wanted: bytes) -> None:
    got = b""
    while len(got) < len(wanted):
        piece = client.recv(len(wanted) - len(got))
        if not piece:
            break
        got += piece
    if got != wanted:
        raise Failed(f"echod under callgrind has answered {got[:80]!a}")
