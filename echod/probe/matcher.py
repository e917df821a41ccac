"""Finds the version in a reply by a pattern, in a separate process."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress
from inspect import getsource
from threading import Lock

from echod.errors import SystemRefused
from echod.probe import match_child
from echod.probe.match_child import ANSWER, FOUND, FOUND_AT_THE_END, REQUEST, TOO_SLOW

MATCH_SECONDS = 0.25
"""CPU seconds for all searches in one reply; 16 KiB of hostile input could take hours."""

STALLED_SECONDS = 60.0
"""Real seconds; a process that has not answered by then has been stopped from outside."""

Found = tuple[bytes | None, bool, float]
"""The first group (None: not found), whether the match reaches the end of the data, and the CPU
seconds left."""


ENDED_SECONDS = 1.0
"""Maximum wait for the exit status of a process that has closed its socket."""


class GaveUp(Exception):
    """A search has taken too long. The text says how long."""


class Lost(Exception):
    """The process has failed during a search. The text says how; the next search starts another."""


class Matcher:
    """One process for all threads, from the first search until ``close``."""

    def __init__(self, pattern: bytes) -> None:
        self._pattern = pattern
        self._turn = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._closed = False

    def search(self, data: bytes, seconds: float) -> Found:
        """Search ``data``, using at most ``seconds`` of CPU time. Raises GaveUp and Lost, and
        SystemRefused if the process cannot be started.
        """
        if seconds <= 0:
            raise GaveUp(f"the pattern took over {MATCH_SECONDS} s")
        with self._turn:
            channel = self._channel or self._start()
            try:
                sign, found, left = _ask(channel, data, seconds)
            except OSError as error:
                how = self._fate(error)
                self._end()
                raise Lost(f"the process for --match {how}") from error
        if sign == TOO_SLOW:
            raise GaveUp(f"the pattern took over {MATCH_SECONDS} s")
        return found if sign in (FOUND, FOUND_AT_THE_END) else None, sign == FOUND_AT_THE_END, left

    def close(self) -> None:
        """Stop the process, for good."""
        self._closed = True
        if process := self._process:
            process.kill()  # so that a search in progress does not delay the end
        with self._turn:
            self._end()

    def _start(self) -> socket.socket:
        if self._closed:
            raise SystemRefused("the run has ended")
        try:
            self._channel, far = socket.socketpair()
            with far:
                self._channel.settimeout(STALLED_SECONDS)
                # As source text: in a zip file (echod.pyz) the module has no path to run.
                words = [sys.executable, "-I", "-c", getsource(match_child)]
                # In its own process group: signals from a terminal or GNU timeout are the probe's.
                self._process = subprocess.Popen(  # noqa: S603  # no input from outside
                    words, stdin=far.fileno(), stdout=subprocess.DEVNULL, process_group=0
                )
            _ask(self._channel, self._pattern, 0.0)
        except OSError as error:
            self._end()
            reason = error.strerror or str(error)
            raise SystemRefused(f"cannot start the process for --match: {reason}") from error
        return self._channel

    def _fate(self, error: OSError) -> str:
        """What became of the process, after an error of its socket."""
        if isinstance(error, TimeoutError):
            return f"did not answer for {STALLED_SECONDS:.0f} s"
        status = None
        if self._process and isinstance(error, BrokenPipeError | ConnectionResetError):
            with suppress(subprocess.TimeoutExpired):
                status = self._process.wait(ENDED_SECONDS)
        if status is None:
            return f"cannot be reached: {error.strerror or error}"
        return f"was killed (signal {-status})" if status < 0 else f"ended with status {status}"

    def _end(self) -> None:
        if self._channel:
            self._channel.close()
        if self._process:
            self._process.kill()
            self._process.wait()
        self._channel = self._process = None


def _ask(channel: socket.socket, data: bytes, seconds: float) -> tuple[bytes, bytes, float]:
    """Send a request; return the answer's sign, bytes and seconds left. Raises OSError."""
    channel.sendall(REQUEST.pack(len(data), seconds) + data)
    sign, size, left = ANSWER.unpack(_read(channel, ANSWER.size))
    return sign, _read(channel, size), left


def _read(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = channel.recv(size - len(data))
        if not piece:
            raise ConnectionResetError("it has ended")
        data += piece
    return data
