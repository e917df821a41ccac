"""The main thread's loop. While it waits for signals, it notifies the service manager of the
status, feeds the watchdog unless a handler thread is stuck, and gives memory back after a flood.
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
        self._pending: list[str] = []  # sent again until delivered
        self._notified = True
        self._fed = True
        self._repeated: set[Signals] = set()

    def ready(self) -> None:
        """Notifies that echod is ready."""
        self._pending.append("READY=1")
        self._notify(*self._new_status())

    def stopping(self, seconds: float) -> None:
        """Notifies that echod stops, and asks for the ``seconds`` that this takes at most."""
        most = round((seconds + STOP_MARGIN_SECONDS) * 1e6)
        self._pending += ["STOPPING=1", f"EXTEND_TIMEOUT_USEC={most}"]
        self._notify(*self._new_status())

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
        # Judged by the time of the report before: after the whole process was suspended, all
        # stamps are equally old, and no thread has stalled.
        problem = self._service.liveness_problem(before)
        assignments = self._new_status()
        if self._manager.watchdog_seconds:
            if not problem:
                assignments.append("WATCHDOG=1")
            if self._fed == bool(problem):
                self._fed = not problem
                if problem:
                    self._logger.error("the watchdog is not fed", problem=problem)
                else:
                    self._logger.warning("the watchdog is fed again")
        if assignments or self._pending:
            self._notify(*assignments)

    def _new_status(self) -> list[str]:
        """The status, if it differs from the one sent last."""
        count = self._service.open_connections()
        status = f"STATUS={self._service.state.value}: {count} connections on ports {self._ports}"
        if status == self._status:
            return []
        self._status = status
        return [status]

    def _notify(self, *assignments: str) -> None:
        """Sends assignments. If the service manager is gone or does not read, logs that once."""
        try:
            self._manager.notify(*self._pending, *assignments)
        except OSError as error:
            if self._pending:
                self._status = ""  # to be sent with it
            if self._notified:
                self._logger.warning("sd_notify failed", error=str(error))
            self._notified = False
        else:
            self._pending.clear()
            self._notified = True


def force_hint(request: StopRequest) -> str | None:
    """What forces the end of the drain that this signal began, if anything does."""
    if request.signal is not Signals.SIGINT:
        return None
    return f"SIGINT again, {FORCE_SECONDS:g} s later or more"
