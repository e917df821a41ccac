"""The steps of a shutdown, by a clock that the test moves."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import pytest

from echod.config.options import load
from echod.process import shutdown
from echod.process.shutdown import LATE_LOOKS, LOOK_SECONDS, TRIES, Step


class World:
    """The clock, the main loop, the service and its parts."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.looks = 0
        self.jumps: dict[int, float] = {}  # seconds, at which look
        self.forced_at = 0  # which look finds a signal that forces the end
        self.begun: list[tuple[str, float]] = []
        self.lasting = dict.fromkeys(("accept", "drain", "exporter"), 1)  # looks

    def monotonic(self) -> float:
        return self.now

    def wait_for_force(self, seconds: float) -> signal.Signals | None:
        self.looks += 1
        self.now += seconds + self.jumps.get(self.looks, 0.0)
        return signal.SIGINT if self.looks == self.forced_at else None

    def begin(self, name: str) -> Sequence[Any]:
        self.begun.append((name, self.now - 1000))
        return [Part(self, self.looks + self.lasting[name])]

    def stop_accepting(self) -> Sequence[Any]:
        return self.begin("accept")

    def drain(self, timeout: float) -> Sequence[Any]:
        self.timeout = timeout
        return self.begin("drain")

    def stop_exporter(self) -> Sequence[Any]:
        return self.begin("exporter")


class Part:
    def __init__(self, world: World, until: int) -> None:
        self.world, self.until = world, until

    def is_alive(self) -> bool:
        return self.world.looks < self.until


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(shutdown, "monotonic", world.monotonic)
    return world


def shut_down(world: World, delay: float = 1.0, timeout: float = 4.0) -> signal.Signals | None:
    config = replace(load({"ports": "0", "prefix": "one"}, {}), drain_delay=delay)
    steps = shutdown.steps(config, cast("Any", world), world.now + delay + timeout)
    return shutdown.take(steps, cast("Any", world))


def test_a_shutdown_takes_its_steps_one_after_another(world: World) -> None:
    """The delay, the ports, the connections, the metrics port."""
    assert shut_down(world) is None
    assert [name for name, _ in world.begun] == ["accept", "drain", "exporter"]
    assert world.begun[0][1] == pytest.approx(1.0, abs=2 * LOOK_SECONDS)
    assert world.timeout == pytest.approx(4.0, abs=3 * LOOK_SECONDS)


def test_a_signal_that_forces_the_end_leaves_out_the_steps_that_are_left(world: World) -> None:
    world.lasting["drain"] = 1000
    world.forced_at = 60
    assert shut_down(world) is signal.SIGINT
    assert [name for name, _ in world.begun] == ["accept", "drain"]


def test_a_part_that_never_ends_is_left_after_its_time_and_a_few_looks(world: World) -> None:
    world.lasting["drain"] = 10**9
    shut_down(world, delay=0.0)
    assert world.begun[-1][0] == "exporter"
    assert world.looks * LOOK_SECONDS == pytest.approx(4.0 + LATE_LOOKS * LOOK_SECONDS, abs=0.2)


def test_parts_have_their_looks_after_the_whole_process_was_suspended(world: World) -> None:
    """However late it is then: no thread has had a turn meanwhile."""
    world.lasting["drain"] = 50
    world.jumps = {5: 10_000.0}
    shut_down(world, delay=0.0)
    assert world.looks >= 50


def test_each_shutdown_step_has_a_name(world: World) -> None:
    config = load({"ports": "0", "prefix": "one"}, {})
    names = [step.name for step in shutdown.steps(config, cast("Any", world), 0.0)]
    assert names == [
        "keep accepting while not ready",
        "stop accepting",
        "drain",
        "stop the metrics port",
    ]
    assert Step._fields == ("name", "begin", "seconds")


def failing(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, times: int) -> list[int]:
    """Has the next calls of a method fail for want of memory; the list has what is left of them."""
    left, real = [times], getattr(owner, name)

    def call(*args: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise MemoryError
        return real(*args)

    monkeypatch.setattr(owner, name, call)
    return left


@pytest.mark.parametrize(
    ("owner", "name"), [(World, "drain"), (World, "wait_for_force"), (Part, "is_alive")]
)
def test_a_call_without_memory_is_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    """A shutdown that ended there would cut all connections."""
    monkeypatch.setattr(shutdown, "sleep", lambda _seconds: None)
    left = failing(monkeypatch, owner, name, 3)
    assert shut_down(world, delay=0.0) is None
    assert left == [0]
    assert [name for name, _ in world.begun] == ["accept", "drain", "exporter"]


@pytest.mark.parametrize("name", ["stop_accepting", "wait_for_force"])
def test_a_shutdown_that_never_has_memory_ends_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It does not hang: a step that cannot begin ends it, one that cannot be awaited is left."""
    monkeypatch.setattr(shutdown, "sleep", lambda _seconds: None)
    left = failing(monkeypatch, World, name, 10**9)
    with pytest.raises(MemoryError) if name == "stop_accepting" else nullcontext():
        shut_down(world, delay=0.0)
    assert 10**9 - left[0] >= TRIES
