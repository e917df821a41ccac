"""The Grafana dashboard against Grafana's own types, and against a daemon that runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from support import ROOT, Echod

PATH = ROOT / "monitoring/dashboard.json"


def difference(one: Any, other: Any, path: str = "$") -> list[str]:
    """Where two JSON documents differ, for a message that can be read."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = [f"{path}.{key}" for key in one.keys() ^ other.keys()]
        for key in one.keys() & other.keys():
            found += difference(one[key], other[key], f"{path}.{key}")
        return found
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [place for n, pair in pairs for place in difference(*pair, path=f"{path}[{n}]")]
    return [] if one == other else [path]


def test_the_dashboard_is_current() -> None:
    """It is made by its program, and made the same each time."""
    words = [sys.executable, str(ROOT / "tools/dashboard.py")]
    made = subprocess.run(words, capture_output=True, text=True, check=True, cwd="/").stdout
    assert made == PATH.read_text(), "run: make monitoring"


def test_grafana_knows_every_key_of_the_dashboard() -> None:
    """What its types do not know, or know elsewhere, is lost when they read and write it."""
    register_default_plugins()
    board = json.loads(PATH.read_text())
    again = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    assert difference(board, again) == []


def test_process_metrics_of_the_dashboard_are_exported(shared_echod: Echod) -> None:
    """client_python has others on other systems and in other releases."""
    exported = {name for name, _ in shared_echod.metrics().samples}
    asked = set(re.findall(r"\b(?:process|python)_\w+(?=\{)", PATH.read_text()))
    assert asked
    assert asked <= exported
