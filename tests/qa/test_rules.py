"""What is in monitoring/: made of one source, and true to what the daemon exports."""

from __future__ import annotations

import re
from typing import Any

import yaml
from rules import made
from support import ROOT

from echod.telemetry.metrics import FAMILIES

MONITORING = ROOT / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yml").read_text())


def rules(kind: str) -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"] if kind in rule]


def test_generated_rules_and_configurations_are_current() -> None:
    """The lab's own rules and scrapes, and the object for the operator."""
    for name, text in made().items():
        assert (ROOT / name).read_text() == text, "run: make monitoring"


def test_rules_use_metrics_that_exist() -> None:
    """A family of the daemon, a record of their own, or what Prometheus has of itself."""
    known = {family.name for family in FAMILIES} | {rule["record"] for rule in rules("record")}
    known |= {"up", "echod_expected_share"}
    for rule in rules("expr"):
        names = re.findall(r"\b(?:echod[_:][\w:]+|up)\b(?!=)", rule["expr"])
        assert names
        assert set(names) <= known, rule


def test_every_alert_has_its_section_in_the_runbook() -> None:
    """And each section an alert."""
    runbook = (ROOT / "docs/runbook.md").read_text()
    sections = re.findall(r"^## (Echod\w+)$", runbook, re.MULTILINE)
    alerts = [rule["alert"] for rule in rules("alert")]
    assert sections == alerts
    for rule in rules("alert"):
        assert {"summary", "description", "runbook_url"} == set(rule["annotations"])
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
