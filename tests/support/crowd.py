"""Clients of every habit, many at a time, driven by one thread."""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from time import monotonic

from support import PATIENCE, Echod, unsent_bytes

PREFIX = "x" * 64
MIX_SECONDS = 0.8
"""All clients have come by then."""
SPEAKING_SECONDS = 0.5
"""How long clients may send after the last port has closed. It ends before the linger deadline,
after which a reset is right."""
MUCH_BYTES = 150_000
"""Replies to so much are more than the kernel keeps for a client that takes nothing."""
SLOW_BYTES = 16384
"""What a slow reader takes in a turn."""


@dataclass(frozen=True)
class Habit:
    """The behavior of a kind of client. It sends a random number of lines, from ``least`` to
    ``most``. If it has a ``window``, it sends more as soon as fewer lines than that are unanswered.
    A ``late`` client reads no reply before the signal.
    """

    least: int = 0
    most: int = 0
    window: int = 0
    begins_a_line: bool = False
    half_closes: bool = False
    late: bool = False
    takes: float = inf  # bytes in a turn
    paddings: tuple[int, ...] = (0, 1, 200)  # bytes


HABITS = {
    "just connected": Habit(),
    "idle": Habit(1, 3),
    "half a line": Habit(0, 3, begins_a_line=True),
    "half-closed": Habit(0, 2000, half_closes=True),
    "half-closed, half a line": Habit(0, 100, begins_a_line=True, half_closes=True),
    "half-closed, slow": Habit(500, 5000, half_closes=True, takes=SLOW_BYTES),
    "slow, and goes on": Habit(500, 5000, window=1_000_000, takes=SLOW_BYTES),
    "ping-pong": Habit(1, 1, window=1),
    "pipelining": Habit(1, 100, window=100),
}
LATE = {
    "half-closed, late": Habit(60_000, 60_000, half_closes=True, late=True, paddings=(0,)),
    "late, and goes on": Habit(60_000, 60_000, window=1_000_000, late=True, paddings=(0,)),
}
"""With a long prefix, the last of these lines wait as input behind unsent replies."""
MUTE = Habit(30_000, 30_000, takes=0, paddings=(200,))
"""Its replies are more than the kernel keeps for a connection."""


class Client:
    """One client, which takes its turns and never blocks."""

    def __init__(self, habit: Habit, chance: random.Random, number: int, port: int) -> None:
        self.habit = habit
        self.port = port
        self.arrived: bytes | None = None  # of what it sent: known to have, before the signal
        self.end = ""  # or eof, reset, refused
        self.replies = bytearray()
        self._chance = chance
        self._number = number
        self._lines = self._answered = 0
        self._socket: socket.socket | None = None
        self._said = b""  # of which so many bytes are sent
        self._sent = 0
        patient = habit is MUTE or habit.late
        self._begins_at = monotonic() + chance.uniform(0, 0.1 if patient else MIX_SECONDS)
        self._speaks_at = self._begins_at + chance.choice([0, 0.1, 0.5]) * chance.random()

    @property
    def sent(self) -> bytes:
        return self._said[: self._sent]

    def close(self) -> None:
        if self._socket:
            self._socket.close()

    def turn(self, now: float, silent_at: float) -> None:
        """A little of everything that can be done now."""
        try:
            if not self._socket:
                if now >= self._begins_at:
                    self._connect()
            elif not self.end:
                if now < silent_at:
                    self._speak(now)
                if silent_at < inf or not self.habit.late:
                    self._listen()
        except BlockingIOError:
            pass
        except (ConnectionResetError, BrokenPipeError):
            self.end = "reset"
        except ConnectionRefusedError:
            self.end = "refused"

    def note_what_has_arrived(self) -> None:
        """Just before the signal."""
        if self.end:
            self.arrived = self.sent
        elif self._socket:
            # The end of the stream counts for one, and is the last to be acknowledged.
            self.arrived = self.sent[: max(len(self.sent) - unsent_bytes(self._socket), 0)]

    def hear_out(self) -> None:
        """At the end, checks what a mute client has received."""
        if not self._socket or self.end:
            return
        self._socket.settimeout(PATIENCE)  # the kernel may still be sending
        try:
            while data := self._socket.recv(1 << 20):
                self.replies += data
            self.end = "eof"
        except ConnectionResetError:
            self.end = "reset"

    def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_INET6 if self._number % 2 else socket.AF_INET)
        if self.habit.takes < inf:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BYTES)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(("::1" if self._number % 2 else "127.0.0.1", self.port))
        self._socket.setblocking(False)

    def _speak(self, now: float) -> None:
        assert self._socket
        unanswered = self._lines - self._answered if self._lines else -1
        done = self._sent == len(self._said) and now >= self._speaks_at
        if done and unanswered < self.habit.window:
            self._said += self._more()
        if self._sent < len(self._said):
            self._sent += self._socket.send(memoryview(self._said)[self._sent :])
            if self.habit.half_closes and self._sent == len(self._said):
                with suppress(OSError):  # reset meanwhile, which is to be heard of below
                    self._socket.shutdown(socket.SHUT_WR)

    def _more(self) -> bytes:
        count = self._chance.randint(self.habit.least, self.habit.most)
        if self._lines:
            count = min(count, 100)
        first, self._lines = self._lines, self._lines + max(count, 1)
        padding = b"." * self._chance.choice(self.habit.paddings)
        lines = [
            b"%d:%d%s\n" % (self._number, each, padding) for each in range(first, first + count)
        ]
        return b"".join(lines) + b"half a li" * self.habit.begins_a_line

    def _listen(self) -> None:
        assert self._socket
        room = self.habit.takes
        while room > 0:
            data = self._socket.recv(int(min(room, 1 << 18)))
            if not data:
                self.end = "eof"
                self._socket.close()
                return
            self.replies += data
            self._answered += data.count(b"\n")
            room -= len(data)


class Crowd:
    """The clients of one process, driven by the test's own thread."""

    def __init__(self, echod: Echod, chance: random.Random, size: int, *, mutes: bool) -> None:
        habits = chance.choices([*HABITS.values()], k=size)
        habits[: size // 20] = chance.choices([*LATE.values()], k=size // 20)
        if mutes:
            habits[-(size // 20) :] = [MUTE] * (size // 20)
        self.clients = [
            Client(habit, chance, number, chance.choice(echod.ports))
            for number, habit in enumerate(habits)
        ]
        self.mutes = [client for client in self.clients if client.habit is MUTE]
        self.others = [client for client in self.clients if client.habit is not MUTE]
        self._chance = chance

    def run(self, seconds: float) -> None:
        """Lets all clients act in random order and not equally often. It stops when the mute ones
        have sent more than can be taken of the replies.
        """
        began = monotonic()
        while (now := monotonic()) < began + seconds or not self._mutes_are_stuck():
            assert now < began + seconds + PATIENCE
            self._turn(now, inf)

    def _mutes_are_stuck(self) -> bool:
        return all(len(client.sent) >= MUCH_BYTES for client in self.mutes)

    def run_to_the_end(self, delay: float) -> None:
        """The same until all have ended that ever will; the ports close after ``delay``."""
        silent_at = monotonic() + delay + SPEAKING_SECONDS
        deadline = monotonic() + PATIENCE
        while any(not client.end for client in self.others):
            now = monotonic()
            assert now < deadline
            self._turn(now, silent_at)

    def _turn(self, now: float, silent_at: float) -> None:
        for client in self._chance.sample(self.clients, len(self.clients) // 3):
            client.turn(now, silent_at)
        select.select([], [], [], 0.001)


@contextmanager
def crowd(echod: Echod, chance: random.Random, size: int, *, mutes: bool) -> Iterator[Crowd]:
    made = Crowd(echod, chance, size, mutes=mutes)
    try:
        yield made
    finally:
        for client in made.clients:
            client.close()
