"""The process that matches replies, a separate program that the probe starts and stops.

A hostile reply can keep Python's regular expressions busy for hours. No thread can interrupt them,
but a signal in the main thread can. So each search here has a limit of CPU time, and the probe's
threads continue meanwhile. It imports only the standard library, so that it starts quickly.
"""

from __future__ import annotations

import os
import re
import signal
import struct
from time import process_time
from typing import NoReturn

REQUEST = struct.Struct("!Id")
"""The number of bytes that follow, and the CPU seconds that a search of them may take."""

ANSWER = struct.Struct("!cId")
"""One of the signs below, the number of bytes that follow, and the CPU seconds left."""

FOUND, FOUND_AT_THE_END, NOT_YET, TOO_SLOW = b"=", b"$", b"-", b"!"
"""``FOUND_AT_THE_END``: more data could make the match longer."""


class TooSlow(Exception):
    """A search has used up its time."""


def search(pattern: re.Pattern[bytes], data: bytes, seconds: float) -> tuple[bytes, bytes, float]:
    """The sign, the first group, and the CPU seconds left."""
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
    """Read ``size`` bytes, or fewer at the end of the stream."""
    data = b""
    while len(data) < size and (piece := os.read(descriptor, size - len(data))):
        data += piece
    return data


def serve(descriptor: int) -> None:
    """Answer on a socket until the peer closes it. The first message is the pattern, which an
    empty answer acknowledges.
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
