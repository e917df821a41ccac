"""Commands from the page's threads to the thread that runs the lab."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Event, Lock

PATIENCE_SECONDS = 15.0
MOST_WAITING = 16

BUSY = "error: the lab is busy; try again"
"""The answer to a command that the lab has not begun in time, and will not carry out."""
ENDED = "error: the lab has ended"


class _Letter:
    """A command and its answer."""

    def __init__(self, line: str) -> None:
        self.line = line
        self.answer = ENDED
        self.answered = Event()


class Inbox:
    """A queue of commands that wait for an answer."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._letters: deque[_Letter] = deque()
        """Commands that the lab has not begun."""

    def ask(self, line: str) -> str:
        """Queue a line, and wait for its answer. Called by any thread."""
        letter = _Letter(line)
        with self._lock:
            if len(self._letters) == MOST_WAITING:
                return BUSY
            self._letters.append(letter)
        if not letter.answered.wait(PATIENCE_SECONDS):
            with self._lock:
                if letter in self._letters:
                    self._letters.remove(letter)
                    return BUSY
            letter.answered.wait()
        return letter.answer

    def poll(self, answer: Callable[[str], str]) -> None:
        """Answer queued commands. Called by the lab's thread."""
        for _ in range(MOST_WAITING):
            with self._lock:
                if not self._letters:
                    return
                letter = self._letters.popleft()
            try:
                letter.answer = answer(letter.line)
            finally:
                letter.answered.set()
