"""A user who may have few threads: the kernel's limit does not bind root."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from support import PATIENCE, clean_environment

PYTHON = "/usr/bin/python3"
"""An interpreter that every user may read."""
USERS = count(100_000 + 100 * os.getpid())
NEEDED = 4
"""Threads of a daemon: main, log, one handler, exporter."""


@pytest.fixture(scope="module")
def packages() -> Iterator[Path]:
    """What echod consists of, where every user may read it."""
    assert os.geteuid() == 0, "these tests need root: they run as another user"
    directory = Path(tempfile.mkdtemp())
    for name in ("echod", "structlog", "prometheus_client"):
        shutil.copytree(Path(importlib.import_module(name).__file__ or "").parent, directory / name)
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def limited(packages: Path, threads: int, *words: str) -> subprocess.CompletedProcess[str]:
    """``echod`` for a user of its own who may have so many threads; ended if it goes on.

    Another one each time: threads of a process that has ended may still count for a moment.
    """
    user = str(next(USERS))
    other = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"]
    limits = ["prlimit", f"--nproc={threads}"]
    return subprocess.run(
        ["timeout", "--signal=INT", "3", *other, *limits, PYTHON, "-m", "echod", *words],
        capture_output=True,
        text=True,
        cwd="/",
        env=clean_environment(PYTHONPATH=str(packages), PYTHONDONTWRITEBYTECODE="1"),
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("threads", range(1, NEEDED))
def test_echod_does_not_listen_where_the_system_allows_too_few_threads(
    packages: Path, threads: int
) -> None:
    """One line, exit status 1."""
    result = limited(packages, threads, "0", "one", "--metrics-port", "0")
    assert (result.returncode, result.stdout) == (1, "")
    message = f"echod: error: cannot start thread {threads} of 3: can't start new thread\n"
    assert result.stderr == message


def test_echod_serves_where_the_system_allows_four_threads(packages: Path) -> None:
    """It needs no other one, at the start or later."""
    result = limited(packages, NEEDED, "0", "one", "--metrics-port", "0")
    assert '"event": "ready"' in result.stdout
    assert result.stderr == ""


def test_health_needs_no_thread(packages: Path) -> None:
    """It says what it finds, here that nothing listens."""
    result = limited(packages, 1, "health", "--metrics-port", "1")
    assert (result.returncode, result.stderr) == (1, "")
    assert "Connection refused" in result.stdout
