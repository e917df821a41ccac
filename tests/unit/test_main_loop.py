from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from echod.loop.heartbeat import Heartbeat, stalled
from echod.process import main_loop as supervision
from echod.process.lifecycle import Service, State
from echod.process.main_loop import MainLoop
from echod.process.signals import StopSignals
from echod.process.systemd import ServiceManager
from echod.telemetry.events import Logger


class World(StopSignals):
    """No signal comes, and the time passes at once; the handler thread goes round meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.heartbeat = Heartbeat("handler-0")
        self.goes_round = True
        self.stand_still(0)

    def wait(self, timeout: float | None = None) -> None:
        assert timeout is not None
        self.now += timeout
        if self.goes_round:
            self.heartbeat.at = self.now

    def stand_still(self, seconds: float) -> None:
        """All of it, with everything that goes round otherwise."""
        self.now += seconds

    def service(self) -> Service:
        return cast(
            Service,
            SimpleNamespace(
                servers=[],
                state=State.READY,
                budget=SimpleNamespace(eased=lambda: False),
                open_connections=lambda: 0,
                liveness_problem=lambda now: ", ".join(stalled([self.heartbeat], now)),
            ),
        )


class Manager(ServiceManager):
    """Has a watchdog of four seconds, and keeps what it receives."""

    def __init__(self) -> None:
        super().__init__({"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "4000000"})
        self.received: list[str] = []

    def notify(self, *assignments: str) -> None:
        self.received += assignments

    def fed(self) -> int:
        """How often, since it was last asked."""
        times = self.received.count("WATCHDOG=1")
        self.received.clear()
        return times


class Log:
    """Keeps the names of its events."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def error(self, name: str, **_: Any) -> None:
        self.names.append(name)

    warning = error


def test_after_a_suspension_of_the_process_the_watchdog_is_fed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No thread has had its turn yet, and none has stalled; one that really has is found."""
    world, manager, log = World(), Manager(), Log()
    monkeypatch.setattr(supervision, "monotonic", lambda: world.now)
    main_loop = MainLoop(world.service(), world, manager, cast(Logger, log))
    main_loop.wait(10)
    assert 8 <= manager.fed() <= 10
    world.goes_round = False  # the main thread is the first to go on
    world.stand_still(60)
    main_loop.wait(0.1)
    assert (manager.fed(), log.names) == (1, [])
    world.goes_round = True
    main_loop.wait(10)
    assert (manager.fed() >= 8, log.names) == (True, [])
    world.goes_round = False
    main_loop.wait(20)
    assert 2 <= manager.fed() <= 5
    assert log.names == ["watchdog notifications paused"]


def test_the_main_thread_goes_on_waiting_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end would be that of all connections."""
    world, pauses = World(), list[float]()
    monkeypatch.setattr(supervision, "monotonic", lambda: world.now)
    monkeypatch.setattr(supervision, "sleep", pauses.append)
    main_loop = MainLoop(world.service(), world, Manager(), cast(Logger, Log()))
    waits, wait = iter([MemoryError, None, MemoryError]), world.wait

    def scarce(timeout: float | None = None) -> None:
        if error := next(waits, None):
            raise error
        wait(timeout)

    monkeypatch.setattr(world, "wait", scarce)
    assert main_loop.wait(10) is None
    assert len(pauses) == 2


def test_what_systemd_is_told_without_memory_is_told_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The status, too; and the stop once."""
    world, manager = World(), Manager()
    monkeypatch.setattr(supervision, "monotonic", lambda: world.now)
    main_loop = MainLoop(world.service(), world, manager, cast(Logger, Log()))

    def no_memory(*_: str) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(manager, "notify", no_memory)
        for _ in range(2):
            with pytest.raises(MemoryError):
                main_loop.stopping(1.0)
    main_loop.stopping(1.0)
    names = [one.partition("=")[0] for one in manager.received]
    assert names == ["STOPPING", "EXTEND_TIMEOUT_USEC", "STATUS"]
