"""A pattern that names the version in a reply, searched for by a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from inspect import getsource
from threading import Lock

from echod.errors import SystemRefused
from echod.probe import match_child
from echod.probe.match_child import ANSWER, FOUND, FOUND_AT_THE_END, REQUEST, TOO_SLOW

MATCH_SECONDS = 0.25
"""Of processor time, for all searches in one reply: 16 KiB of hostile input could take hours."""

STALLED_SECONDS = 60.0
"""Of any time: a process that does not answer by then has been stopped from outside."""

Found = tuple[bytes | None, bool, float]
"""What the first group is (None: not found), whether the match reaches the end of the data, and
the seconds of processor time that are left.
"""


class GaveUp(Exception):
    """A search has ended without an answer. The text says why."""


class Matcher:
    """One process for all threads, from the first search until ``close``."""

    def __init__(self, pattern: bytes) -> None:
        self._pattern = pattern
        self._turn = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._closed = False

    def search(self, data: bytes, seconds: float) -> Found:
        """Searches, for so many seconds at most. Raises GaveUp, or SystemRefused if there can be
        no process.
        """
        if seconds <= 0:
            raise GaveUp(f"the pattern took over {MATCH_SECONDS} s")
        with self._turn:
            channel = self._channel or self._start()
            try:
                sign, found, left = _ask(channel, data, seconds)
            except OSError as error:
                self._end()
                raise GaveUp(f"the process that searches has failed: {error}") from error
        if sign == TOO_SLOW:
            raise GaveUp(f"the pattern took over {MATCH_SECONDS} s")
        return found if sign in (FOUND, FOUND_AT_THE_END) else None, sign == FOUND_AT_THE_END, left

    def close(self) -> None:
        """Ends the process, for good."""
        self._closed = True
        if process := self._process:
            process.kill()  # a search that goes on would be waited for
        with self._turn:
            self._end()

    def _start(self) -> socket.socket:
        if self._closed:
            raise SystemRefused("the run is over")
        try:
            self._channel, far = socket.socketpair()
            with far:
                self._channel.settimeout(STALLED_SECONDS)
                # Its text: from a zip file (echod.pyz) no other Python can run a module by path.
                words = [sys.executable, "-I", "-c", getsource(match_child)]
                # In a group of its own: signals of the terminal and of GNU timeout are the probe's.
                self._process = subprocess.Popen(  # noqa: S603  # the probe's own words
                    words, stdin=far.fileno(), stdout=subprocess.DEVNULL, process_group=0
                )
            _ask(self._channel, self._pattern, 0.0)
        except OSError as error:
            self._end()
            reason = error.strerror or str(error)
            raise SystemRefused(f"no process that searches for --match: {reason}") from error
        return self._channel

    def _end(self) -> None:
        if self._channel:
            self._channel.close()
        if self._process:
            self._process.kill()
            self._process.wait()
        self._channel = self._process = None


def _ask(channel: socket.socket, data: bytes, seconds: float) -> tuple[bytes, bytes, float]:
    """The sign, the bytes and the number of an answer. Raises OSError."""
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
