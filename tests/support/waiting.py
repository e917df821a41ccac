"""How the tests wait: until what must happen has happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 60.0  # seconds: how long something that must happen may take on a busy machine
NEVER = 3600.0
"""Seconds: a time of echod's own that no test has the patience to wait for."""

Value = TypeVar("Value")


def until(look: Callable[[], Value], timeout: float = PATIENCE) -> Value:
    """The first true value of ``look``; fails when ``timeout`` seconds bring none."""
    deadline = time.monotonic() + timeout
    while not (value := look()):
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.005)
    return value


def pause(seconds: float, why: str) -> None:
    """Lets time go by, where there is nothing to look for: the only sleep that tests have."""
    assert why
    time.sleep(seconds)


def soon(call: Callable[[], Value], seconds: float = 1.0, tries: int = 3) -> Value:
    """What ``call`` gives in ``seconds`` at most; a busy machine has a few tries."""
    took = []
    for _ in range(tries):
        began = time.monotonic()
        value = call()
        took.append(time.monotonic() - began)
        if took[-1] < seconds:
            return value
    raise AssertionError(f"took {took} s")
