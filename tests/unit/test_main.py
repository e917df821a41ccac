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
