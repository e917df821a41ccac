"""A real Prometheus for the tests, with the dashboard's queries."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from echod.lab.processes import Process, free_port
from support import ROOT, until

MONITORING = ROOT / "monitoring"


def promtool(*words: str | Path) -> str:
    assert shutil.which("promtool"), "promtool is missing: apt-get install prometheus"
    result = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    return said


def api(port: int, path: str) -> Any:
    """What Prometheus says under a path of its API."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=10) as response:
        return json.load(response)["data"]


def query(port: int, text: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
    """Labels and value of each series that a query gives now, or gave at a time."""
    words = {"query": text} | ({} if at is None else {"time": str(at)})
    data = api(port, f"query?{urllib.parse.urlencode(words)}")["result"]
    return [(one["metric"], float(one["value"][1])) for one in data]


def broken_rules(port: int) -> list[Any]:
    """The rules whose last evaluation has failed."""
    groups = api(port, "rules")["groups"]
    return [rule for group in groups for rule in group["rules"] if rule["health"] != "ok"]


@contextmanager
def prometheus(directory: Path, config: dict[str, Any], *options: str) -> Iterator[int]:
    """A real one with this configuration; gives its port."""
    path = directory / "config.yml"
    path.write_text(yaml.safe_dump(config))
    port = free_port()
    words = ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={directory / 'tsdb'}"]
    words += [f"--web.listen-address=127.0.0.1:{port}", *options]
    process = Process("prometheus", words, directory)

    def ready() -> bool:
        process.check()
        try:
            return query(port, "vector(1)") != []
        except OSError:
            return False

    try:
        until(ready, 30)
        yield port
    finally:
        process.stop(10)


def expectation(shares: dict[str, float]) -> dict[str, Any]:
    """The rules that give the expected shares."""
    rules = [
        {"record": "echod_expected_share", "expr": f"vector({share})", "labels": {"version": name}}
        for name, share in shares.items()
    ]
    return {"groups": [{"name": "expected", "rules": rules}]}


def panel_queries(**chosen: str) -> dict[str, list[str]]:
    """What each panel asks, by its title: with everything selected but for what is ``chosen``."""
    document = json.loads((MONITORING / "dashboard.json").read_text())

    def panels(inside: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for panel in inside:
            yield panel
            yield from panels(panel.get("panels", []))

    values = {"__rate_interval": "3m", "__range": "5m", **chosen}

    def filled(text: str) -> str:
        return re.sub(r"\$([a-z_]+)", lambda found: values.get(found[1], ".*"), text)

    return {
        panel["title"]: [filled(target["expr"]) for target in panel["targets"]]
        for panel in panels(document["panels"])
        if "targets" in panel
    }


FASTER = 30
"""What each duration in a rule is divided by, where a test has no minutes to wait."""
TOKENS = re.compile(r'"[^"]*"|[a-zA-Z_][\w:]*|((?:\d+(?:ms|[smhdwy]))+)|[\d.]+')
MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def sooner(text: str) -> str:
    """An expression with each of its durations divided. Weeks and years are none it knows."""

    def divided(found: re.Match[str]) -> str:
        if not found[1]:
            return found[0]
        parts = re.findall(r"(\d+)(ms|[smhdwy])", found[1])
        return f"{sum(int(count) * MILLISECONDS[unit] for count, unit in parts) // FASTER}ms"

    return TOKENS.sub(divided, text)


def scaled(document: dict[str, Any]) -> dict[str, Any]:
    """Rules whose time runs faster. Fails on what may hold a time that it does not know."""
    timed = {"expr", "for", "keep_firing_for"}

    def rule(one: dict[str, Any]) -> dict[str, Any]:
        assert set(one) <= timed | {"record", "alert", "labels", "annotations"}, one
        # Against a number of seconds a duration is compared that nothing marks as one.
        timeless = one["expr"].replace("changes(process_start_time_seconds[", "")
        assert not re.search(r"\btime(stamp)?\s*\(|seconds", timeless), one
        return {key: sooner(value) if key in timed else value for key, value in one.items()}

    assert set(document) == {"groups"}
    for group in document["groups"]:
        assert set(group) == {"name", "rules"}, group
    return {
        "groups": [
            {"name": group["name"], "rules": [rule(one) for one in group["rules"]]}
            for group in document["groups"]
        ]
    }
