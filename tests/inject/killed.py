"""A process behind inherited sockets that is killed at any call, and the next one in its place."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from pathlib import Path

from support import connect

from inject import clients
from inject.clients import EndOfTalk, Talk
from inject.injector import SIGNAL, Control
from inject.life import inheritable
from inject.process import Process
from inject.verdict import Verdict

TALKS = 12
PATIENCE = 30.0
BROKEN_OFF = ("end", "ConnectionResetError", "BrokenPipeError")
"""How a client finds that the process has been killed which served it."""


class Replaced:
    """Two processes, one after the other, and clients that know nothing of it."""

    def __init__(self, directory: Path, library: Path) -> None:
        self._directory = directory
        self.control = Control(library, directory / "control")
        self._none = Control(library, directory / "none")
        self.talks: list[Talk] = []  # in the order of their ends
        self.problems: list[str] = []

    def live(self, number: int) -> Verdict:
        """``number`` of the call at which the first process is killed."""
        self.control.plan("any", number, SIGNAL, signal.SIGKILL)
        with ExitStack() as held:
            self._sockets = inheritable(held)
            self._ports = [one.getsockname()[1] for name, one in self._sockets.named][:2]
            first = self._start("first", self.control, held)
            waiting = threading.Thread(target=self._call, args=("waiting since the start", 0))
            replacing = threading.Thread(target=self._replace, args=(first, held))
            for thread in (waiting, replacing):
                thread.start()
            for turn in range(TALKS):
                self._call("ping-pong" if turn % 3 else "pipeline", turn)
            if first.process.poll() is None:  # its life was not long enough
                first.terminate()
            for thread in (waiting, replacing):
                thread.join(4 * PATIENCE)
            self._end()
        return Verdict("replaced" if self.control["done"] else "not met", self.problems)

    def _start(self, name: str, control: Control, held: ExitStack) -> Process:
        own = self._directory / name
        own.mkdir()
        process = Process(own, [], control, self._sockets)
        held.callback(process.close)
        return process

    def _replace(self, first: Process, held: ExitStack) -> None:
        """As a service manager does."""
        first.process.wait()
        self.second = self._start("second", self._none, held)

    def _call(self, name: str, turn: int) -> None:
        talk = Talk(name, self._ports[turn % 2], "eof")
        self.talks.append(talk)
        script = clients.pipeline if name == "pipeline" else clients.ping_pong
        try:
            with connect(talk.port) as client:
                client.settimeout(PATIENCE)
                script(client, talk)
        except OSError as error:
            talk.end = clients.word(error)
        except EndOfTalk:
            pass

    def _end(self) -> None:
        """Everything after the kill was served, and the second process drains."""
        self._call("after it all", 0)
        self.second.terminate()
        if status := self.second.wait():
            self.problems.append(f"exit status {status}")
        if self.second.errors:
            self.problems.append(self.second.errors[-300:])
        damaged = [talk for talk in self.talks if talk.damaged]
        if self.talks[-1].damaged or len(damaged) > 2:  # one at a time, and the one that waits
            self.problems.append(f"ended: {', '.join(map(str, damaged))}")
        wrong = [talk for talk in damaged if talk.end not in BROKEN_OFF]
        if wrong:
            self.problems.append(f"not served: {', '.join(map(str, wrong))}")
