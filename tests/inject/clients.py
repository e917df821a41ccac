"""What the clients of a life do."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from support import expected, read_to_end, reset

MAX_LINE_BYTES = 100_000


@dataclass
class Talk:
    """What a client said, heard, and how it ended."""

    name: str
    port: int
    reason: str  # of the close, if nothing fails
    said: bytes = b""
    heard: bytes = b""
    end: str = ""
    answer: bytes | None = None  # what it has to hear, if that is not what it said, answered
    owed: bool = False  # whether it has to hear all, though a stop comes

    @property
    def wanted(self) -> bytes:
        return expected(self.said) if self.answer is None else self.answer

    @property
    def damaged(self) -> bool:
        """Whether it has not got what it had to."""
        return self.heard != self.wanted or self.end not in ("end", "own")

    def __str__(self) -> str:
        heard = f"heard {len(self.heard)} of {len(self.wanted)} bytes"
        return f"{self.name} on {self.port}: {heard}, {self.end}"


class EndOfTalk(Exception):
    """The stream has ended before the reply."""


Script = Callable[[socket.socket, Talk], None]


def _tell(client: socket.socket, talk: Talk, data: bytes) -> None:
    talk.said += data
    client.sendall(data)


def _finish(client: socket.socket, talk: Talk) -> None:
    """Half-closes, and reads to the end."""
    client.shutdown(socket.SHUT_WR)
    while piece := client.recv(1 << 16):
        talk.heard += piece
    talk.end = "end"


def _hear(client: socket.socket, talk: Talk, size: int) -> None:
    """So many bytes more."""
    wanted = len(talk.heard) + size
    while len(talk.heard) < wanted:
        piece = client.recv(wanted - len(talk.heard))
        if not piece:
            talk.end = "end"
            raise EndOfTalk
        talk.heard += piece


def ping_pong(client: socket.socket, talk: Talk) -> None:
    for line in (b"a\n", b"\xff\0 b\r\n"):
        _tell(client, talk, line)
        _hear(client, talk, 4 + len(line))
    _finish(client, talk)


def pipeline(client: socket.socket, talk: Talk) -> None:
    _tell(client, talk, b"".join(b"%d\n" % number for number in range(300)))
    _finish(client, talk)


def long_line(client: socket.socket, talk: Talk) -> None:
    _tell(client, talk, b"x" * (MAX_LINE_BYTES - 1) + b"\n")
    _finish(client, talk)


def too_long(client: socket.socket, talk: Talk) -> None:
    talk.answer = b"one before\n"
    _tell(client, talk, b"before\n" + b"x" * (MAX_LINE_BYTES + 1000))
    _finish(client, talk)


def slow_reader(client: socket.socket, talk: Talk) -> None:
    _tell(client, talk, b"\n" * 60_000)
    _finish(client, talk)


def unfinished(client: socket.socket, talk: Talk) -> None:
    _tell(client, talk, b"abc")
    _finish(client, talk)


def break_off(client: socket.socket, talk: Talk) -> None:
    _tell(client, talk, b"x\n")
    _hear(client, talk, 6)
    reset(client)
    talk.end = "own"


def say_nothing(_: socket.socket, talk: Talk) -> None:
    talk.end = "own"


def be_rejected(client: socket.socket, talk: Talk) -> None:
    """An end, or a reset."""
    with suppress(ConnectionResetError):
        talk.heard = read_to_end(client)
    talk.end = "end"


def take_all(client: socket.socket, talk: Talk) -> None:
    """Reads what is left, to the end."""
    try:
        while piece := client.recv(1 << 16):
            talk.heard += piece
        talk.end = "end"
        client.close()
    except OSError as error:
        talk.end = word(error)


def word(error: OSError) -> str:
    """How a stream ended."""
    return "no reply, no end" if isinstance(error, TimeoutError) else type(error).__name__
