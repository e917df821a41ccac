"""Child processes: started, waited for, watched and stopped, with their output in a file."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

from echod.errors import SystemRefused

LOOK_SECONDS = 0.02


class Process:
    """A program from its start until ``stop``. Its output goes to a file in ``directory``.

    It has a session of its own: Ctrl-C at the terminal reaches the lab, which stops it.
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
                self._process = subprocess.Popen(  # noqa: S603  # the lab's own words
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
        """Raises SystemRefused, with the last line of its output, if it has ended."""
        status = self.status
        if status is not None:
            raise SystemRefused(f"{self.name} has ended with status {status}: {self.said()}")

    def wait_until(self, done: Callable[[], bool], seconds: float, problem: str) -> None:
        """Waits until ``done()`` is true. Raises SystemRefused if the process ends before, or
        with ``problem`` after so many seconds.
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
        """Asks it to end (SIGTERM)."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends it at once (SIGKILL)."""
        self._process.kill()

    def stop(self, seconds: float) -> None:
        """Terminates it, and kills it after so many seconds."""
        self._process.terminate()  # does nothing if it has ended
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    """A port of the loopback address that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
