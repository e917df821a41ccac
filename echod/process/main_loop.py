"""The main thread's loop. While it waits for signals, it sends systemd the status, and notifies the
watchdog unless a handler thread is stuck. After a flood it returns memory to the system.
"""

from __future__ import annotations

from math import inf
from signal import Signals
from time import monotonic, sleep

from echod.config.runtime import give_back_memory
from echod.process.lifecycle import Service
from echod.process.signals import FORCE_SECONDS, REFUSED_SECONDS, StopRequest, StopSignals
from echod.process.systemd import ServiceManager
from echod.telemetry.events import Logger

REPORT_SECONDS = 1.0
REPORTS_PER_WATCHDOG = 4
STOP_MARGIN_SECONDS = 10.0
"""Time that a stop may take in addition to the user's drain times."""


class MainLoop:
    """Waits for signals, and notifies systemd meanwhile, if systemd has started echod."""

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
        """Notify that echod is ready."""
        self._pending.append("READY=1")
        self._notify(*self._new_status())

    def stopping(self, seconds: float) -> None:
        """Notify that echod is stopping, and request ``seconds`` for it."""
        most = round((seconds + STOP_MARGIN_SECONDS) * 1e6)
        if "STOPPING=1" not in self._pending:  # from a call that had no memory
            self._pending += ["STOPPING=1", f"EXTEND_TIMEOUT_USEC={most}"]
        self._notify(*self._new_status())

    def wait(self, seconds: float | None = None) -> StopRequest | None:
        """The next signal, or None after ``seconds`` without one."""
        end = inf if seconds is None else monotonic() + seconds
        while True:
            try:
                if (now := monotonic()) >= end:
                    return None
                if request := self._take_turn(now, end):
                    return request
            except MemoryError:  # the end of this thread would cost all connections
                sleep(REFUSED_SECONDS)

    def _take_turn(self, now: float, end: float) -> StopRequest | None:
        """Look if it is time to; wait for a signal, until the next look or ``end`` at most."""
        due = self._looked_at + self._interval
        if now >= due:
            self._look(now)
            due = now + self._interval
        return self._signals.wait(min(due, end) - now)

    def wait_for_force(self, seconds: float) -> Signals | None:
        """The signal that forces the exit, or None after ``seconds`` without one.

        Other signals repeat the stop that is in progress, and are logged.
        """
        end = monotonic() + seconds
        while request := self.wait(end - monotonic()):
            if request.forces:
                return request.signal
            if request.signal not in self._repeated:  # logged once, since they may be many
                self._repeated.add(request.signal)
                hint = force_hint(request)
                self._logger.info("already draining", signal=request.signal.name, force=hint)
        return None

    def _look(self, now: float) -> None:
        before, self._looked_at = self._looked_at, now
        if self._service.budget.eased():
            give_back_memory()
        if self._manager.address:
            self._report(before)

    def _report(self, before: float) -> None:
        # By the time of the previous report: after a suspension of the whole process all stamps
        # are equally old, and no thread counts as stalled.
        problem = self._service.liveness_problem(before)
        assignments = self._new_status()
        if self._manager.watchdog_seconds:
            if not problem:
                assignments.append("WATCHDOG=1")
            if self._fed == bool(problem):
                self._fed = not problem
                if problem:
                    self._logger.error("watchdog notifications paused", problem=problem)
                else:
                    self._logger.warning("watchdog notifications resumed")
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
        """Send assignments to systemd. If it is gone or does not read, log that once."""
        try:
            self._manager.notify(*self._pending, *assignments)
        except MemoryError:
            self._status = ""  # to be sent again
            raise
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
    """How to force the end of a drain that this signal began, if that is possible."""
    if request.signal is not Signals.SIGINT:
        return None
    return f"SIGINT again, {FORCE_SECONDS:g} s later or more"
