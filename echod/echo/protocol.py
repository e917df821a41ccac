"""The wire format without sockets: bytes in, reply bytes and a count of lines out."""

from __future__ import annotations

from collections.abc import Callable

NEWLINE = ord("\n")
STEP_BYTES = 256 * 1024
"""A step answers lines until its reply has this many bytes; further lines wait."""
PIECE_BYTES = 8 * 1024
"""Shorter pieces of an unfinished line are joined: a line that arrives byte by byte takes no more
memory than its bytes. Longer pieces stay separate. A single growing buffer would move repeatedly,
and leave holes in the heap half as large as the lines."""


class LineFormat:
    r"""The format of lines and replies on a server, shared by all its connections.

    ``prefix`` begins each reply, includes the space, and has ``prefix_bytes`` bytes; ``between``
    ends a line and begins the next reply. A line has at most ``max_line_bytes``, without its
    ``\n``. Input of at most ``step_bytes`` has replies of at most STEP_BYTES, however short its
    lines are. In input of at most ``plain_bytes``, no line is too long either. Both sizes include
    newlines. ``logged`` says that every line must pass through a protocol, which logs it:
    ``plain_bytes`` is 0.
    """

    __slots__ = (
        "between",
        "max_line_bytes",
        "plain_bytes",
        "prefix",
        "prefix_bytes",
        "step_bytes",
    )

    def __init__(self, prefix: bytes, max_line_bytes: int, *, logged: bool = False) -> None:
        self.prefix = prefix
        self.prefix_bytes = len(prefix)
        self.max_line_bytes = max_line_bytes
        self.step_bytes = STEP_BYTES // (1 + len(prefix))
        self.plain_bytes = 0 if logged else min(max_line_bytes, self.step_bytes)
        self.between = b"\n" + prefix

    def replies(self, lines: bytes, most: int = -1) -> bytes:
        """The replies to whole lines. Their length shows the number of lines, which is faster than
        counting newlines. With ``most`` lines or more, it shows ``most``, and the replies are
        incomplete.
        """
        return (self.prefix + lines.replace(b"\n", self.between, most))[: -self.prefix_bytes]


class LineProtocol:
    r"""The line protocol of a connection: the reply to each ``\n``-terminated line is the prefix
    and the same bytes. The bytes are opaque.

    ``clean`` is true while nothing is buffered and no line was too long. ``buffered`` counts the
    bytes of an unfinished line and of lines that wait for the next step. While the protocol is
    clean, callers may answer whole lines of at most ``format.plain_bytes`` by the format alone.
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
    def buffered(self) -> int:
        """Bytes kept until more arrive or ``resume`` is called."""
        return self._tail_bytes + len(self.waiting)

    @property
    def in_line(self) -> bool:
        """Whether there is an unfinished line."""
        return self._tail_bytes > 0

    def receive(self, data: bytes) -> tuple[bytes, int]:
        """Process ``data``; return the reply and the number of lines that it answers.

        Call it only while no line waits and none was too long.
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
        """Take the next step of waiting lines; return their reply and their number."""
        lines, self.waiting = self.waiting, b""
        reply, count = self._answer(lines)
        self.clean = not (self._tail_bytes or self.waiting or self.overlong)
        return reply, count

    def _answer(self, lines: bytes) -> tuple[bytes, int]:
        form, size, too_many = self.format, len(lines), -1
        if lines.find(b"\n") + 1 == size:  # one line: copied once, not three times
            return form.prefix + lines, 1
        if size > form.step_bytes:
            too_many = max(STEP_BYTES - size, 0) // form.prefix_bytes + 1
        replies = form.replies(lines, too_many)
        count = (len(replies) - size) // form.prefix_bytes
        return self._answer_step(lines) if count == too_many else (replies, count)

    def _answer_step(self, lines: bytes) -> tuple[bytes, int]:
        """Answer the first lines, so that the reply is not much longer than STEP_BYTES."""
        end = self._step_end(lines)
        self.waiting = lines[end:]
        self.clean = not self.waiting
        replies = self.format.replies(lines[:end])
        return replies, (len(replies) - end) // self.format.prefix_bytes

    def _step_end(self, lines: bytes) -> int:
        """The end of the line at which the reply reaches STEP_BYTES, found by bisection."""
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
        """Return the complete lines of the tail and ``data``; keep the rest as the new tail."""
        if not end:
            self._keep(data)
            return b""
        lines = b"".join((*self._tail, memoryview(data)[:end])) if self._tail else data[:end]
        self._drop_tail()
        if end < len(data):
            self._keep(data[end:])
        return lines

    def _keep(self, data: bytes) -> None:
        """Add ``data`` to the unfinished line, in linear time even for small pieces."""
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
        """Return the lines before the first that is too long, if any, and drop the rest."""
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
        """``log`` is called with each line, without its newline."""
        super().__init__(line_format)
        self._log = log

    def _answer(self, lines: bytes) -> tuple[bytes, int]:
        reply, count = super()._answer(lines)
        for line in lines.split(b"\n")[:count]:
            self._log(line)
        return reply, count
