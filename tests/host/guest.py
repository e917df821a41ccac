"""A booted systemd on this host's files, to install into and to break."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from support import ROOT, until

SOURCES = [
    "Makefile",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "requirements",
    "echod",
    "systemd",
    "tools",
]
BOOT_SECONDS = 180
PYTHON = "/usr/bin/python3"
"""The guest's: a service must not read the home directory that another may live in."""


def lay_sources(files: Path) -> None:
    """The sources in /src, and the wheels that they need in /wheels."""
    for source in SOURCES:
        path = ROOT / source
        (shutil.copytree if path.is_dir() else copy)(path, files / "src" / source)
    shutil.copytree(Path(__file__).parent / "in_guest", files / "in_guest")
    fetch_wheels(files / "wheels")


class Guest:
    """A system on ``tree`` with files of its own, which ``lay`` puts there, and no network."""

    def __init__(
        self, directory: Path, lay: Callable[[Path], None] = lay_sources, tree: str = "/"
    ) -> None:
        self.name = f"echod{os.getpid()}"
        self._directory = directory
        lay(directory / "files")
        self._console = (directory / "console").open("wb")
        self._process = subprocess.Popen(
            [Path(__file__).parent / "boot.sh", self.name, directory, tree],
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
        )
        self._started: list[subprocess.Popen[str]] = []
        self._init = self._since = ""
        try:
            self._init = until(self._find_init, BOOT_SECONDS)
            until(self._is_up, BOOT_SECONDS)
        except BaseException:
            self.close()
            raise

    def _find_init(self) -> str:
        assert self._process.poll() is None, (self._directory / "console").read_text()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_text(errors="replace").split("\0")
                program = (process / "comm").read_text(errors="replace")
            except OSError:
                continue
            if program == "systemd\n" and f"systemd.machine={self.name}" in words:
                return process.name
        return ""

    def _is_up(self) -> bool:
        state = self.run("systemctl is-system-running || true").strip()
        return state in ("running", "degraded")

    def _enter(self) -> list[str]:
        return ["nsenter", "-t", self._init, "-m", "-u", "-i", "-n", "-p", "-C", "--"]

    def run(self, script: str, *, status: int = 0) -> str:
        """Runs a script as the guest's root; gives what it prints. It must end with ``status``."""
        inside = ["nsenter", "-t", self._init, "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        result = subprocess.run(
            [
                *inside,
                "env",
                "-i",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "bash",
                "-euo",
                "pipefail",
            ],
            input=script,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        output = result.stdout + result.stderr
        assert result.returncode == status, output
        return output

    def start(self, script: str) -> subprocess.Popen[str]:
        """The same in the background, until ``quiet`` if it does not end before."""
        process = subprocess.Popen(
            [*self._enter(), "sh", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def mark(self) -> None:
        """From here on counts for ``journal``."""
        self._since = self.run("date +@%s.%6N").strip()

    def journal(self, unit: str, *matches: str) -> str:
        """What a unit has said, and what was said of it, since the mark."""
        words = " ".join(matches)
        return self.run(f"journalctl -q --no-pager -o cat --since={self._since} -u {unit} {words}")

    def quiet(self) -> None:
        """Ends what was started."""
        for process in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.communicate()
        self._started.clear()

    def close(self) -> None:
        """Ends the guest and removes what it left behind."""
        if self._init:
            subprocess.run(["kill", "-s", "RTMIN+3", self._init], check=False)  # halt
            try:
                self._process.wait(BOOT_SECONDS)
            except subprocess.TimeoutExpired:
                subprocess.run(["kill", "-9", self._init], check=False)
        else:
            self._process.terminate()
        self._process.wait(BOOT_SECONDS)
        self._console.close()
        for hierarchy in ("systemd", "unified", "."):
            top = Path("/sys/fs/cgroup", hierarchy, self.name)
            for directory in sorted(top.glob("**/"), reverse=True):
                directory.rmdir()


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def fetch_wheels(directory: Path) -> None:
    """What an installation takes from the network."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    build = ["setuptools>=77"]
    for what in (["--require-hashes", "-r", str(ROOT / "requirements/run.lock")], build):
        subprocess.run([*pip, "-d", str(directory), *what], check=True)
