"""The injector itself: what it says it has done has happened, seen by strace."""

from __future__ import annotations

import errno
import re
import signal
import socket
from pathlib import Path

import pytest
from support import PATIENCE, call, command

from inject.injector import FAIL, KINDS, SIGNAL, SOURCE, Control


def trace(directory: Path, control: Control, port: int = 0, metrics_port: str = "0") -> str:
    """The calls of a start on one port, which a signal ends if nothing else does."""
    words = ["strace", "-f", "-qq", "-o", str(directory / "trace"), "timeout", "--foreground"]
    words += ["--preserve-status", f"{PATIENCE / 4:g}", *command(str(port), "one")]
    words += ["--metrics-port", metrics_port]
    call(directory, words, **control.variables)
    return (directory / "trace").read_text()


def calls(text: str, name: str) -> list[str]:
    """Of echod, which begins when it blocks all signals."""
    return re.findall(rf"^\d+ +({name}\(.*)$", text, re.MULTILINE)


def test_kinds_are_those_of_the_source() -> None:
    """One list is Python's, one is C's."""
    listed = re.search(r"enum kind \{(.*?)\}", SOURCE.read_text(), re.DOTALL)
    assert listed
    assert len(listed[1].split(",")) == len(KINDS) + 1  # and their number


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "name", "error"),
    [
        ("bind", "bind", errno.EADDRINUSE),
        ("listen", "listen", errno.ENOMEM),
        ("socketpair", "socketpair", errno.EMFILE),
    ],
)
def test_a_call_that_fails_on_purpose_is_not_made(
    library: Path, tmp_path: Path, kind: str, name: str, error: int
) -> None:
    """The mark is where it would have been."""
    control = Control(library, tmp_path / "control")
    control.plan(kind, 1, FAIL, error)
    text = trace(tmp_path, control, metrics_port="none")
    assert control["done"] == control.counts[kind] == 1
    mark = f'write(-1, "inject: {KINDS.index(kind)} at 1, {error}"'
    assert text.count(mark) == 1
    assert calls(text.partition(mark)[0], name) == []


@pytest.mark.long
def test_a_close_that_fails_on_purpose_closes(library: Path, tmp_path: Path) -> None:
    """The very descriptor, right after the mark."""
    control = Control(library, tmp_path / "control")
    control.plan("close, socket", 1, FAIL, errno.EIO)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        text = trace(tmp_path, control, taken.getsockname()[1])
    assert control["done"] == 1
    after = text.partition(f'write(-1, "inject: {KINDS.index("close, socket")} at 1,')[2]
    mark, thread, close, _ = after.split("\n", 3)
    assert re.match(r"\d+ +close\(\d+\) += 0$", close), (mark, thread, close)


@pytest.mark.long
def test_a_signal_comes_before_the_call_of_its_number(library: Path, tmp_path: Path) -> None:
    """Whichever call that is."""
    control = Control(library, tmp_path / "control")
    control.plan("any", 300, SIGNAL, signal.SIGTERM)
    text = trace(tmp_path, control)
    assert control["done"] == 1
    (kill,) = calls(text, "kill")
    assert kill.startswith(f"kill({control['owner']}, SIGTERM)")
