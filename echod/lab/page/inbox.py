"""Commands from the page's threads to the thread that runs the lab."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, Full, Queue
from threading import Event

PATIENCE_SECONDS = 15.0
MOST_WAITING = 16

BUSY = "error: the lab is busy; try again"


class _Letter:
    """A command and its answer."""

    def __init__(self, line: str) -> None:
        self.line = line
        self.answer = BUSY
        self.answered = Event()


class Inbox:
    """A queue of commands that wait for an answer."""

    def __init__(self) -> None:
        self._letters: Queue[_Letter] = Queue(MOST_WAITING)

    def ask(self, line: str) -> str:
        """Queue a line, and wait for its answer. Called by any thread."""
        letter = _Letter(line)
        try:
            self._letters.put_nowait(letter)
        except Full:
            return BUSY
        letter.answered.wait(PATIENCE_SECONDS)
        return letter.answer

    def poll(self, answer: Callable[[str], str]) -> None:
        """Answer queued commands. Called by the lab's thread."""
        for _ in range(MOST_WAITING):
            try:
                letter = self._letters.get_nowait()
            except Empty:
                return
            try:
                letter.answer = answer(letter.line)
            finally:
                letter.answered.set()
