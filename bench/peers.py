"""The compared servers, and how to start them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
PREFIX = "one"
ECHOD = ("-m", "echod", "{port}", "{prefix}")
METRICS = ("--metrics-port", "{metrics}")


@dataclass(frozen=True)
class Peer:
    """A server by name: its words, in which {port}, {prefix} and {metrics} are filled in.

    One with {metrics} is scraped every second. ``missing`` says why it cannot be had.
    ``threads_end`` where threads come and go, and take their count of context switches with them.
    """

    name: str
    words: tuple[str, ...]
    missing: str = ""
    threads_end: bool = False
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def scraped(self) -> bool:
        """Whether it has a metrics port."""
        return "{metrics}" in self.words

    def command(self, port: int, metrics: int) -> list[str]:
        """Its words with the ports in their places."""
        values = {"{port}": str(port), "{prefix}": PREFIX, "{metrics}": str(metrics)}
        return [_filled(word, values) for word in self.words]


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def echod(name: str, *options: str, metrics: bool = True) -> Peer:
    """A peer of echod as installed beside the benchmark, with more options than the defaults."""
    return Peer(name, (sys.executable, *ECHOD, *(METRICS if metrics else ()), *options))


def _loop(name: str) -> Peer:
    words = (sys.executable, str(HERE / "loops.py"), name, "{port}", "{prefix}")
    found = name == "asyncio" or importlib.util.find_spec(name)
    return Peer(name, words, "" if found else f"{name} is not installed")


BUILT_IN = {
    "echod": echod("echod"),
    "threads": Peer(
        "threads",
        (sys.executable, str(HERE / "threads.py"), "{port}", "{prefix}"),
        threads_end=True,
    ),
    "asyncio": _loop("asyncio"),
    "uvloop": _loop("uvloop"),
    "limit": Peer("limit", ("limit", "{port}", "{prefix}")),  # once it is compiled
}
"""The default peers, in the order of the tables."""

ABOUT = {
    "echod": "default options, metrics on and scraped every second, log to /dev/null",
    "threads": "the standard library's ThreadingTCPServer, a thread per connection",
    "asyncio": "a Protocol on asyncio's own event loop",
    "uvloop": "the same Protocol on uvloop",
    "limit": "a minimal epoll loop in C: what the kernel and the copying cost",
}


def compiled(name: str, directory: Path) -> Path:
    """One of the C programs, compiled by cc when it is first used.

    Raises subprocess.CalledProcessError, and FileNotFoundError if there is no cc.
    """
    program = directory / name
    if not program.exists():
        compiler = os.environ.get("CC") or "cc"
        words = [compiler, "-O2", "-o", str(program), str(HERE / f"{name}.c")]
        subprocess.run(words, check=True)  # noqa: S603
    return program


# Interpreters without a GIL.

_NO_LOCK = "import sys, echod.process.daemon; sys.exit(sys._is_gil_enabled())"


def _candidates() -> list[str]:
    names = [f"python3.{minor}t" for minor in range(20, 12, -1)]
    found = [shutil.which(name) for name in names]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    more = sorted(root.glob("versions/3.*t/bin/python3"), reverse=True)
    return [one for one in found if one] + [str(one) for one in more]


def free_threaded(name: str, *options: str) -> Peer:
    """A peer of echod on a build without a GIL, with the packages of this interpreter: they are
    pure Python.
    """
    environ = {"PYTHONPATH": sysconfig.get_path("purelib"), "PYTHON_GIL": "0"}
    candidates = _candidates()
    for one in candidates:
        words = [one, "-c", _NO_LOCK]
        try:
            status = subprocess.run(  # noqa: S603
                words, env=os.environ | environ, capture_output=True, timeout=30, check=False
            ).returncode
        except (OSError, subprocess.TimeoutExpired):
            continue
        if status == 0:
            return Peer(name, (one, *ECHOD, *METRICS, *options), environ=environ)
    why = "runs echod" if candidates else "is on the path or under pyenv"
    return Peer(name, (), f"no build of Python without a GIL {why}")
