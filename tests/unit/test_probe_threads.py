"""The probe's threads: none samples before all run, and none ends in silence."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from support import PATIENCE

from echod.errors import SystemRefused
from echod.loop import threads
from echod.probe import hold, sampler
from echod.probe.hold import Held
from echod.probe.sampler import Sampler


class Failing:
    """A target whose connections fail on this side."""

    timeout = 5.0

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.tried = 0

    def connect(self, _number: int, _deadline: float) -> Any:
        self.tried += 1
        raise self.error


def refuse_the_last(some: Sequence[threading.Thread]) -> None:
    threads.start(some[:-1])
    raise SystemRefused("cannot start thread 4 of 4: can't start new thread")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory"),
        (SystemRefused("no free file descriptor"), "no free file descriptor"),
        (ValueError("odd"), r"ValueError\('odd'\)"),
    ],
)
def test_what_ends_a_thread_ends_the_run(error: Exception, words: str) -> None:
    """By its reason, without a traceback."""
    target: Any = Failing(error)
    run = Sampler(target, lambda _: False, cap=9)
    held = Held(target, 1)
    assert run.wait(PATIENCE)
    held.stop(PATIENCE)
    for refused in (run.refused, held.refused):
        with pytest.raises(SystemRefused, match=f"^{words}$"):
            raise refused or SystemRefused("nothing")


def test_no_sample_is_taken_before_all_threads_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that run end when one is refused."""
    before = set(threading.enumerate())
    target: Any = Failing(MemoryError())
    monkeypatch.setattr(sampler, "start", refuse_the_last)
    with pytest.raises(SystemRefused, match="thread 4 of 4"):
        Sampler(target, lambda _: False, cap=9, concurrency=4)
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
    assert set(threading.enumerate()) <= before
    assert target.tried == 0


def test_connections_to_be_held_end_when_a_thread_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that run see that they are to stop."""
    before = set(threading.enumerate())
    target: Any = Failing(MemoryError())
    monkeypatch.setattr(hold, "start", refuse_the_last)
    with pytest.raises(SystemRefused, match="thread 4 of 4"):
        Held(target, 4)
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
    assert set(threading.enumerate()) <= before
