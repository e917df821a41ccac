"""Child processes: started, watched and ended, with what they say in a file."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from echod.errors import SystemRefused


class Process:
    """A program from its start until ``stop``. Its output goes to a file in ``directory``.

    It has a session of its own, so that Ctrl-C at the terminal reaches whoever started it alone.
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
        """Its number."""
        return self._process.pid

    def check(self) -> None:
        """Raises SystemRefused, with the last it said, if it has ended."""
        status = self._process.poll()
        if status is not None:
            raise SystemRefused(f"{self.name} has ended with status {status}: {self.said()}")

    def said(self) -> str:
        """The last line of its output."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def stop(self, seconds: float) -> None:
        """Ends it, at the latest after so many seconds."""
        self._process.terminate()  # does nothing if it has ended
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self._process.kill()
        self._process.wait()
