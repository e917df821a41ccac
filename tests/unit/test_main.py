from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import pytest
from support import call

from echod import cli


def test_on_windows_the_error_names_wsl(
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


def test_memory_that_runs_out_anywhere_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1, and no traceback."""

    def full(*_: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(cli, "run", full)
    assert (cli.main(), cli.main(refused=3)) == (1, 3)
    assert capfd.readouterr().err == 2 * "echod: error: out of memory\n"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("OSError(24, 'Too many open files')", "[Errno 24] Too many open files"),
        ("MemoryError", "out of memory"),
    ],
)
def test_a_command_line_that_cannot_be_loaded_is_one_line(
    tmp_path: Path, error: str, reason: str
) -> None:
    """The first import that the system refuses, as any other."""
    code = f"""if True:
        import sys
        class Refusing:
            def find_spec(self, name, *_):
                if name == "echod.cli":
                    raise {error}
        sys.meta_path.insert(0, Refusing())
        from echod.__main__ import main
        sys.exit(main())
    """
    message = f"echod: error: cannot load echod: {reason}\n"
    for command, status in (("9000", 1), ("probe", 3)):  # whose 1 says that the split does not hold
        result = call(tmp_path, [sys.executable, "-c", code, command])
        assert (result.returncode, result.stdout, result.stderr) == (status, "", message)


def test_a_system_without_signal_masks_goes_on_to_the_command_line(tmp_path: Path) -> None:
    """Which says there that it is not supported."""
    code = """if True:
        import signal, sys
        del signal.pthread_sigmask
        sys.platform = "win32"
        from echod.__main__ import main
        sys.exit(main())
    """
    result = call(tmp_path, [sys.executable, "-c", code])
    assert (result.returncode, "WSL" in result.stderr) == (1, True)
