"""Draws the split over time while weights move: ``make picture``.

Runs ``echod lab`` with its Prometheus, makes connections, shifts the weights through the exercise,
and draws what Prometheus has recorded beside the requested weights.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt  # after the backend is chosen

STEPS = ("100/0", "80/20", "50/50", "0/100")
STEP_SECONDS = 15
RATE = 400
COLOURS = {"v1": "#1f77b4", "v2": "#ff7f0e"}
OUTPUT = Path(__file__).parent.parent / "docs/split.svg"

OPENED = (
    "clamp_min(rate(echod_connections_opened_total[5s])"
    ' - ignoring (reason) rate(echod_connections_closed_total{reason="unused"}[5s]), 0)'
)
SHARE = f"sum by (version) ({OPENED}) / on () group_left () sum({OPENED})"

Series = dict[str, list[tuple[float, float]]]


def echod(*words: str) -> list[str]:
    """The ``echod`` command of the environment that this runs in."""
    return [sys.executable, "-m", "echod", *words]


@contextmanager
def lab(directory: str) -> Iterator[tuple[int, int, str]]:
    """A running lab: its port, its Prometheus' port, its socket."""
    socket = f"{directory}/lab.sock"
    words = ["lab", "--serve", "--prometheus", "--port", "0", "--socket", socket]
    words += ["--steps", STEPS[0]]
    process = subprocess.Popen(echod(*words), stdout=subprocess.PIPE, text=True)
    try:
        said = ""
        while "shift with" not in said:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise SystemExit(f"the lab has ended: {said}")
            said += line
        ports = re.findall(r"(?:Envoy on|Prometheus on http://)\s*127.0.0.1:(\d+)", said)
        yield int(ports[0]), int(ports[1]), socket
    finally:
        process.terminate()
        process.wait()


def recorded(port: int, query: str, start: float, end: float) -> Series:
    """Prometheus' data for a query by version: seconds since the start, and value."""
    words = {"query": query, "start": start, "end": end, "step": 1}
    url = f"http://127.0.0.1:{port}/api/v1/query_range?{urllib.parse.urlencode(words)}"
    with urllib.request.urlopen(url, timeout=30) as response:  # of our own
        found: list[dict[str, Any]] = json.load(response)["data"]["result"]
    return {
        one["metric"]["version"]: [(at - start, float(value)) for at, value in one["values"]]
        for one in found
    }


def run() -> tuple[Series, Series]:
    """The measured and the requested shares, by version."""
    with tempfile.TemporaryDirectory() as directory, lab(directory) as (port, prometheus, socket):
        seconds = str(STEP_SECONDS * len(STEPS) + 8)
        words = ["probe", f"127.0.0.1:{port}", "--duration", seconds, "--rate", str(RATE)]
        load = subprocess.Popen(echod(*words, "--quiet"))
        time.sleep(8)  # until rates have values
        start = time.time()
        for number, step in enumerate(STEPS):
            subprocess.run(echod("lab", "shift", step, "--socket", socket), check=True)
            time.sleep(max(0.0, start + STEP_SECONDS * (number + 1) - time.time()))
        end = time.time()
        load.wait()
        seen = recorded(prometheus, SHARE, start, end)
        asked = recorded(prometheus, "echod_expected_share", start, end)
    return seen, asked


def draw(seen: Series, asked: Series) -> None:
    """The picture: a line per version, and the requested shares dashed."""
    mpl.rcParams["svg.hashsalt"] = "echod"
    figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
    for version, points in sorted(seen.items()):
        colour = COLOURS[version]
        axes.plot(*zip(*points, strict=True), color=colour, label=f"{version}, seen")
        times, values = zip(*asked[version], strict=True)
        axes.step(times, values, "--", color=colour, where="post", label=f"{version}, asked for")
    axes.set(
        xlabel="seconds",
        ylabel="share of connections opened",
        ylim=(-0.02, 1.02),
        xlim=(0, STEP_SECONDS * len(STEPS)),
    )
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", fontsize="small")
    figure.savefig(OUTPUT, metadata={"Date": None})


if __name__ == "__main__":
    draw(*run())
    print(OUTPUT)
