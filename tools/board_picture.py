"""Draws the top of the dashboard while weights move: ``make dashboard-picture``.

Runs ``echod lab`` with its Prometheus for a quarter of an hour, makes connections, and shifts the
weights through the exercise. Then it runs every query of the panels. Grafana's own components
(React, from npm) draw the panels of ``monitoring/dashboard.json`` from the answers; a headless
Chromium takes the picture. Needs prometheus, npm and chromium on the path.

``python tools/board_picture.py ANSWERS`` draws once more what an earlier run has saved there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from picture import STEPS, echod, lab

ROOT = Path(__file__).parent.parent
DASHBOARD = ROOT / "monitoring/dashboard.json"
BOARD = ROOT / "tools/board"
OUTPUT = ROOT / "docs/dashboard.png"
SECONDS = 190
"""Duration of each step: longer than the 3 minutes over which rates are averaged."""
RATE = 100
WIDTH, HEIGHT, SCALE = 800, 612, 1.6  # CSS pixels; 1280 pixels wide, legible at 830
LOADERS = [f"--loader:.{kind}=dataurl" for kind in ("svg", "png", "ttf", "woff", "woff2")]
PAGE = """<!doctype html>
<meta charset="utf-8">
<link rel="stylesheet" href="bundle.css">
<style>body { margin: 0 }</style>
<div id="root"></div>
<script>window.INPUT = %s</script>
<script src="bundle.js"></script>
"""


def asked(port: int, target: dict[str, Any], start: float, end: float) -> Any:
    """Prometheus' answer to a panel's query, with its variables set to all values."""
    query = target["expr"].replace("$__range", f"{end - start:.0f}s")
    query = query.replace("$__rate_interval", "1m")
    for variable in ("$job", "$namespace", "$version", "$port"):
        query = query.replace(variable, ".*")
    words: dict[str, object] = {"query": query, "start": start, "end": end, "step": 5}
    url = f"http://127.0.0.1:{port}/api/v1/query_range?{urllib.parse.urlencode(words)}"
    with urllib.request.urlopen(url, timeout=30) as response:  # of our own
        return json.load(response)["data"]["result"]


def answers() -> dict[str, Any]:
    """The answers to the queries of all graphs, and their time."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    with tempfile.TemporaryDirectory() as directory, lab(directory) as (port, prometheus, socket):
        seconds = str(SECONDS * (len(STEPS) + 1))
        words = ["probe", f"127.0.0.1:{port}", "--duration", seconds, "--rate", str(RATE)]
        load = subprocess.Popen(echod(*words, "--quiet"))
        time.sleep(SECONDS)  # until rates have values
        start = time.time()
        for number, step in enumerate(STEPS):
            subprocess.run(echod("lab", "shift", step, "--socket", socket), check=True)
            time.sleep(max(0.0, start + SECONDS * (number + 1) - time.time()))
        end = time.time()
        found = [
            {
                "title": panel["title"],
                "target": target,
                "result": asked(prometheus, target, start, end),
            }
            for panel in panels
            if panel["type"] == "timeseries"
            for target in panel["targets"]
        ]
        load.wait()
    return {"start": start, "end": end, "panels": found}


def draw(data: dict[str, Any], directory: Path) -> None:
    """Bundle the components, and have a browser draw them."""
    shutil.copytree(BOARD, directory, dirs_exist_ok=True)
    words = ["npm", "install", "--no-audit", "--no-fund", "--legacy-peer-deps"]
    subprocess.run(words, cwd=directory, check=True)
    production = '--define:process.env.NODE_ENV="production"'
    words = ["npx", "esbuild", "board.jsx", "--bundle", "--outfile=bundle.js", production]
    words += ["--define:global=window", "--jsx=automatic", "--log-level=error", *LOADERS]
    subprocess.run(words, cwd=directory, check=True)
    given = json.dumps({"board": json.loads(DASHBOARD.read_text()), "data": data})
    (directory / "index.html").write_text(PAGE % given.replace("</", "<\\/"))
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    words += [f"--force-device-scale-factor={SCALE}", f"--window-size={WIDTH},{HEIGHT}"]
    words += ["--virtual-time-budget=20000", f"--screenshot={OUTPUT}"]
    words.append((directory / "index.html").as_uri())
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL, timeout=300)


def main(saved: Path | None) -> None:
    """Draw Prometheus' current or recorded answers."""
    data = json.loads(saved.read_text()) if saved else answers()
    with tempfile.TemporaryDirectory() as directory:
        draw(data, Path(directory))
    print(OUTPUT)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
