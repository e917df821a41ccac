"""Reading a reply until it matches a pattern, and saying farewell."""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic

from echod.errors import SystemRefused
from echod.probe.matcher import MATCH_SECONDS, GaveUp, Lost, Matcher
from echod.probe.tally import THIS_HOST
from echod.probe.target import MAX_REPLY_BYTES, Failed, left
from echod.texts import decoded

SETTLE_SECONDS = 0.1
"""A match at the end of the received data may still grow. It counts after this long without more
data."""

NO_MATCH, SLOW_MATCH = "no match", "slow match"
"""Kinds of failure."""

MOST_KEPT_BYTES = 256
"""Bytes shown of a reply without a match."""

MOST_LEFT_BYTES = 64 * 1024
"""Maximum bytes read after the farewell."""

Failure = Callable[[OSError], Failed | SystemRefused]
"""Maps an error of a connection to a failed sample or a refusal."""


class Reading:
    """One reply: the data received so far, and what was found in it."""

    def __init__(self, channel: socket.socket, matcher: Matcher, deadline: float) -> None:
        self.found: bytes | None = None
        self.at = 0.0  # when the last data arrived
        self._channel = channel
        self._matcher = matcher
        self._deadline = deadline
        self._data = b""
        self._seconds = MATCH_SECONDS

    def run(self, send: bytes, failed: Failure) -> None:
        """Send, and read until the pattern is found. Raises Failed and SystemRefused."""
        try:
            if send:
                self._channel.settimeout(left(self._deadline))
                self._channel.sendall(send)
            while self._goes_on():
                pass
        except OSError as error:
            if self.found is None:
                raise self._failed(failed(error)) from error
        except GaveUp as error:
            raise Failed(SLOW_MATCH, self._shown(f"{error} in")) from error
        except Lost as error:
            raise Failed(THIS_HOST, str(error)) from error
        if self.found is None:
            full = len(self._data) == MAX_REPLY_BYTES
            raise self._without_match("in the first" if full else "closed after")

    def _goes_on(self) -> bool:
        """Read once; return whether to read more."""
        until = self._deadline
        if self.found is not None:
            until = min(until, monotonic() + SETTLE_SECONDS)
        self._channel.settimeout(left(until))
        piece = self._channel.recv(MAX_REPLY_BYTES - len(self._data))
        if not piece:
            return False
        self._data += piece
        self.at = monotonic()
        self.found, grows, self._seconds = self._matcher.search(self._data, self._seconds)
        self._deadline += monotonic() - self.at  # the search does not count as the service's time
        return (self.found is None or grows) and len(self._data) < MAX_REPLY_BYTES

    def _failed(self, error: Failed | SystemRefused) -> Failed | SystemRefused:
        """An error, with the data that arrived before it."""
        if not isinstance(error, Failed) or not self._data:
            return error
        if error.kind == "timeout":
            return self._without_match("silent after")
        return Failed(error.kind, self._shown(f"{error.detail} after"))

    def _without_match(self, reason: str) -> Failed:
        if not self._data:
            return Failed("closed", "closed before a reply")
        return Failed(NO_MATCH, self._shown(reason))

    def _shown(self, reason: str) -> str:
        """``reason`` with the start of the received data, which is escaped when shown."""
        return f"{reason} {len(self._data):,} bytes: {decoded(self._data[:MOST_KEPT_BYTES])}"


def match(
    channel: socket.socket, send: bytes, matcher: Matcher, deadline: float, failed: Failure
) -> tuple[bytes, float]:
    """Send, and read until the pattern is found; return its first group and its time of arrival.

    Raises Failed and SystemRefused.
    """
    reading = Reading(channel, matcher, deadline)
    reading.run(send, failed)
    return reading.found or b"", reading.at


def say_farewell(channel: socket.socket, farewell: bytes, deadline: float) -> None:
    """Send the farewell, and read until the service closes. Raises OSError."""
    channel.settimeout(left(deadline))
    channel.sendall(farewell)
    count = 0
    while count < MOST_LEFT_BYTES:
        channel.settimeout(left(deadline))
        piece = channel.recv(MAX_REPLY_BYTES)
        if not piece:
            break
        count += len(piece)
