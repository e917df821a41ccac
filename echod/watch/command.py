"""``echod probe --watch``: the parts put together, from the start to the last report."""

from __future__ import annotations

import gc
import os
import platform
import sys
import threading
from contextlib import ExitStack
from enum import IntEnum
from threading import Lock
from time import monotonic
from typing import Any, Protocol

from echod import __version__
from echod.config.runtime import gil_enabled
from echod.errors import SystemRefused
from echod.loop.listeners import bind, listen
from echod.loop.sockets import close
from echod.loop.threads import start
from echod.probe import watch_options
from echod.probe.arguments import Settings
from echod.probe.command import route_reader, rules_for, target_of
from echod.probe.conversation import Conversation, Names
from echod.probe.expectation import Expectation, parse
from echod.probe.result import expected_text
from echod.probe.tally import Outcome
from echod.telemetry.events import Logger, described
from echod.telemetry.exporter import Exporter
from echod.telemetry.log_writer import LogWriter, make_logger
from echod.watch.following import LOOK_SECONDS, Followed, from_text
from echod.watch.health import Health
from echod.watch.metrics import Sources, make_registry
from echod.watch.sampling import Sampling
from echod.watch.sentinel import Sentinel
from echod.watch.troubles import Troubles

DAY_SECONDS = 86_400.0
"""Minimum mean time to a false all-clear."""

METRICS_CLIENTS = 20

STOP_SECONDS = 0.2
"""Maximum wait at the end for a client of the metrics port."""

LOG_SECONDS, LATE_LOG_SECONDS = 0.2, 0.5
"""Maximum waits at the end for a stalled log reader, and for the log writer's thread."""

STDOUT = 1


class Request(Protocol):
    """A signal that stops the watch."""

    @property
    def signal(self) -> IntEnum:
        """The signal that was received."""


class Signals(Protocol):
    """The interface of the signals that stop a watch."""

    def wait(self, timeout: float | None = None) -> Request | None:
        """The next request, or None after ``timeout`` seconds without one."""


class Watch:
    """The parts of a watch: the sentinel, its samples, its metrics port and its log."""

    def __init__(self, settings: Settings, logger: Logger, writer: LogWriter) -> None:
        """Read the expectation. Raises UsageError."""
        self.settings = settings
        self.logger = logger
        self.writer = writer
        self.followed = _followed(settings)
        rate = settings.rate or watch_options.RATE
        expectation = self.followed.expectation if self.followed else parse(settings.expect)
        known = rules_for(settings, expectation).named
        self._service = Conversation(settings.service, settings.host, known)
        self.sentinel = Sentinel(
            lambda one: rules_for(settings, one),
            expectation,
            self._report,
            threshold=rate * settings.false_alarm,
            enough=rate * DAY_SECONDS,
            settle=settings.settle,
            kinds=self._service.kinds,
        )
        self._troubles = Troubles(logger)
        self._target = target_of(settings, self._service)
        self.sampling = Sampling(
            self._target,
            self._take,
            lambda problem: self._troubles.look_up(problem, self.sampling.seconds),
            rate=rate,
            concurrency=settings.concurrency,
        )
        self.health = Health(lambda: self.sampling.ended, 1 / rate + settings.timeout)
        self.exporter: Exporter | None = None

    def serve_metrics(self, sockets: ExitStack) -> None:
        """Bind the metrics port, unless it is off. Raises SystemRefused."""
        if self.settings.metrics_port is None:
            return
        listener = bind("--metrics-port", self.settings.metrics_address, self.settings.metrics_port)
        sockets.callback(close, listener.socket)
        sources = Sources(
            self.sentinel,
            lambda: self.sampling.skipped,
            lambda: not (self.followed and self.followed.problem),
            lambda: self.writer.dropped,
        )
        pages = self.health.pages(make_registry(sources))
        self.exporter = Exporter(listener, pages, self._bug, Lock(), METRICS_CLIENTS)

    def begin(self) -> None:
        """Start every thread, listen, and start sampling. Raises SystemRefused."""
        start([self.writer, *([self.exporter.loop] if self.exporter else [])])
        settings, sentinel = self.settings, self.sentinel
        self.logger.info(
            "starting",
            release=__version__,
            python=platform.python_version(),
            gil=gil_enabled(),
            pid=os.getpid(),
            target=str(self._target),
            expected=expected_text(sentinel.expectation),
            rate=settings.rate,
            false_alarm=settings.false_alarm,
        )
        if self.exporter:
            listener = self.exporter.listener
            listen(listener)
            self.logger.info(f"metrics on {listener.address}", port=listener.port)
            self.exporter.loop.ask(self.exporter.acceptor.start)
        self.sampling.begin()
        self.health.state = "ready"
        self.logger.info("ready")

    def look(self) -> None:
        """Check samples and files; called about twice a second. Raises what ended the sampling."""
        self.health.look()
        if self.sampling.refused:
            raise self.sampling.refused
        if taken := self._target.taken_address:
            self._troubles.take_address(taken, self._target.found, self.sampling.seconds)
        followed = self.followed
        if followed is None or not followed.look():
            return
        if followed.problem:
            self.logger.warning(
                "expectation invalid, keeping the previous one", problem=followed.problem
            )
        elif followed.expectation != self.sentinel.expectation:
            self._expect(followed.expectation)
        else:
            expected = expected_text(followed.expectation)
            self.logger.info("expectation valid again", expected=expected)

    def _expect(self, expectation: Expectation) -> None:
        known = rules_for(self.settings, expectation).named
        self._service.names = Names(self.settings.service.names, known)
        self.sentinel.change(expectation, self.sampling.seconds)

    def stop(self, **facts: Any) -> None:
        """End all threads, and log the last report with ``facts``."""
        self.health.state = "stopping"
        self.sampling.stop()
        self._service.close()
        if self.exporter and self.exporter.loop.is_alive():
            self.exporter.loop.stop(monotonic() + STOP_SECONDS)
            self.exporter.loop.join(2 * STOP_SECONDS)
        counts = self.sentinel.counts
        self.logger.info(
            "stopped",
            **facts,
            seconds=round(self.sampling.seconds, 3),
            verdict=self.sentinel.verdict.value,
            verdict_changes=self.sentinel.changes,
            connections=dict(counts.connections),
            failures=dict(+counts.failures),
            skipped=self.sampling.skipped,
        )

    def _take(self, outcome: Outcome) -> None:
        self._troubles.add(outcome)
        self.sentinel.take(outcome)

    def _report(self, event: str, **facts: Any) -> None:
        log = self.logger.error if event == "alarm" else self.logger.warning
        log(event, **facts)

    def _bug(self) -> None:
        self.logger.error("unhandled exception in event loop", **described(sys.exception()))


def run(settings: Settings, signals: Signals, *, colors: bool) -> int:
    """Watch until a signal; return the exit status. Raises UsageError and SystemRefused."""
    terminal = os.isatty(STDOUT)
    writer = LogWriter(STDOUT)
    logger = make_logger(writer, "info", console=terminal, colors=terminal and colors)
    threading.excepthook = lambda fault: logger.error(
        "thread died", thread=fault.thread and fault.thread.name, **described(fault.exc_value)
    )
    with ExitStack() as sockets:
        watch = Watch(settings, logger, writer)
        watch.serve_metrics(sockets)
        try:
            watch.begin()
            while not (request := signals.wait(LOOK_SECONDS)):
                watch.look()
            watch.stop(signal=request.signal.name)
        except SystemRefused as refused:
            watch.stop(error=str(refused))
            raise
        finally:
            if writer.is_alive():
                writer.close(LOG_SECONDS, LATE_LOG_SECONDS)
    gc.freeze()  # saves the interpreter's last collections, which take 40 ms of CPU
    return 0


def _followed(settings: Settings) -> Followed | None:
    """The file that contains the expectation, if there is one. Raises UsageError."""

    def check(expectation: Expectation) -> None:
        rules_for(settings, expectation)

    if settings.expect_file is not None:
        return Followed("--expect-file", settings.expect_file, from_text, check)
    if settings.route is not None:
        return Followed("--route", settings.route, route_reader(), check)
    return None
