r"""Conversations with a server: how they are written down, held and recorded.

Each paragraph of faults/conversations.txt is one:

    # why it is there
    > b'a\nhel'            sent in one piece: an expression of Python, see VOCABULARY
    < b'one a\n'           what has come back by now, taken before anything else is sent
    > cut(b'lo\n', 1)      sent in pieces of one byte
    pause                  long enough for a piece to arrive by itself
    end b'one hello\n'     the half-close, and what then comes up to the end of the stream

``close`` instead of ``end``: the client, which has taken every answer, hangs up.
``small-window`` comes first: the client has room for little, and takes it late. Long replies
are shown by their length and their digest.

What comes back is what the reference said. To record it (anew, or for a paragraph that has been
added with a bare ``<`` and ``end``), and to hold the same conversations with any other server,
have it listen with the prefix ``one``; for Istio's samples/tcp-echo:

    go build -o tcp-echo . && ./tcp-echo 9100 one >/dev/null &
    (cd tests && python -m support.conversations 127.0.0.1:9100)
    pytest tests/faults/test_conversations.py --against 127.0.0.1:9100
"""

from __future__ import annotations

import hashlib
import random
import select
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from support import PATIENCE, ROOT, connect, pause

CORPUS = ROOT / "tests" / "faults" / "conversations.txt"
PAUSE = 0.02  # seconds
QUIET = 0.3  # seconds without a byte: while recording, nothing more is on its way
SHOWN = 200  # bytes of a reply
LARGEST = 1 << 24  # bytes; a reply beyond has no end

Address = tuple[str, int]


@dataclass(frozen=True)
class Step:
    word: str
    text: str = ""
    pieces: Sequence[bytes] = ()

    def __str__(self) -> str:
        text = self.text or (repr(b"".join(self.pieces)) if self.pieces else "")
        return f"{self.word} {text}".rstrip()


@dataclass(frozen=True)
class Conversation:
    why: str
    steps: Sequence[Step]

    def __str__(self) -> str:
        return "\n".join((f"# {self.why}", *map(str, self.steps)))

    @property
    def said(self) -> bytes:
        """All that the client sends."""
        return b"".join(piece for step in self.steps for piece in step.pieces)

    @property
    def recorded(self) -> list[str]:
        """What the reference said, as it is shown."""
        return [step.text for step in self.steps if step.word in {"<", "end"}]


# The notation.


def cut(data: bytes, size: int) -> list[bytes]:
    """Pieces of ``size`` bytes."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def numbered(line: bytes, count: int) -> bytes:
    r"""Lines that are all different: ``numbered(b'%d\n', 3)`` is ``b'0\n1\n2\n'``."""
    return b"".join(line % number for number in range(count))


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


VOCABULARY = {word.__name__: word for word in (bytes, range, cut, numbered, noise)}


def shown(reply: bytes) -> str:
    """A reply as it is written down."""
    if len(reply) <= SHOWN:
        return repr(reply)
    return f"{len(reply)} bytes, sha256 {hashlib.sha256(reply).hexdigest()}"


def parse_step(line: str) -> Step:
    word, _, text = line.partition(" ")
    if word != ">":
        return Step(word, text)
    value = eval(text, {"__builtins__": VOCABULARY})  # noqa: S307  # the project's own file
    return Step(word, text, value if isinstance(value, list) else [value])


def parse(paragraph: str) -> Conversation:
    why, *lines = paragraph.splitlines()
    return Conversation(why.removeprefix("# "), [parse_step(line) for line in lines])


def paragraphs() -> list[str]:
    """Those that are no conversation are there for the reader."""
    return CORPUS.read_text().strip().split("\n\n")


def corpus() -> list[Conversation]:
    return [parse(paragraph) for paragraph in paragraphs() if paragraph.startswith("# ")]


# Holding them.


class Client:
    """Sends and takes; what the server says while it is not read waits with the kernel."""

    def __init__(self, address: Address, *, small_window: bool = False) -> None:
        host, port = address
        self._socket = connect(port, host, **({"receive_buffer": 4096} if small_window else {}))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._taken = bytearray()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, piece: bytes) -> None:
        """Takes replies meanwhile only if the server takes nothing more before that."""
        left = memoryview(piece)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                readable, writable, _ = select.select([self._socket], [self._socket], [], PATIENCE)
                assert readable or writable, f"nothing moves for {PATIENCE} s"
                if readable and not writable:
                    assert self._receive(), "the stream ended before everything was sent"

    def take(self, size: int) -> bytes:
        """What has come: at least ``size`` bytes, for which it waits."""
        while len(self._taken) < size:
            assert self._wait(PATIENCE), f"{self._taken[-SHOWN:]!r}, and no more in {PATIENCE} s"
            assert self._receive(), f"{self._taken[-SHOWN:]!r}, and the end"
        return self._all()

    def take_until_quiet(self) -> bytes:
        while self._wait(QUIET) and self._receive():
            pass
        return self._all()

    def end(self) -> bytes:
        """Says that there is no more, and takes everything up to the end of the stream."""
        self._socket.shutdown(socket.SHUT_WR)
        while True:
            assert self._wait(PATIENCE), f"{self._taken[-SHOWN:]!r}, and no end in {PATIENCE} s"
            if not self._receive():
                return self._all()

    def _wait(self, seconds: float) -> bool:
        return bool(select.select([self._socket], [], [], seconds)[0])

    def _receive(self) -> bool:
        piece = self._socket.recv(1 << 16)
        self._taken += piece
        assert len(self._taken) < LARGEST, f"{self._taken[:SHOWN]!r}, and on and on"
        return bool(piece)

    def _all(self) -> bytes:
        taken = bytes(self._taken)
        self._taken.clear()
        return taken


def size_of_reply(said: bytes) -> int:
    """By the model."""
    return said.rfind(b"\n") + 1 + said.count(b"\n") * len(b"one ")


def hold(address: Address, conversation: Conversation, *, recording: bool = False) -> list[bytes]:
    """Holds it; what came back at each ``<`` and at the ``end``.

    How much to wait for at a ``<`` is known from the model, but not while ``recording``.
    """
    steps, said, replies = conversation.steps, b"", list[bytes]()
    with Client(address, small_window=Step("small-window") in steps) as client:
        for step in steps:
            for piece in step.pieces:
                client.send(piece)
            said += b"".join(step.pieces)
            if step.word == "pause":
                pause(PAUSE, "a piece is to arrive by itself")
            elif step.word == "<" and recording:
                replies.append(client.take_until_quiet())
            elif step.word == "<":
                replies.append(client.take(size_of_reply(said) - sum(map(len, replies))))
            elif step.word == "end":
                replies.append(client.end())
    return replies


# Recording them.


def address_of(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def recorded(address: Address, paragraph: str) -> str:
    """The paragraph with what this server says."""
    if not paragraph.startswith("# "):
        return paragraph
    conversation = parse(paragraph)
    replies = iter(hold(address, conversation, recording=True))
    steps = [
        Step(step.word, shown(next(replies))) if step.word in {"<", "end"} else step
        for step in conversation.steps
    ]
    return str(Conversation(conversation.why, steps))


def main(address: str) -> None:
    texts = [recorded(address_of(address), paragraph) for paragraph in paragraphs()]
    CORPUS.write_text("\n\n".join(texts) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
