"""Generates the tables in the documents from the code: ``python tools/tables.py``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from echod.config.options import OPTIONS
from echod.probe.expectation import parse
from echod.probe.planning import Plan, plan
from echod.probe.verdict import Rules
from echod.telemetry.metrics import FAMILIES, Family
from echod.watch.metrics import FAMILIES as WATCHED

ROOT = Path(__file__).parent.parent
MAIN_OPTIONS = (
    "--service-version",
    "--metrics-port",
    "--max-connections",
    "--idle-timeout",
    "--drain-delay",
    "--drain-timeout",
)
MAIN_METRICS = (
    "echod_connections_opened_total",
    "echod_connections_active",
    "echod_requests_total",
    "echod_received_bytes_total",
    "echod_sent_bytes_total",
)
"""The options and metrics in the README; docs/reference.md has all of them."""


def options() -> str:
    """The table of the command line's options."""
    rows = ["| option | environment | default | meaning |", "| --- | --- | --- | --- |"]
    for option in OPTIONS:
        default = "" if option.positional or not option.default else f"`{option.default}`"
        rows.append(f"| `{option.flag}` | `{option.environment}` | {default} | {option.help} |")
    return "\n".join(rows)


def metrics(families: Sequence[Family[Any]] = FAMILIES) -> str:
    """The table of metric families."""
    rows = ["| family | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for family in families:
        labels = ", ".join(family.labels) or "none"
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(rows)


def main_options() -> str:
    """The options that the README shows."""
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    for name in MAIN_OPTIONS:
        (option,) = (one for one in OPTIONS if one.flag == name)
        rows.append(f"| `{option.flag}` | {option.default} | {option.help} |")
    return "\n".join(rows)


def main_metrics() -> str:
    """The metric families that the README shows."""
    rows = ["| metric | meaning |", "| --- | --- |"]
    for name in MAIN_METRICS:
        (family,) = (one for one in FAMILIES if one.name == name)
        rows.append(f"| `{family.name}` | {family.help} |")
    return "\n".join(rows)


def sizes() -> str:
    """Connections of a pass by split and by what must be found, with the probe's defaults."""
    points = (20, 10, 5, 3)
    rows = ["| split | " + " | ".join(f"{one} points" for one in points) + " |"]
    rows.append("| --- |" + " --- |" * len(points))
    for split in ("50/50", "80/20", "90/10", "95/5", "99/1", "34/33/33"):
        names = ",".join(
            f"{name}={share}" for name, share in zip("abc", split.split("/"), strict=False)
        )
        plans = [planned(names, one / 100) for one in points]
        cells = [f"{one.typical:,} / {one.p95:,}" for one in plans]
        rows.append(f"| {split} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def planned(names: str, detect: float) -> Plan:
    """The plan of ``echod probe --plan`` with its other defaults."""
    rules = Rules(
        expectation=parse([names]), alpha=0.001, detect=detect, tolerance=None, max_errors=0
    )
    return plan(list(rules.tests.values()))


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"options": main_options, "metrics": main_metrics},
    "docs/reference.md": {"options": options, "metrics": metrics},
    "docs/probe.md": {"sizes": sizes, "probe metrics": lambda: metrics(WATCHED)},
}


def filled(document: str) -> str:
    """A document with its tables as the code has them now."""
    text = (ROOT / document).read_text()
    for name, table in TABLES[document].items():
        begin, end = f"<!-- {name}: made by make tables -->", f"<!-- end of {name} -->"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        text, count = re.subn(pattern, f"{begin}\n{table()}\n{end}", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{document}: {count} places for the table of {name}, not 1")
    return text


def main(words: Sequence[str]) -> int:
    """Write the documents; with ``--check`` it only says which of them are to be written anew."""
    if words not in ([], ["--check"]):
        print("usage: tables.py [--check]", file=sys.stderr)
        return 2
    old = []
    for document in TABLES:
        text, path = filled(document), ROOT / document
        if text != path.read_text():
            old.append(document)
            if not words:
                path.write_text(text)
    if words:
        print("".join(f"{one}: run make tables\n" for one in old), end="")
    return bool(words and old)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
