"""What the main thread does while it waits for signals: it tells the service manager how things
are, feeds its watchdog as long as every handler thread goes round, and gives memory back after
a flood.
"""

from __future__ import annotations

from math import inf
from signal import Signals
from time import monotonic

from echod.config.runtime import give_back_memory
from echod.process.lifecycle import Service
from echod.process.signals import FORCE_SECONDS, StopRequest, StopSignals
from echod.process.systemd import ServiceManager
from echod.telemetry.events import Logger

REPORT_SECONDS = 1.0
REPORTS_PER_WATCHDOG = 4
STOP_MARGIN_SECONDS = 10.0
"""What a stop may take on top of the times that the user has set for it."""


class MainLoop:
    """Waits for signals, and reports to the service manager meanwhile, if there is one."""

    def __init__(
        self, service: Service, signals: StopSignals, manager: ServiceManager, logger: Logger
    ) -> None:
        self._service = service
        self._signals = signals
        self._manager = manager
        self._logger = logger
        self._ports = ", ".join(str(server.listener.port) for server in service.servers)
        watchdog = manager.watchdog_seconds or REPORT_SECONDS * REPORTS_PER_WATCHDOG
        self._interval = min(REPORT_SECONDS, watchdog / REPORTS_PER_WATCHDOG)
        self._looked_at = monotonic()
        self._status = ""
        self._owed: list[str] = []  # what it must be told, however late
        self._told = True
        self._fed = True
        self._repeated: set[Signals] = set()

    def ready(self) -> None:
        """Says that connections are welcome."""
        self._owed.append("READY=1")
        self._tell(*self._news())

    def stopping(self, seconds: float) -> None:
        """Says that the service ends, and asks for the ``seconds`` that this takes at most."""
        most = round((seconds + STOP_MARGIN_SECONDS) * 1e6)
        self._owed += ["STOPPING=1", f"EXTEND_TIMEOUT_USEC={most}"]
        self._tell(*self._news())

    def wait(self, seconds: float | None = None) -> StopRequest | None:
        """The next signal, or None when ``seconds`` have passed without one."""
        end = inf if seconds is None else monotonic() + seconds
        request = None
        while request is None and (now := monotonic()) < end:
            due = self._looked_at + self._interval
            if now >= due:
                self._look(now)
                due = now + self._interval
            request = self._signals.wait(min(due, end) - now)
        return request

    def wait_for_force(self, seconds: float) -> Signals | None:
        """The signal that asks for the end at once, or None when ``seconds`` have passed without.

        Others repeat the stop that is under way.
        """
        end = monotonic() + seconds
        while request := self.wait(end - monotonic()):
            if request.forces:
                return request.signal
            if request.signal not in self._repeated:  # once: they may come without end
                self._repeated.add(request.signal)
                self._logger.info(
                    "already draining", signal=request.signal.name, force=force_hint(request)
                )
        return None

    def _look(self, now: float) -> None:
        before, self._looked_at = self._looked_at, now
        if self._service.budget.eased():
            give_back_memory()
        if self._manager.address:
            self._report(before)

    def _report(self, before: float) -> None:
        # Judged by the time of the report before: after the whole process has stood still, all
        # stamps are old alike, and nobody has stalled.
        problem = self._service.liveness_problem(before)
        news = self._news()
        if self._manager.watchdog_seconds:
            if not problem:
                news.append("WATCHDOG=1")
            if self._fed == bool(problem):
                self._fed = not problem
                if problem:
                    self._logger.error("the watchdog is not fed", problem=problem)
                else:
                    self._logger.warning("the watchdog is fed again")
        if news or self._owed:
            self._tell(*news)

    def _news(self) -> list[str]:
        """The status, if it is another one than was told before."""
        count = self._service.open_connections()
        status = f"STATUS={self._service.state.value}: {count} connections on ports {self._ports}"
        if status == self._status:
            return []
        self._status = status
        return [status]

    def _tell(self, *assignments: str) -> None:
        """A service manager that is gone, or stands still, costs an event, not the service."""
        try:
            self._manager.tell(*self._owed, *assignments)
        except OSError as error:
            if self._owed:
                self._status = ""  # to be told with it
            if self._told:
                self._logger.warning("the service manager cannot be told", error=str(error))
            self._told = False
        else:
            self._owed.clear()
            self._told = True


def force_hint(request: StopRequest) -> str | None:
    """How an operator who has sent this signal gets out before the drain is over, if at all."""
    if request.signal is not Signals.SIGINT:
        return None
    return f"SIGINT again, {FORCE_SECONDS:g} s later or more"
