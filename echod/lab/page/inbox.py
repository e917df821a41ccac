"""Commands of the page's threads, for the one thread that runs the lab."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, Full, Queue
from threading import Event

PATIENCE_SECONDS = 15.0
MOST_WAITING = 16

BUSY = "error: the lab is busy; try again"


class _Letter:
    """A command, and the answer to it."""

    def __init__(self, line: str) -> None:
        self.line = line
        self.answer = BUSY
        self.answered = Event()


class Inbox:
    """Lines in, answers out."""

    def __init__(self) -> None:
        self._letters: Queue[_Letter] = Queue(MOST_WAITING)

    def ask(self, line: str) -> str:
        """Hands over a line and waits for its answer. Called by any thread."""
        letter = _Letter(line)
        try:
            self._letters.put_nowait(letter)
        except Full:
            return BUSY
        letter.answered.wait(PATIENCE_SECONDS)
        return letter.answer

    def poll(self, answer: Callable[[str], str]) -> None:
        """Answers what has come. Called by the lab's own thread."""
        for _ in range(MOST_WAITING):
            try:
                letter = self._letters.get_nowait()
            except Empty:
                return
            try:
                letter.answer = answer(letter.line)
            finally:
                letter.answered.set()
