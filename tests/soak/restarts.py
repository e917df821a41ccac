"""Processes of clients, and a server that is drained and replaced under those of one."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from support import PATIENCE, ROOT, Echod, Sockets, Start, clean_environment, start_with

from soak.board import Board
from soak.clients import RESTARTED_CLIENTS
from soak.promises import HEAD_BYTES, Promises


class Clients:
    """A process of them. What they find wrong is an error that it ends with."""

    def __init__(self, directory: Path, *words: object) -> None:
        self._errors = directory / f"clients-{words[0]}-{words[1]}"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "soak.clients", *map(str, words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=directory,
                env=clean_environment(PYTHONPATH=str(ROOT / "tests")),
            )

    def order(self, *numbers: int) -> None:
        assert self.process.stdin
        self.process.stdin.write(" ".join(map(str, numbers)) + "\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        """Until the order is carried out."""
        assert self.process.stdout
        assert self.process.stdout.readline() == "done\n", self._errors.read_text()

    def end(self) -> None:
        self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, self._errors.read_text()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Restarts:
    """An echod on an inherited socket that is replaced again and again, and its clients."""

    def __init__(
        self, start: Start, directory: Path, promises: Promises, words: Sequence[str]
    ) -> None:
        """``words`` begin the command of each echod."""
        self.drains = 0
        self._words = words
        self.totals: Counter[str] = Counter()
        self._start = start
        self._promises = promises
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = Sockets(echo=[self._listener])
        self._board = Board(directory / "restarts", RESTARTED_CLIENTS)
        self._echod = self._next()
        port = self._listener.getsockname()[1]
        self._clients = Clients(directory, "restarted", "127.0.0.1", port, self._board.path)

    def _next(self) -> Echod:
        return start_with(self._start, self._sockets, "--metrics-port", "0", words=self._words)

    def replace(self) -> None:
        """The next one before the old one drains, or after it, by turns."""
        if self.drains % 2:
            self._stop()
            self._echod = self._next()
            self._echod.event("ready")
        else:
            following = self._next()
            following.event("ready")
            self._stop()
            self._echod = following
        self.drains += 1

    def _stop(self) -> None:
        last = self._echod.stop()
        self._promises.equal("no drain cuts a connection", last["cut"], 0)
        for total in last["totals"]:
            self.totals.update(total)

    def end(self) -> None:
        """Of the clients first: then every count must be what they have seen."""
        self._clients.end()
        self._stop()
        sums, totals = self._board.sums(), self.totals
        replies = sums["bytes_answered"] + HEAD_BYTES * sums["lines_back"]
        for name, known in (
            ("opened", sums["tried"]),
            ("closed", sums["tried"]),
            ("rejected", 0),
            ("requests", sums["lines_back"]),
            ("sent_bytes", replies),
        ):
            self._promises.equal(
                f"all {name} of those that stopped are the clients'", totals[name], known
            )
        self._promises.in_order(
            "all bytes received by those that stopped are the clients'",
            sums["bytes_answered"],
            totals["received_bytes"],
            sums["bytes_out"],
        )

    def close(self) -> None:
        self._clients.close()
        self._listener.close()
