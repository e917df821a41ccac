"""A process of clients, which keeps account of what it does in rows of boards.

usage: python -m soak.clients mixed HOST INDEX PORT BOARD WILD_PORT WILD_BOARD
       python -m soak.clients restarted HOST PORT BOARD

The first gets its orders on standard input, "CONNECTIONS LINES IDLE" each, and answers a line to
each that it has carried out. The second goes on until standard input ends; what it talks to may be
drained at any time.
"""

from __future__ import annotations

import random
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import monotonic

from support import connect, expected, pause, read_exactly, read_to_end, reset

from soak.board import Board, Tally

MAX_LINE_BYTES = 2000
OVERLONG_BYTES = 100_000
SLOW_SECONDS = 0.3
"""How long a slow reader lets its replies wait: far less than an idle timeout."""
SLOW_LINES = 2000
"""Of the longest lines: more than the kernel holds in its buffers."""
LATE_SECONDS = 0.8
"""Who sends nothing for so long may meet an end, and if that was a while ago a reset."""
RESTARTED_CLIENTS = 6
HESITATION_SECONDS = 0.1
"""Before a first line: it is waited for, though the server stops meanwhile."""
TEXT = b"".join(b"%04d and some more of it" % number for number in range(1000))


class Talk:
    """One connection, all of which is accounted for."""

    def __init__(self, tally: Tally, host: str, port: int, **options: int) -> None:
        self.tally = tally
        self.bytes_back = 0
        self.began = monotonic()
        tally.add(tried=1)
        self.client = connect(port, host, **options)

    def send(self, lines: bytes, rest: bytes = b"") -> None:
        """Complete lines, and what is not answered."""
        self.tally.add(lines_out=lines.count(b"\n"), bytes_out=len(lines) + len(rest))
        self.client.sendall(lines + rest)

    def read(self, lines: bytes) -> None:
        """The replies to these lines."""
        replies = expected(lines)
        assert read_exactly(self.client, len(replies)) == replies
        self.got(lines, replies)

    def ask(self, lines: bytes) -> None:
        self.send(lines)
        self.read(lines)

    def half_close(self) -> None:
        self.client.shutdown(socket.SHUT_WR)

    def read_to_end(self, lines: bytes, reason: str = "eof") -> None:
        """The replies to these lines, and then the end, for this reason."""
        replies = expected(lines)
        assert read_to_end(self.client) == replies
        self.got(lines, replies)
        self.client.close()
        self.tally.add(ended=1, bytes_ended=self.bytes_back, **{reason: 1})

    def close(self) -> None:
        self.client.close()
        self.tally.add(eof=1)

    def got(self, lines: bytes, replies: bytes) -> None:
        if replies:
            self.tally.add(
                served=not self.bytes_back,
                lines_back=lines.count(b"\n"),
                bytes_answered=len(lines),
            )
            self.bytes_back += len(replies)


def some_lines(chance: random.Random, most: int) -> bytes:
    """From one to ``most`` of them, of up to 40 bytes each; one in forty is empty."""
    count = chance.randint(1, most)
    sizes = (chance.randrange(40) for _ in range(count))
    return b"".join(TEXT[start : start + size] + b"\n" for start, size in enumerate(sizes))


# Conversations of which everything is certain.


def one_line(talk: Talk, chance: random.Random) -> None:
    talk.ask(some_lines(chance, 1))
    talk.close()


def half_closed(talk: Talk, chance: random.Random) -> None:
    lines = some_lines(chance, 10)
    talk.send(lines)
    talk.half_close()
    talk.read_to_end(lines)


def dialogue(talk: Talk, chance: random.Random) -> None:
    for _ in range(4):
        talk.ask(some_lines(chance, 3))
    talk.close()


def in_pieces(talk: Talk, chance: random.Random) -> None:
    """A line of three segments."""
    line = TEXT[: chance.randrange(3, 500)]
    for piece in (line[:1], line[1:]):
        talk.send(b"", piece)
    talk.send(b"\n")
    talk.read(line + b"\n")
    talk.close()


def pipeline(talk: Talk, chance: random.Random) -> None:
    lines = some_lines(chance, 400)
    talk.ask(lines)
    talk.close()


def with_tail(talk: Talk, chance: random.Random) -> None:
    """What follows the last newline is counted, and not answered."""
    lines = some_lines(chance, 5)
    talk.send(lines, TEXT[: chance.randint(1, 1000)])
    talk.half_close()
    talk.read_to_end(lines)


def too_long(talk: Talk, chance: random.Random) -> None:
    """So long that the server does not get it at one reading."""
    lines = some_lines(chance, 5)
    talk.send(lines, bytes(OVERLONG_BYTES) + b"\nnever answered\n")
    talk.read_to_end(lines, "line_too_long")


def reset_when_answered(talk: Talk, chance: random.Random) -> None:
    talk.ask(some_lines(chance, 5))
    reset(talk.client)
    talk.tally.add(reset=1)


CERTAIN = {
    one_line: 58,
    half_closed: 14,
    dialogue: 4,
    in_pieces: 1,
    pipeline: 3,
    with_tail: 4,
    too_long: 1,
    reset_when_answered: 4,
}

# Conversations of which it is uncertain how much the server gets or gets rid of.


def vanish(talk: Talk, _chance: random.Random) -> None:
    reset(talk.client)
    talk.tally.add(unused=1)


def break_off(talk: Talk, chance: random.Random) -> None:
    """With replies on their way, and perhaps lines."""
    lines = some_lines(chance, 200)
    talk.send(lines)
    talk.read(lines[: lines.index(b"\n") + 1])
    reset(talk.client)


def leave(talk: Talk, chance: random.Random) -> None:
    """Without waiting for the reply."""
    talk.send(some_lines(chance, 20))
    talk.client.close()


def trail_off(talk: Talk, chance: random.Random) -> None:
    talk.send(b"", TEXT[: chance.randint(1, 1000)])
    talk.client.close()


WILD = {vanish: 3, break_off: 3, leave: 3, trail_off: 1}


class Mixed:
    """All kinds of conversations, one after the other, and some beside them that take time."""

    def __init__(self, host: str, index: int, words: list[str]) -> None:
        port, board, wild_port, wild_board = words
        self.host, self.port, self.wild_port = host, int(port), int(wild_port)
        self.tally = Board(Path(board)).row(2 * index)
        self.slow_tally = Board(Path(board)).row(2 * index + 1)
        self.wild_tally = Board(Path(wild_board)).row(index)
        self.chance = random.Random(index)
        self.kinds = CERTAIN | WILD

    def carry_out(self, connections: int, lines: int, idle: int) -> None:
        """So many connections, some of them idle, and at least so many lines."""
        lines += self.lines()
        with ThreadPoolExecutor(2) as pool:
            silent = [self.begin_idle() for _ in range(idle)]
            slow = self.begin_slow(pool)
            kinds, weights = list(self.kinds), list(self.kinds.values())
            for kind in self.chance.choices(kinds, weights, k=connections - idle - 1):
                self.hold(kind)
            while self.lines() < lines:
                self.hold(pipeline)
            for talk in silent:
                talk.read_to_end(b"", "idle")
            for part in slow:
                part.result()

    def lines(self) -> int:
        tallies = (self.tally, self.slow_tally, self.wild_tally)
        return sum(tally.of("lines_out") for tally in tallies)

    def hold(self, kind: Callable[[Talk, random.Random], None]) -> None:
        if kind in WILD:
            kind(Talk(self.wild_tally, self.host, self.wild_port), self.chance)
        else:
            kind(Talk(self.tally, self.host, self.port), self.chance)

    def begin_idle(self) -> Talk:
        """Says nothing more; the server ends it."""
        talk = Talk(self.tally, self.host, self.port)
        talk.ask(b"and then nothing\n")
        return talk

    def begin_slow(self, pool: ThreadPoolExecutor) -> list[Future[None]]:
        """Does not take its replies for a while: the server has to hold them."""
        talk = Talk(self.slow_tally, self.host, self.port, receive_buffer=4096)
        lines = (TEXT[:MAX_LINE_BYTES] + b"\n") * SLOW_LINES

        def send() -> None:
            talk.send(lines)
            talk.half_close()

        def take() -> None:
            pause(SLOW_SECONDS, "a slow reader takes nothing yet")
            talk.read_to_end(lines)

        # Two threads: who sends has to wait for the server, and that for who reads.
        return [pool.submit(send), pool.submit(take)]


class Restarted:
    """Dialogues with a server that is replaced repeatedly. None is refused, and every one gets a
    first reply. After it come whole lines of replies, up to a clean close.
    """

    def __init__(self, host: str, port: int, board: Board) -> None:
        self.host, self.port, self.board = host, port, board
        self.over = threading.Event()

    def run(self) -> None:
        with ThreadPoolExecutor(RESTARTED_CLIENTS) as pool:
            parts = [pool.submit(self.go_on, index) for index in range(RESTARTED_CLIENTS)]
            sys.stdin.read()
            self.over.set()
        for part in parts:
            part.result()

    def go_on(self, index: int) -> None:
        tally, chance = self.board.row(index), random.Random(index)
        while not self.over.wait(0.005):
            talk = Talk(tally, self.host, self.port)
            with talk.client:
                if chance.randrange(3) == 0:
                    pause(HESITATION_SECONDS, "a client that hesitates before its first line")
                if chance.randrange(2):
                    self.half_close(talk, some_lines(chance, 50))
                else:
                    self.speak(talk, chance)

    def speak(self, talk: Talk, chance: random.Random) -> None:
        heard_at = talk.began
        for number in range(chance.randint(1, 20)):
            line = some_lines(chance, 1)
            late = monotonic() - heard_at >= LATE_SECONDS  # this process has stood still
            try:
                talk.send(line)
                reply = read_up_to(talk.client, 4 + len(line))
            except ConnectionError:
                assert late, f"reset after {number} replies"
                return
            if not reply and (number or late):
                return
            assert reply == expected(line), f"{reply!r} after {number} replies"
            talk.got(line, reply)
            heard_at = monotonic()

    def half_close(self, talk: Talk, lines: bytes) -> None:
        talk.send(lines)
        talk.half_close()
        replies = read_to_end(talk.client)
        assert replies.endswith(b"\n"), f"{replies!r} for {lines!r}"
        assert expected(lines).startswith(replies), f"{replies!r} for {lines!r}"
        answered = lines.split(b"\n")[: replies.count(b"\n")]
        talk.got(b"".join(line + b"\n" for line in answered), replies)


def read_up_to(client: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer if the stream ends."""
    data = b""
    while len(data) < size and (piece := client.recv(size - len(data))):
        data += piece
    return data


def main(kind: str, host: str, *words: str) -> None:
    if kind == "restarted":
        Restarted(host, int(words[0]), Board(Path(words[1]))).run()
        return
    mixed = Mixed(host, int(words[0]), list(words[1:]))
    for order in sys.stdin:
        mixed.carry_out(*map(int, order.split()))
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
