"""The results of a run, in memory and as JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.figures import Samples
from bench.interpreter import described

Cells = dict[str, Samples]
"""By the name of the scenario."""


def machine() -> dict[str, str]:
    """The machine on which the figures were measured."""
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": cpu or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": described(),
    }


@dataclass
class Results:
    """Samples of the peers by scenario, of the side runs by side and scenario, and what went
    wrong. ``about`` says what each peer is, or why it was not measured.
    """

    rounds: int
    seconds: float
    idle: int
    machine: dict[str, str]
    about: dict[str, str] = field(default_factory=dict)
    peers: list[str] = field(default_factory=list)  # those that were measured
    cells: Cells = field(default_factory=dict)
    sides: dict[str, Cells] = field(default_factory=dict)
    side_peers: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def samples(self, key: str) -> Samples:
        """Of one scenario; none if it was not run."""
        return self.cells.get(key, {})

    def json(self, goals: object) -> str:
        """All of it, with the judgement on the goals."""
        return json.dumps(asdict(self) | {"goals": goals}, indent=1) + "\n"
