"""Threads are started with small stacks, all of them, or the system's refusal is one line."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from mmap import mmap
from typing import Any, NoReturn

import pytest

from echod.errors import SystemRefused
from echod.loop import threads


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """What the threads of a test wait for, so that none is left when it ends."""
    event = threading.Event()
    before = set(threading.enumerate())
    yield event
    event.set()
    for thread in set(threading.enumerate()) - before:
        if thread.is_alive():
            thread.join(20)


def waiting(go: threading.Event, count: int) -> list[threading.Thread]:
    return [threading.Thread(target=go.wait, daemon=True) for _ in range(count)]


def refuse(*_: object) -> NoReturn:
    raise RuntimeError("can't start new thread")


def test_all_threads_run_with_the_small_stack(
    go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what others have set for their threads is as it was."""
    sizes: list[int] = []
    run = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        sizes.append(size := threading.stack_size())
        threading.stack_size(size)  # asking alone sets it back
        run(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    before, hook = threading.stack_size(1 << 20), sys.unraisablehook
    try:
        some = waiting(go, 3)
        threads.start(some[:2])
        threads.start(some[2:], stack_bytes=512 * 1024)
        assert all(thread.is_alive() for thread in some)
        assert sizes == [threads.STACK_BYTES] * 2 + [512 * 1024]
        assert (threading.stack_size(), sys.unraisablehook) == (1 << 20, hook)
    finally:
        threading.stack_size(before)


def test_a_thread_that_the_system_refuses_is_named(
    go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its number; those before it run."""
    some = waiting(go, 3)
    monkeypatch.setattr(some[1], "start", refuse)
    with pytest.raises(
        SystemRefused, match=r"^cannot start thread 2 of 3: can't start new thread$"
    ):
        threads.start(some)
    assert [thread.is_alive() for thread in some] == [True, False, False]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(12, "Cannot allocate memory"), "Cannot allocate memory"),
        (MemoryError(), "out of memory"),
    ],
)
def test_a_thread_without_memory_to_spare_is_named(
    go: threading.Event, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    """Before it is started: it might die on its first line, or the process when it ends."""

    def full(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(threads, "mmap", full)
    with pytest.raises(SystemRefused, match=f"^cannot start thread 1 of 1: {reason}$"):
        threads.start(waiting(go, 1))


def test_without_memory_for_all_threads_none_is_started(
    go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heaps of those that ran would take what the others need."""
    some, taken = waiting(go, 3), iter([True, True, False])

    def full(*arguments: Any) -> Any:
        if next(taken):
            return mmap(*arguments)
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(threads, "mmap", full)
    with pytest.raises(
        SystemRefused, match=r"^cannot start thread 3 of 3: Cannot allocate memory$"
    ):
        threads.start(some)
    assert not any(thread.is_alive() for thread in some)


class Dying(threading.Thread):
    """A thread that finds no memory for its first frame."""

    def _bootstrap_inner(self) -> NoReturn:
        sys.settrace(threading.gettrace())  # for coverage, as it would have been done here
        raise MemoryError


class Silent(threading.Thread):
    """A thread that ends before it has reported that it runs."""

    def _bootstrap(self) -> None:
        pass


def test_a_thread_that_dies_before_its_first_line_is_not_waited_for(
    go: threading.Event, capfd: pytest.CaptureFixture[str]
) -> None:
    """CPython alone would wait for it without an end, and print a traceback."""
    some = [*waiting(go, 1), Dying(daemon=True), *waiting(go, 1)]
    with pytest.raises(
        SystemRefused, match=r"^cannot start thread 2 of 3: it died with MemoryError$"
    ):
        threads.start(some)
    assert [thread.is_alive() for thread in some] == [True, False, False]
    assert capfd.readouterr() == ("", "")


def test_a_thread_that_dies_without_a_report_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For longer than a busy machine may need."""
    assert threads.LOOKS * threads.LOOK_SECONDS >= 5
    monkeypatch.setattr(threads, "LOOK_SECONDS", 0.01)
    with pytest.raises(SystemRefused, match=r"^cannot start thread 1 of 1: it does not run$"):
        threads.start([Silent(daemon=True)])


def test_other_unraisable_exceptions_reach_the_original_hook(
    go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another object that fails as it is deleted is no thread's death."""
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    some = waiting(go, 2)
    run = some[0].start

    class Failing:
        def __del__(self) -> NoReturn:
            raise ValueError

    def start() -> None:
        Failing()
        run()

    monkeypatch.setattr(some[0], "start", start)
    threads.start(some)
    assert [report.exc_type for report in seen] == [ValueError]
