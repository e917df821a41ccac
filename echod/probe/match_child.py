"""The process that matches replies: a program of its own, which the probe starts and ends.

A hostile reply can keep Python's regular expressions busy for hours, and no thread can stop them.
A signal can, on a main thread: here each search has its processor time, and the probe's threads
go on meanwhile. It imports the standard library alone, so that it starts quickly.
"""

from __future__ import annotations

import os
import re
import signal
import struct
from time import process_time
from typing import NoReturn

REQUEST = struct.Struct("!Id")
"""The bytes that follow, and the seconds of processor time that a search of them may take."""

ANSWER = struct.Struct("!cId")
"""One of the signs below, the bytes that follow, and the seconds that are left."""

FOUND, FOUND_AT_THE_END, NOT_YET, TOO_SLOW = b"=", b"$", b"-", b"!"
"""``FOUND_AT_THE_END``: what follows in the reply could make it longer."""


class TooSlow(Exception):
    """A search has used up its time."""


def search(pattern: re.Pattern[bytes], data: bytes, seconds: float) -> tuple[bytes, bytes, float]:
    """A sign, what the first group is, and the seconds that are left."""
    end = process_time() + seconds  # the timer itself is as coarse as the kernel's ticks
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        try:
            found = pattern.search(data)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except TooSlow:
        return TOO_SLOW, b"", 0.0
    left = end - process_time()
    if not found or found[1] is None:
        return NOT_YET, b"", left
    return FOUND_AT_THE_END if found.end() == len(data) else FOUND, found[1], left


def read(descriptor: int, size: int) -> bytes:
    """So many bytes, or fewer at the end."""
    data = b""
    while len(data) < size and (piece := os.read(descriptor, size - len(data))):
        data += piece
    return data


def serve(descriptor: int) -> None:
    """Answers on a socket until the other side closes it. Its first message is the pattern, and
    an empty answer says that it has come.
    """

    def stop(*_: object) -> NoReturn:
        raise TooSlow

    signal.signal(signal.SIGVTALRM, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGVTALRM})
    size, _ = REQUEST.unpack(read(descriptor, REQUEST.size))
    pattern = re.compile(read(descriptor, size))
    os.write(descriptor, ANSWER.pack(NOT_YET, 0, 0.0))
    while len(head := read(descriptor, REQUEST.size)) == REQUEST.size:
        size, seconds = REQUEST.unpack(head)
        sign, found, left = search(pattern, read(descriptor, size), seconds)
        os.write(descriptor, ANSWER.pack(sign, len(found), left) + found)


if __name__ == "__main__":
    serve(0)
