"""The tables of the README, made from the code: ``python tests/tables.py README.md``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from echod.config import OPTIONS
from echod.metrics import FAMILIES


def options() -> str:
    rows = ["| option | environment | default | meaning |", "| --- | --- | --- | --- |"]
    for option in OPTIONS:
        default = "" if option.positional or not option.default else f"`{option.default}`"
        rows.append(f"| `{option.flag}` | `{option.environment}` | {default} | {option.help} |")
    return "\n".join(rows)


def metrics() -> str:
    rows = ["| family | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for family in FAMILIES:
        labels = ", ".join(family.labels) or "none"
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(rows)


def filled(text: str) -> str:
    """The text with its tables as the code has them now."""
    for name, table in (("options", options()), ("metrics", metrics())):
        begin, end = f"<!-- {name}: made by make tables -->", f"<!-- end of {name} -->"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        text, count = re.subn(pattern, f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)
        assert count == 1, f"no place for the table of {name}"
    return text


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text()))
