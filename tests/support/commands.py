"""Commands that run echod: as it is, with other constants, under limits, with inherited sockets."""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from support.waiting import PATIENCE


def clean_environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ECHOD_")}
    return kept | variables


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "echod", *arguments]


def unmeasured(*arguments: str) -> list[str]:
    """The command without coverage, for what must not be traced."""
    return ["/usr/bin/env", "-u", "COVERAGE_PROCESS_CONFIG", *command(*arguments)]


ALTERED = """
import importlib, json, mmap, runpy, struct, sys, time
path, constants = sys.argv[1:3]
del sys.argv[1:3]
if path:
    with open(path, "rb") as file:
        moved = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    real = time.monotonic
    time.monotonic = lambda: real() + struct.unpack("d", moved)[0]
for name, value in json.loads(constants).items():
    module, _, constant = name.rpartition(".")
    module = importlib.import_module(f"echod.{module}")
    assert hasattr(module, constant), name
    setattr(module, constant, value)
runpy.run_module("echod", run_name="__main__")
"""
"""Runs echod with other constants, and by a clock that can be moved from outside."""


def altered(clock: str = "", **constants: float | str) -> Callable[..., list[str]]:
    """For a command with other constants of modules, named like ``config__parsers__MAX=1``."""
    named = {name.replace("__", "."): value for name, value in constants.items()}
    return lambda *arguments: [sys.executable, "-c", ALTERED, clock, json.dumps(named), *arguments]


TWO_ADDRESSES = """
import socket, sys
from echod.cli import main

real = socket.getaddrinfo

def look_up(host, port, *words, **flags):
    if host != "two.example":
        return real(host, port, *words, **flags)
    return [real(f"127.0.0.{one}", port, *words, **flags)[0] for one in (2, 1)]

socket.getaddrinfo = look_up
sys.exit(main())
"""


def two_addresses(*arguments: str) -> list[str]:
    """The command on a host where the name two.example is that of 127.0.0.2 and 127.0.0.1."""
    return [sys.executable, "-c", TWO_ADDRESSES, *arguments]


class Clock:
    """The monotonic clock of processes, which runs as usual and can also be moved. So tests need
    not wait for the time of an event, and do not depend on the load of the machine.
    """

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(8))
        self._path = str(path)
        with path.open("r+b") as file:
            self._moved = mmap.mmap(file.fileno(), 8)

    def move(self, seconds: float) -> None:
        """Moves it on. The processes find out within a second."""
        self._moved[:] = struct.pack("d", struct.unpack("d", self._moved)[0] + seconds)

    def command(self, *arguments: str) -> list[str]:
        """That of a process which goes by it."""
        return self.altered()(*arguments)

    def altered(self, **constants: float) -> Callable[..., list[str]]:
        """The same with other constants."""
        return altered(self._path, **constants)


def with_open_files(
    limit: int, *arguments: str, by: Callable[..., list[str]] = command
) -> list[str]:
    """The command under its own open-file limit. ``by`` is ``unmeasured`` for one that ends without
    a free descriptor: it could not write its coverage.
    """
    return ["/bin/sh", "-c", f'ulimit -n {limit}; exec "$0" "$@"', *by(*arguments)]


def call(
    directory: Path, words: list[str], pass_fds: Sequence[int] = (), /, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, outside the checkout. One may compute for a while."""
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        cwd=directory,
        env=clean_environment(**variables),
        timeout=5 * PATIENCE,
        pass_fds=pass_fds,
        check=False,
    )


HAND_OVER = """
import os, sys
names, *rest = sys.argv[1:]
descriptors = [int(rest.pop(0)) for _ in filter(None, names.split(":"))]
for number, descriptor in enumerate(descriptors):
    os.dup2(descriptor, 100 + number)
for number, _ in enumerate(descriptors):
    os.dup2(100 + number, 3 + number)
os.environ.update(LISTEN_FDS=str(len(descriptors)), LISTEN_FDNAMES=names)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.execv(rest[0], rest)
"""
"""Passes descriptors on as systemd does: from 3 on, with names, for one process alone."""


class Sockets:
    """Bound sockets to be handed over, by name."""

    def __init__(self, **names: list[socket.socket]) -> None:
        self.named = [(name, one) for name, several in names.items() for one in several]

    @property
    def descriptors(self) -> list[int]:
        return [one.fileno() for _, one in self.named]

    def command(self, *arguments: str, words: Sequence[str] = ()) -> list[str]:
        """``words`` begin the command of the process that gets them, if it is not echod as such."""
        names = ":".join(name for name, _ in self.named)
        numbers = map(str, self.descriptors)
        return [sys.executable, "-c", HAND_OVER, names, *numbers, *(words or command()), *arguments]
