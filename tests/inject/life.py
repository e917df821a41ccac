"""The scripted life of an echod: every kind of client, scrapes, a full house, a drain."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import Metrics, Sockets, connect, get, pause

from inject import clients
from inject.clients import Script, Talk
from inject.injector import Control
from inject.process import Hang, Process, Refused, wait_for

PLACES = 5
"""Connections at a time."""
IDLE_SECONDS = 3000.0
"""By the clock that the life moves."""
OPTIONS = {
    "--max-connections": str(PLACES),
    "--max-line-bytes": str(clients.MAX_LINE_BYTES),
    "--idle-timeout": str(IDLE_SECONDS),
    "--write-timeout": "none",
    "--drain-timeout": "20",
}
PATIENCE = 30.0
"""Of a client, for a reply or an end."""
STOP_SECONDS = 3.0
"""Longest time until a drain closes the ports."""
REST_SECONDS = 5.0
"""Longest time in which what is closed goes."""


@dataclass
class Record:
    """What a life has left."""

    talks: list[Talk] = field(default_factory=list)
    scrapes: dict[str, str] = field(default_factory=dict)  # those that failed
    refused: bool = False
    hang: str = ""
    status: int | None = None
    errors: str = ""
    log: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    metrics: Metrics | None = None  # at rest
    at_first: tuple[list[str], int] = ([], 0)  # descriptors and threads, when it was ready
    at_rest: tuple[list[str], int] = ([], 0)  # the same, when every client had gone
    told: list[str] = field(default_factory=list)
    cut_short: str = ""  # by a stop
    left: bool = True  # whether the process was still there


class Waiting:
    """A client that has sent all. It takes its replies amid the drain that a stop begins, or when
    the script calls for them.
    """

    def __init__(
        self, talk: Talk, client: socket.socket | None, control: Control, process: Process
    ) -> None:
        self._talk = talk
        self._client = client
        self._control = control
        self._process = process
        self._told = threading.Event()
        if client:
            client.shutdown(socket.SHUT_WR)
        talk.owed = client is not None and not control["done"]
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()

    def take_all(self) -> None:
        """Takes them, and returns when they have come."""
        self._told.set()
        self._thread.join()

    def _wait(self) -> None:
        while not (self._control["done"] or self._told.wait(0.002)):
            pass
        if not self._client:
            return
        with suppress(FileNotFoundError, Hang):
            # If no drain begins, it goes on soon; otherwise connections hear of it in a moment.
            wait_for(lambda: self._told.is_set() or self._is_draining(), "a drain", STOP_SECONDS)
            pause(0.05, "the ports are closed first, connections drain next")
        clients.take_all(self._client, self._talk)

    def _is_draining(self) -> bool:
        return self._talk.port not in self._process.listening()


class Life:
    """One run of the script."""

    def __init__(
        self, directory: Path, control: Control, *, inherited: bool = False, stops: bool = False
    ) -> None:
        """``stops``: a signal that ends it will come. Then a client has replies to come at nearly
        every point of it.
        """
        self.record = Record()
        self._directory = directory
        self._control = control
        self._inherited = inherited
        self._stops = stops
        self._active = 0
        self._waiting: list[Waiting] = []

    def live(self) -> Record:
        record = self.record
        with ExitStack() as held:
            words = [word for pair in OPTIONS.items() for word in pair]
            sockets = None
            if self._inherited:
                sockets = inheritable(held)
                arguments = words
            else:
                arguments = ["0,0,0", "one", "--metrics-port", "0", *words]
            self.process = Process(self._directory, arguments, self._control, sockets)
            held.callback(self.process.close)
            try:
                (self._live_until_stopped if self._stops else self._live)(held)
            except Refused:
                record.refused = True
            except Hang as hang:
                record.hang = str(hang)
            record.left = self.process.process.poll() is None
            record.status = self.process.process.returncode
            record.errors = self.process.errors
            record.log, record.events = self.process.log(), self.process.events()
            record.told = self.process.manager.read()
        return record

    def _live(self, held: ExitStack) -> None:
        self.process.ready()
        self.record.ports, self.metrics_port = self.process.ports()
        self.record.at_first = self.process.descriptors(), self.process.threads()
        if self._inherited:
            self._serve_ports()
        else:
            self._serve_everyone(held)
        self._rest()
        self._drain(held)
        self.process.wait()

    def _live_until_stopped(self, held: ExitStack) -> None:
        """As much of it as there is."""
        try:
            self._live(held)
        except (Refused, FileNotFoundError, Hang) as end:  # it is closing, or has ended already
            if not self._stopped:
                raise
            self.record.cut_short = repr(end)
            self.process.terminate()  # a repetition
            for waiting in self._waiting:
                waiting.take_all()
            self.process.wait()

    @property
    def _stopped(self) -> bool:
        return self._stops and self._control["done"] > 0

    # The parts of the script.

    def _serve_ports(self) -> None:
        for port in self.record.ports:
            self._talk("ping-pong", port, "eof", clients.ping_pong)
        self._scrape("/metrics")

    def _serve_everyone(self, held: ExitStack) -> None:
        one, two, three = self.record.ports
        waiting = self._wait_for_replies(held)
        silent = self._open(held, "silent", one, "idle")
        self._serve_ports()
        if waiting:
            waiting.take_all()  # or it would be taken for idle
        self.process.clock.move(IDLE_SECONDS + 1)
        self._wait_for_replies(held)
        self._talk("after the silence", one, "eof", clients.ping_pong)
        self._end(*silent)
        self._talk("pipeline", two, "eof", clients.pipeline)
        self._talk("long line", three, "eof", clients.long_line)
        self._talk("line that is too long", one, "line_too_long", clients.too_long)
        self._talk("slow reader", two, "eof", clients.slow_reader, receive_buffer=4096)
        self._talk("unfinished line", three, "eof", clients.unfinished)
        self._talk("reset", one, "reset", clients.break_off)
        self._talk("unused", two, "unused", clients.say_nothing)
        for path, accept in (
            ("/metrics", "application/openmetrics-text;version=1.0.0"),
            ("/livez", ""),
            ("/readyz", ""),
            ("/nothing", ""),
        ):
            self._scrape(path, accept)
        self._fill_the_house(three)

    def _wait_for_replies(self, held: ExitStack) -> Waiting | None:
        """Where a stop comes, a client to whom more is due than the kernel takes, from now on."""
        if not self._stops:
            return None
        port = self.record.ports[1]
        talk, client = self._open(
            held, "with replies to come", port, "eof", b"\n" * 60_000, b"one \n", 4096
        )
        waiting = Waiting(talk, client, self._control, self.process)
        held.callback(waiting.take_all)
        self._waiting.append(waiting)
        return waiting

    def _fill_the_house(self, port: int) -> None:
        self._until_active(int(self._stops))
        with ExitStack() as house:
            full: list[tuple[Talk, socket.socket | None]] = []
            while sum(talk.heard == talk.wanted for talk, _ in full) < PLACES - self._active:
                full.append(self._open(house, "in a full house", port, "eof"))
                if len(full) > PLACES + 1 or self._stopped:
                    raise Hang("the house does not fill")
            self._talk("one too many", port, "rejected", clients.be_rejected)
            for talk, client in full:
                with suppress(OSError):
                    if client:
                        client.shutdown(socket.SHUT_WR)
                self._end(talk, client)

    def _rest(self) -> None:
        """All is as it was, which takes the process a moment. Where a stop comes, one client is
        still there.
        """
        self._until_active(int(self._stops))
        deadline = time.monotonic() + REST_SECONDS
        while self.record.at_rest != self.record.at_first and time.monotonic() < deadline:
            if self._stops:
                return
            self.record.at_rest = self.process.descriptors(), self.process.threads()
            pause(0.005, "what clients have closed is closed soon")

    def _drain(self, held: ExitStack) -> None:
        """A stop while clients wait, have begun a line, and have not taken their replies."""
        first, *_, last = self.record.ports
        waiting = self._open(held, "waiting at the stop", first, "drain")
        begun = self._open(held, "in a line at the stop", first, "drain", b"x\nabc", b"one x\n")
        slow = self._open(held, "slow at the stop", last, "drain", b"\n" * 60_000, b"one \n", 4096)
        self.process.terminate()
        for talk, client in (waiting, begun, slow):
            self._end(talk, client)
        for one in self._waiting:
            one.take_all()

    # Clients.

    def _open(
        self,
        held: ExitStack,
        name: str,
        port: int,
        reason: str,
        line: bytes = b"hello\n",
        reply: bytes = b"one hello\n",
        receive_buffer: int = 0,
    ) -> tuple[Talk, socket.socket | None]:
        """A client that has said a line, and stays."""
        talk = Talk(name, port, reason, line)
        self.record.talks.append(talk)
        try:
            client = held.enter_context(_connected(port, receive_buffer))
            client.sendall(line)
            while len(talk.heard) < len(reply) and (piece := client.recv(len(reply))):
                talk.heard += piece
        except OSError as error:
            talk.end = clients.word(error)
            return talk, None
        return talk, client

    def _end(self, talk: Talk, client: socket.socket | None) -> None:
        """Reads what is left, to the end."""
        if client is not None:
            clients.take_all(client, talk)

    def _talk(
        self,
        name: str,
        port: int,
        reason: str,
        script: Script,
        receive_buffer: int = 0,
    ) -> None:
        """One client from beginning to end."""
        talk = Talk(name, port, reason)
        self.record.talks.append(talk)
        try:
            with _connected(port, receive_buffer) as client:
                script(client, talk)
        except OSError as error:
            talk.end = clients.word(error)
        except clients.EndOfTalk:
            pass

    def _scrape(self, path: str, accept: str = "") -> bytes:
        headers = {"Accept": accept} if accept else {}
        try:
            status, body, _ = get(self.metrics_port, path, **headers)
        except Exception as error:  # noqa: BLE001  # whatever the HTTP client makes of it
            self.record.scrapes[f"{path} {len(self.record.scrapes)}"] = repr(error)
            return b""
        if status != (404 if path == "/nothing" else 200):
            self.record.scrapes[f"{path} {len(self.record.scrapes)}"] = f"{status} {body!r}"
        return body

    def _until_active(self, most: int) -> None:
        """By scrapes, of which one may fail."""

        def look() -> bool:
            body = self._scrape("/metrics")
            if len(self.record.scrapes) > 5 or (self.record.scrapes and self._stopped):
                raise Hang(f"scrapes fail again and again: {self.record.scrapes}")
            if body:
                self.record.metrics = Metrics(body.decode())
                self._active = int(self.record.metrics("echod_connections_active"))
            return bool(body) and self._active <= most

        wait_for(look, f"{most} active connections")


def inheritable(held: ExitStack) -> Sockets:
    """Two for echo and one for metrics, listening already."""
    made = []
    for _ in range(3):
        one = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        made.append(one)
    return Sockets(echo=made[:2], metrics=made[2:])


def _connected(port: int, receive_buffer: int) -> socket.socket:
    client = connect(port, receive_buffer=receive_buffer) if receive_buffer else connect(port)
    client.settimeout(PATIENCE)
    return client
