"""The kernel's figures for a running server: all threads of the process and its children."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.problems import Failed

QUIET_SECONDS = 0.0005
"""A server counts as idle if it uses less than this CPU time in 20 ms."""


def family(pid: int) -> list[int]:
    """A process and its living descendants."""
    found = [pid]
    for one in found:  # which grows meanwhile
        for thread in _threads(one):
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system, of a process and its children.

    The clocks of the processes count nanoseconds (the scheduler's own sums, as in schedstat).
    Unlike the files of the threads, they include ended threads. The time of reaped children is
    known only in ticks of 10 ms. Raises Failed if the process has ended.
    """
    total = 0.0
    for one in family(pid):
        try:
            total += time.clock_gettime((~one << 3) | 2)  # clock_getcpuclockid(3)
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError as error:
            if one == pid:
                raise Failed("it has ended") from error
            continue
        total += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return total


def switches(pid: int) -> int:
    """Context switches, voluntary and not, of the threads that live now."""
    total = 0
    for one in family(pid):
        for thread in _threads(one):
            with suppress(OSError):
                status = (thread / "status").read_text()
                total += int(_field(status, "voluntary_ctxt_switches:"))
                total += int(_field(status, "nonvoluntary_ctxt_switches:"))
    return total


def resident_kib(pid: int) -> int:
    """Resident memory in KiB; what processes share counts for each."""
    total = 0
    for one in family(pid):
        with suppress(OSError):
            total += int(_field(Path(f"/proc/{one}/status").read_text(), "VmRSS:"))
    return total


def settle(pid: int, timeout: float = 5.0) -> None:
    """Wait until a server is idle, ``seconds`` at most."""
    deadline = time.monotonic() + timeout
    before, quiet = cpu_seconds(pid), 0
    while quiet < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
        now = cpu_seconds(pid)
        quiet = quiet + 1 if now - before < QUIET_SECONDS else 0
        before = now


@dataclass(frozen=True)
class Snapshot:
    """CPU seconds, context switches and resident KiB at one moment."""

    cpu: float
    switches: int
    resident: int


def snapshot(pid: int) -> Snapshot:
    """Take the figures while the server is idle. Raises Failed if it has ended."""
    settle(pid)
    return Snapshot(cpu_seconds(pid), switches(pid), resident_kib(pid))


def _threads(pid: int) -> list[Path]:
    with suppress(OSError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []


def _field(status: str, name: str) -> str:
    return status.partition(f"\n{name}")[2].split(maxsplit=1)[0]
