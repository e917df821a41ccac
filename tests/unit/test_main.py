from __future__ import annotations

import sys
from typing import NoReturn

import pytest

from echod import cli


def test_windows_is_told_about_wsl(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line, before anything is imported that Windows has not got."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", ["echod", "9000", "hello"])
    assert cli.main() == 1
    assert "WSL" in capfd.readouterr().err


def test_an_interrupt_before_the_start_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C is no error."""

    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    assert cli.main() == 130
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "out of memory on this host"),
        (SystemError("error return without exception set"), "out of memory on this host"),
        (ImportError("libssl.so.3: failed to map segment"), "libssl.so.3: failed to map segment"),
    ],
)
def test_a_probe_without_memory_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    line: str,
) -> None:
    """With the exit status of what this host refuses."""

    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(cli, "_probe", fail)
    assert cli.run(["probe", "localhost:9000"], {}) == 3
    assert capfd.readouterr() == ("", f"echod: error: {line}\n")
