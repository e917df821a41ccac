"""The picture: rates and CPU per line, a dot for each peer, readable on white and on black."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt  # after the backend is chosen

from bench import figures
from bench.report import name
from bench.results import Results
from bench.scenarios import CELLS, cell

GREY = "#7d8590"  # as far from white as from black
COLOURS = {
    "echod": "#e8590c",
    "threads": "#4c8dd6",
    "asyncio": "#2da562",
    "uvloop": "#9b6dd6",
    "limit": GREY,
}
MORE = ("#d6a10c", "#d64c8d", "#14a3b8")

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "echod",
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
}


def draw(results: Results, path: Path) -> None:
    """Write the SVG."""
    keys = [one.key for one in CELLS if one.key in results.cells]
    with mpl.rc_context(STYLE):
        figure, (rates, cpu) = plt.subplots(
            1, 2, figsize=(10, 1.4 + 0.55 * len(keys)), sharey=True, layout="constrained"
        )
        _panel(rates, results, keys, "rate")
        rates.set(xlabel="lines (connections) per second: more is better")
        _panel(cpu, results, keys, "cpu")
        cpu.set(xlabel="CPU µs per line (connection): less is better")
        rates.set_yticks(range(len(keys)), [cell(key).title for key in keys])
        rates.invert_yaxis()
        handles, labels = rates.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def _panel(axes: Any, results: Results, keys: list[str], figure: str) -> None:
    more = iter(MORE * len(results.peers))
    for number, peer in enumerate(results.peers):
        colour = COLOURS.get(peer) or next(more)
        shift = 0.12 * (number - (len(results.peers) - 1) / 2)  # dots beside each other
        found = [figures.of(results.cells[key], peer, figure) for key in keys]
        points = [(place, one) for place, one in enumerate(found) if one]
        if not points:
            continue
        medians = [one.median for _, one in points]
        below = [one.median - one.low for _, one in points]
        above = [one.high - one.median for _, one in points]
        axes.errorbar(
            medians,
            [place + shift for place, _ in points],
            xerr=(below, above),
            fmt="D" if peer == "echod" else "o",
            markersize=7 if peer == "echod" else 5,
            color=colour,
            alpha=0.9,
            label=name(peer),
            zorder=3 if peer == "echod" else 2,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: _plain(value))
    axes.grid(axis="x", alpha=0.3)
    for row in range(1, len(keys)):
        axes.axhline(row - 0.5, color=GREY, alpha=0.3, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _plain(value: float) -> str:
    """1M, 1,000, 0.1."""
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value:,g}"
