"""The parts that serve, put together: handler threads, a server per port, the exporter."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import partial
from threading import Lock
from time import monotonic, sleep
from typing import Any, Protocol

from echod.config.options import Config
from echod.config.runtime import gil_enabled, usable_cpus
from echod.echo.limits import Admission, Budget
from echod.echo.server import EchoServer, ServerContext
from echod.loop.event_loop import EventLoop, HandlerThread
from echod.loop.heartbeat import Heartbeat, stalled
from echod.loop.listeners import Listener, listen
from echod.loop.periodic import Periodic
from echod.loop.threads import start
from echod.process.capacity import Capacity
from echod.telemetry.events import Events, Logger
from echod.telemetry.exporter import Exporter
from echod.telemetry.http import Pages, health_page, landing_page, metrics_page
from echod.telemetry.log_writer import LogWriter
from echod.telemetry.metrics import Sources, make_registry

EXPORTER_STOP_SECONDS = 0.1
"""Time for the exporter to finish its responses, after everything else has ended."""
STACK_BYTES = 1024 * 1024
"""Stack of each thread, of which 32 KiB are touched. Nearly every recursion reaches the
interpreter's limit within it, so that a bug costs one connection (RecursionError), not the
process. glibc's default is 8 MiB, which ``ulimit -v`` counts; musl's is 128 KiB."""
ABANDON_SECONDS = 2.0
"""Maximum wait for the threads of a failed start."""
SUMMARY_SECONDS = 0.2
"""How often to check whether a state of overload has ended."""
TURN_SECONDS = 0.1
"""Time within which every thread that is not stuck runs at least once."""


class State(Enum):
    """The state of the service."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Part(Protocol):
    """Something that the shutdown waits for."""

    def is_alive(self) -> bool:
        """Whether it is still running."""


class Service:
    """The parts of the daemon, and the order in which they start and stop.

    Made from bound listeners. Its limits are those of ``capacity``, not the configuration's.
    """

    def __init__(
        self,
        config: Config,
        listeners: Sequence[Listener],
        metrics: Listener | None,
        capacity: Capacity,
        writer: LogWriter,
        logger: Logger,
    ) -> None:
        self.state = State.STARTING
        self._config = config
        self._stalled = False  # by the last answer of /livez
        self.capacity = capacity
        threads = thread_count(config)
        self.admission = Admission(capacity.connections, threads)
        self.budget = Budget(config.max_buffered_bytes)
        self.events = Events(logger, config.log_level, self.admission.full)
        self.handlers = [HandlerThread(index, self.events.bug) for index in range(threads)]
        accepting = Lock()
        context = ServerContext(
            config, self.handlers, self.admission, self.budget, self.events, accepting
        )
        self.servers = [EchoServer(listener, context) for listener in listeners]
        self.ports = [server.port_counters for server in self.servers]
        self._writer = writer
        self.exporter = self._exporter(metrics, accepting) if metrics else None

    def _exporter(self, metrics: Listener, accepting: Lock) -> Exporter:
        sources = Sources(
            self.ports,
            self.capacity.connections,
            lambda: self.budget.buffered,
            lambda: self._writer.dropped,
            self.is_ready,
        )
        registry = make_registry(sources, self._config.service_version)
        pages: Pages = {
            "/": landing_page,
            "/metrics": partial(metrics_page, registry),
            "/livez": lambda _accept: health_page(self._confirmed_liveness_problem()),
            "/readyz": lambda _accept: health_page(self.readiness_problem()),
        }
        return Exporter(metrics, pages, self.events.bug, accepting, self.capacity.metrics_clients)

    # The steps of a start. echod creates every thread and file descriptor before clients may
    # connect. If the system refuses one, the start fails before any port listens.

    def start_threads(self) -> None:
        """Start every thread; all are idle at first. Raises SystemRefused."""
        start([self._writer, *self._loops()], stack_bytes=STACK_BYTES)

    def listen(self) -> None:
        """Listen on every port, so that clients may connect. Raises SystemRefused."""
        for server in self.servers:
            server.server_activate()
        if self.exporter:
            listen(self.exporter.listener)

    def start(self) -> None:
        """Start serving clients. Raises OSError if a thread cannot."""
        self.handlers[0].ask(self._start_accepting)
        self.state = State.READY
        if self.exporter:
            self.exporter.loop.ask(self.exporter.acceptor.start)

    def abandon(self) -> None:
        """End the threads of a failed start."""
        started = [loop for loop in self._loops() if loop.is_alive()]
        for loop in started:
            loop.stop(monotonic())
        for loop in started:
            loop.join(ABANDON_SECONDS)
        if self._writer.is_alive():
            self._writer.close(ABANDON_SECONDS)

    def _start_accepting(self) -> None:
        for server in self.servers:
            server.acceptor.start()
        Periodic(self.handlers[0], SUMMARY_SECONDS, self.events.summarize).start()

    def _loops(self) -> list[EventLoop]:
        return [*self.handlers, *([self.exporter.loop] if self.exporter else [])]

    def is_ready(self) -> bool:
        """Whether echod is ready: started, and not draining."""
        return self.state is State.READY

    def readiness_problem(self) -> str:
        """Why echod is not ready, in one word; empty if it is."""
        return "" if self.is_ready() else self.state.value

    def liveness_problem(self, now: float) -> str:
        """The stuck handler threads; empty if there are none.

        ``now`` should be the stamp of the caller's own last round: see ``stalled``.
        """
        names = stalled(self._heartbeats(), now)
        return "stalled: " + ", ".join(names) if names else ""

    def _confirmed_liveness_problem(self) -> str:
        """The same, for the exporter. After a suspension of the whole process it may run several
        times before the other threads run, so a first finding is checked again.
        """
        problem = self.liveness_problem(self._answering())
        if problem and not self._stalled:
            sleep(TURN_SECONDS)
            problem = self.liveness_problem(self._answering())
        self._stalled = bool(problem)
        return problem

    def _answering(self) -> float:
        """When the exporter's current round began."""
        return (self.exporter and self.exporter.heartbeat.at) or monotonic()

    def _heartbeats(self) -> list[Heartbeat]:
        return [handler.heartbeat for handler in self.handlers]

    # The three steps of a stop. Each returns the parts that end with it.

    def stop_accepting(self) -> Sequence[Part]:
        """Have every server empty its queue and close its port."""
        for server in self.servers:
            server.stop_accepting()
        return self.servers

    def drain(self, timeout: float) -> Sequence[Part]:
        """Have every connection answer what has arrived, and close within ``timeout`` seconds."""
        deadline = monotonic() + timeout
        for handler in self.handlers:
            handler.stop(deadline)
        return self.handlers

    def stop_exporter(self) -> Sequence[Part]:
        """Have the exporter close the metrics port and finish its responses."""
        if not self.exporter:
            return []
        self.exporter.loop.stop(monotonic() + EXPORTER_STOP_SECONDS)
        return [self.exporter.loop]

    def totals(self) -> list[dict[str, Any]]:
        """The totals of each port, for the log."""
        totals = [(counters.port, counters.total()) for counters in self.ports]
        return [
            {
                "port": port,
                "opened": total.opened,
                "closed": sum(total.closed.values()),
                "rejected": sum(total.rejected.values()),
                "requests": total.requests,
                "received_bytes": total.received,
                "sent_bytes": total.sent,
            }
            for port, total in totals
        ]

    def open_connections(self) -> int:
        """Connections opened and not yet closed, on all ports."""
        return sum(port["opened"] - port["closed"] for port in self.totals())

    def cut_connections(self) -> int:
        """Connections that the drain timeout closed, and those still open."""
        cut = sum(counters.total().closed["drain_timeout"] for counters in self.ports)
        return cut + self.open_connections()


def thread_count(config: Config) -> int:
    """The number of handler threads. With a GIL one is fastest, because several contend for it."""
    if config.handler_threads is not None:
        return config.handler_threads
    return 1 if gil_enabled() else usable_cpus()
