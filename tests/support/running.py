"""A service in the test's own process, for what cannot be done to a process from outside."""

from __future__ import annotations

import json
import os
import threading
from time import monotonic
from typing import Any

import pytest

from echod.config.options import load
from echod.echo.handler import LineHandler
from echod.loop.event_loop import EventLoop
from echod.loop.listeners import Listener, bind
from echod.process.capacity import METRICS_CLIENTS, Capacity
from echod.process.lifecycle import Service, State
from echod.telemetry.log_writer import LogWriter, make_logger
from support import PATIENCE, Metrics, get, until


class Running:
    """Two echo ports and a metrics port, with a list of events instead of the log's pipe."""

    def __init__(self, *, inherited: bool = False, **flags: str) -> None:
        self.lines: list[str] = []
        config = load({"ports": "0,0", "prefix": "one", "metrics_port": "0"} | flags, {})
        self.writer = LogWriter(os.open(os.devnull, os.O_WRONLY))
        for level in ("msg", "debug", "info", "warning", "error"):
            setattr(self.writer, level, self.lines.append)
        logger = make_logger(self.writer, config.log_level, console=False, colors=False)
        bound = [bind("PORTS", "127.0.0.1", 0) for _ in config.ports]
        listeners = [Listener(one.socket, inherited=inherited) for one in bound]
        metrics = bind("--metrics-port", "127.0.0.1", 0)
        fits = Capacity(1 << 20, config.max_connections, METRICS_CLIENTS)
        self.service = Service(config, listeners, metrics, fits, self.writer, logger)
        self.port = listeners[0].port
        self.other_port = listeners[1].port
        self.metrics_port = metrics.port
        self.service.start_threads()
        self.service.listen()
        self.service.start()

    def events(self, name: str = "") -> list[dict[str, Any]]:
        events = [json.loads(line) for line in self.lines]
        return [event for event in events if event["event"].startswith(name)]

    def get(self, path: str) -> tuple[int, bytes]:
        return get(self.metrics_port, path)[:2]

    def metrics(self) -> Metrics:
        return Metrics(self.get("/metrics")[1].decode())

    def close(self) -> None:
        self.service.state = State.DRAINING
        for step in (
            self.service.stop_accepting,
            lambda: self.service.drain(2),
            self.service.stop_exporter,
        ):
            for part in step():
                until(lambda part=part: not part.is_alive())  # type: ignore[misc]
        self.writer.close(PATIENCE)
        os.close(self.writer._descriptor)


class StandingClock:
    """Time that stands still until it is moved: what happens at which time does not depend on the
    machine.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self._going_since: float | None = None

    def __call__(self) -> float:
        if self._going_since is None:
            return self.now
        return self.now + monotonic() - self._going_since

    def go(self) -> None:
        """Goes on like any other from now on."""
        self._going_since = monotonic()

    def move(self, seconds: float, *loops: EventLoop) -> None:
        """Moves the clock, and has each of these threads run the timers that have expired."""
        self.now += seconds
        for loop in loops:
            for _ in range(2):  # the second call is made when the round of the first is over
                made_in(loop)


def connections_of(loop: EventLoop) -> list[LineHandler]:
    """The connections that a handler thread serves now."""
    return [one for one in list(loop._registered) if isinstance(one, LineHandler)]


def made_in(loop: EventLoop) -> None:
    """Returns when a call has been made in this thread, or when it has ended."""
    made = threading.Event()
    loop.post(made.set)
    until(lambda: made.is_set() or not loop.is_alive())


class Timed(Running):
    """The same with its own clock, which stands still until it is moved."""

    def __init__(self, **flags: str) -> None:
        self.clock = StandingClock()
        self._patches = pytest.MonkeyPatch()
        for module in (
            "loop.acceptor",
            "loop.event_loop",
            "telemetry.throttling",
            "echo.server",
            "process.lifecycle",
        ):
            self._patches.setattr(f"echod.{module}.monotonic", self.clock)
        super().__init__(inherited=False, **flags)
        assert self.service.exporter
        self.exporter = self.service.exporter.loop

    def move(self, seconds: float) -> None:
        """Moves the clock, and has all threads run the timers that have expired."""
        self.clock.move(seconds, *self.service.handlers, self.exporter)

    def close(self) -> None:
        """Time goes on for that."""
        self.clock.go()
        super().close()
        self._patches.undo()
