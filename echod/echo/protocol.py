"""The wire format without sockets: bytes in, reply bytes and a count of lines out."""

from __future__ import annotations

from collections.abc import Callable

NEWLINE = ord("\n")
STEP_BYTES = 256 * 1024
"""One step answers lines until its reply has this many bytes; the other lines wait."""
PIECE_BYTES = 8 * 1024
"""Pieces of an unfinished line that are shorter are put together, so that one that arrives byte by
byte takes the memory of its bytes. Longer ones stay as they are: a buffer that grows with its line
moves again and again, and leaves holes in the heap that hold half as much as the lines."""


class LineFormat:
    r"""What lines and replies are like on a server: shared by all its connections.

    ``prefix`` begins a reply, space included, and has ``prefix_bytes``. A line has
    ``max_line_bytes`` at most, without its ``\n``. Whole lines of ``step_bytes`` together have
    replies of STEP_BYTES at most, however short they are; of ``plain_bytes``, newlines included,
    none of them is too long either.
    """

    __slots__ = (
        "_between",
        "max_line_bytes",
        "plain_bytes",
        "prefix",
        "prefix_bytes",
        "step_bytes",
    )

    def __init__(self, prefix: bytes, max_line_bytes: int) -> None:
        self.prefix = prefix
        self.prefix_bytes = len(prefix)
        self.max_line_bytes = max_line_bytes
        self.step_bytes = STEP_BYTES // (1 + len(prefix))
        self.plain_bytes = min(max_line_bytes, self.step_bytes)
        self._between = b"\n" + prefix

    def replies(self, lines: bytes, most: int = -1) -> bytes:
        """The replies to whole lines, to so many at most. Their length shows how many lines there
        were: counting looks at every byte, replacing goes from newline to newline.
        """
        return (self.prefix + lines.replace(b"\n", self._between, most))[: -self.prefix_bytes]


class LineProtocol:
    r"""One connection's side of the line protocol: each ``\n``-terminated run of bytes is
    answered by the reply prefix and the same bytes. The bytes are opaque.

    ``clean`` is true while nothing is buffered and no line was too long. ``buffered`` counts the
    bytes of an unfinished line and of lines that wait for their step. While it is clean, whole
    lines of ``plain_bytes`` together may be answered without it, by its format.
    """

    __slots__ = ("_tail", "_tail_bytes", "clean", "format", "overlong", "waiting")

    def __init__(self, line_format: LineFormat) -> None:
        self.format = line_format
        self._tail: list[bytes | bytearray] | None = None  # the unfinished line, in pieces
        self._tail_bytes = 0
        self.waiting = b""
        self.overlong = False
        self.clean = True

    @property
    def plain_bytes(self) -> int:
        """Size of the lines that may be answered without it."""
        return self.format.plain_bytes

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
        most, end = self.format.max_line_bytes, data.rfind(b"\n") + 1
        if self.clean and end == len(data) <= most:
            return self._answer(data)
        lines = self._split_off_lines(data, end)
        if len(lines) > most or self._tail_bytes > most:
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
        form, size, too_many = self.format, len(lines), -1
        if size > form.step_bytes:
            too_many = max(STEP_BYTES - size, 0) // form.prefix_bytes + 1
        replies = form.replies(lines, too_many)
        count = (len(replies) - size) // form.prefix_bytes
        return self._answer_step(lines) if count == too_many else (replies, count)

    def _answer_step(self, lines: bytes) -> tuple[bytes, int]:
        """The same for the first of them, so that no reply is far over STEP_BYTES."""
        end = self._step_end(lines)
        self.waiting = lines[end:]
        self.clean = not self.waiting
        replies = self.format.replies(lines[:end])
        return replies, (len(replies) - end) // self.format.prefix_bytes

    def _step_end(self, lines: bytes) -> int:
        """The end of the line with which the reply reaches STEP_BYTES (by bisection)."""
        first = lines.find(b"\n") + 1
        prefix = self.format.prefix_bytes
        if first + prefix >= STEP_BYTES:
            return first
        low, high = 1, len(lines)
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
        most, start = self.format.max_line_bytes, 0
        for line in lines.split(b"\n")[:-1]:
            if len(line) > most:
                self.overlong = True
                break
            start += len(line) + 1
        if not self.overlong and self._tail_bytes <= most:
            return lines
        self.overlong = True
        self._drop_tail()
        return lines[:start]


class LoggedProtocol(LineProtocol):
    """A protocol that logs each line it answers."""

    __slots__ = ("_log",)

    def __init__(self, line_format: LineFormat, log: Callable[[bytes], None]) -> None:
        """``log`` gets each line without its newline."""
        super().__init__(line_format)
        self._log = log

    @property
    def plain_bytes(self) -> int:
        """None: it is to see every line."""
        return 0

    def _answer(self, lines: bytes) -> tuple[bytes, int]:
        reply, count = super()._answer(lines)
        for line in lines.split(b"\n")[:count]:
            self._log(line)
        return reply, count
