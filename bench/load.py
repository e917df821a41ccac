"""The load generators as child processes: start, go on, report."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from bench.figures import Sample
from bench.problems import Failed


class Load:
    """One run of a load generator. Raises Failed if it does not print what is expected in time."""

    def __init__(self, program: Path, *words: object, timeout: float) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [str(program), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._timer = threading.Timer(timeout, self._process.kill)
        self._timer.start()

    def hear(self, word: str) -> str:
        """The rest of the line that begins with ``word``; another line is a failure."""
        assert self._process.stdout and self._process.stderr  # noqa: S101, PT018  # for the type
        line = self._process.stdout.readline().strip()
        if line.startswith("done") and word != "done":
            failed = figures(line)
            raise Failed(f"{failed['errors']:.0f} errors before the start: {reason(line)}")
        if not line.startswith(word):
            said = line or self._process.stderr.read().strip() or "it took too long"
            raise Failed(f"load generator: {said}")
        return line

    def go_on(self) -> None:
        """Let the generator go on."""
        assert self._process.stdin  # noqa: S101  # for the type
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except OSError as error:
            raise Failed("load generator: it has ended") from error

    def close(self) -> None:
        """Stop it, if it still runs."""
        self._timer.cancel()
        self._process.kill()
        self._process.communicate()


def reason(done: str) -> str:
    """The first error of a report."""
    return done.rpartition("why=")[2]


def figures(done: str) -> Sample:
    """What a load generator reports, by name: lines, seconds, latencies in microseconds."""
    words = dict(word.split("=") for word in done.split()[1:])
    del words["why"]
    return {name: float(value) for name, value in words.items()}
