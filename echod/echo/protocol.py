"""The wire format without sockets: bytes in, reply bytes and a count of lines out."""

from __future__ import annotations

from collections.abc import Callable

STEP_BYTES = 256 * 1024
"""One step answers lines until its reply has this many bytes; the other lines wait."""
PIECE_BYTES = 8 * 1024
"""Pieces of an unfinished line that are shorter are put together, so that one that arrives byte by
byte takes the memory of its bytes. Longer ones stay as they are: a buffer that grows with its line
moves again and again, and leaves holes in the heap that hold half as much as the lines."""


class LineProtocol:
    r"""One connection's side of the line protocol: each ``\n``-terminated run of bytes is
    answered by the reply prefix and the same bytes. The bytes are opaque.

    ``clean`` is true while nothing is buffered and no line was too long: the caller's one
    check on the fast path. ``buffered`` counts the bytes of an unfinished line and of lines
    that wait for their step. ``plain_bytes`` is the size of the longest line, newline included,
    that the caller may answer itself while the protocol is clean: ``prefix``, then the line.
    """

    __slots__ = (
        "_max_line_bytes",
        "_tail",
        "_tail_bytes",
        "clean",
        "overlong",
        "plain_bytes",
        "prefix",
        "waiting",
    )

    def __init__(self, prefix: bytes, max_line_bytes: int) -> None:
        r"""``prefix`` begins a reply, space included; ``max_line_bytes`` excludes the ``\n``."""
        self.prefix = prefix
        self._max_line_bytes = self.plain_bytes = max_line_bytes
        self._tail: list[bytes | bytearray] | None = None  # the unfinished line, in pieces
        self._tail_bytes = 0
        self.waiting = b""
        self.overlong = False
        self.clean = True

    @property
    def buffered(self) -> int:
        """Bytes kept until more arrives or the next step is asked for."""
        return self._tail_bytes + len(self.waiting)

    @property
    def in_line(self) -> bool:
        """Whether an unfinished line has begun."""
        return self._tail_bytes > 0

    def receive(self, data: bytes) -> tuple[bytes, int]:
        """Takes what has arrived and gives the reply and the number of lines it answers.

        To be called only while no line waits and none was too long.
        """
        end = data.rfind(b"\n") + 1
        if self.clean and end == len(data) <= self._max_line_bytes:
            return self._answer(data)
        lines = self._split_off_lines(data, end)
        if len(lines) > self._max_line_bytes or self._tail_bytes > self._max_line_bytes:
            lines = self._refuse_overlong(lines)
        reply, count = self._answer(lines) if lines else (b"", 0)
        self.clean = not (self._tail_bytes or self.waiting or self.overlong)
        return reply, count

    def resume(self) -> tuple[bytes, int]:
        """The next step over the lines that wait: their reply and number."""
        lines, self.waiting = self.waiting, b""
        reply, count = self._answer(lines)
        self.clean = not (self._tail_bytes or self.waiting or self.overlong)
        return reply, count

    def _answer(self, lines: bytes) -> tuple[bytes, int]:
        # Every "\n" but the last is followed by the prefix of the next reply. The length shows how
        # many there were: counting looks at every byte, replacing goes from newline to newline.
        prefix, body, size = self.prefix, lines[:-1], len(lines)
        most = (STEP_BYTES - size) // len(prefix) if size < STEP_BYTES else 0
        joined = body.replace(b"\n", b"\n" + prefix, most)
        count = (len(joined) - size + 1) // len(prefix) + 1
        if count > most:
            return self._answer_step(lines)
        return b"".join((prefix, joined, b"\n")), count

    def _answer_step(self, lines: bytes) -> tuple[bytes, int]:
        """The same for the first of them, so that no reply is far over STEP_BYTES."""
        end = self._step_end(lines)
        self.waiting = lines[end:]
        self.clean = not self.waiting
        body = lines[: end - 1]
        joined = body.replace(b"\n", b"\n" + self.prefix)
        count = (len(joined) - len(body)) // len(self.prefix) + 1
        return b"".join((self.prefix, joined, b"\n")), count

    def _step_end(self, lines: bytes) -> int:
        """The end of the line with which the reply reaches STEP_BYTES (by bisection)."""
        first = lines.find(b"\n") + 1
        if first + len(self.prefix) >= STEP_BYTES:
            return first
        prefix, low, high = len(self.prefix), 1, len(lines)
        while low < high:
            middle = (low + high) // 2
            if middle + prefix * lines.count(b"\n", 0, middle) >= STEP_BYTES:
                high = middle
            else:
                low = middle + 1
        return lines.find(b"\n", low - 1) + 1

    def _split_off_lines(self, data: bytes, end: int) -> bytes:
        """The complete lines of the tail and ``data``; keeps the rest as the new tail."""
        if not end:
            self._keep(data)
            return b""
        lines = b"".join((*self._tail, memoryview(data)[:end])) if self._tail else data[:end]
        self._drop_tail()
        if end < len(data):
            self._keep(data[end:])
        return lines

    def _keep(self, data: bytes) -> None:
        """Adds ``data`` to the unfinished line, in linear time however small the pieces are."""
        self._tail_bytes += len(data)
        if self._tail is None:
            self._tail = [data]
        elif len(data) >= PIECE_BYTES or len(self._tail[-1]) >= PIECE_BYTES:
            self._tail.append(data)
        else:
            last = self._tail[-1]
            joined = last if isinstance(last, bytearray) else bytearray(last)
            joined += data
            self._tail[-1] = joined

    def _drop_tail(self) -> None:
        self._tail = None
        self._tail_bytes = 0

    def _refuse_overlong(self, lines: bytes) -> bytes:
        """The lines before the first that is too long, if one is; nothing after it counts."""
        start = 0
        for line in lines.split(b"\n")[:-1]:
            if len(line) > self._max_line_bytes:
                self.overlong = True
                break
            start += len(line) + 1
        if not self.overlong and self._tail_bytes <= self._max_line_bytes:
            return lines
        self.overlong = True
        self._drop_tail()
        return lines[:start]


class LoggedProtocol(LineProtocol):
    """A protocol that logs each line it answers."""

    __slots__ = ("_log",)

    def __init__(self, prefix: bytes, max_line_bytes: int, log: Callable[[bytes], None]) -> None:
        """``log`` gets each line without its newline."""
        super().__init__(prefix, max_line_bytes)
        self._log = log
        self.plain_bytes = 0  # to see every line

    def _answer(self, lines: bytes) -> tuple[bytes, int]:
        reply, count = super()._answer(lines)
        for line in lines.split(b"\n")[:count]:
            self._log(line)
        return reply, count
