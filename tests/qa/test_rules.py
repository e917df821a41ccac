"""What is in monitoring/: made of one source, and true to what the daemon exports."""

from __future__ import annotations

import re
from typing import Any

import yaml
from rules import DATA, REPOSITORY, linked, made
from support import ROOT

from echod.telemetry.metrics import FAMILIES
from echod.watch.metrics import FAMILIES as WATCHED

MONITORING = ROOT / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yml").read_text())


def rules(kind: str) -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"] if kind in rule]


def test_generated_rules_and_configurations_are_current() -> None:
    """The lab's own rules and scrapes, and the object for the operator."""
    for name, text in made().items():
        assert (ROOT / name).read_text() == text, "run: make monitoring"


def test_rules_use_metrics_that_exist() -> None:
    """A family of the daemon or a watch, a record of their own, or what Prometheus has itself."""
    known = {one.name for one in FAMILIES} | {one.name for one in WATCHED}
    known |= {rule["record"] for rule in rules("record")}
    known |= {"up", "echod_expected_share", "process_start_time_seconds"}
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
        name = rule["alert"]
        told = dict(rule["annotations"])
        assert {"summary", "description"} < set(told)
        if REPOSITORY:
            assert told["runbook_url"] == f"{REPOSITORY}docs/runbook.md#{name.lower()}"
        else:
            assert told["runbook"] == f"section {name} of docs/runbook.md"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_links_to_the_runbook_are_absolute_where_it_has_an_address() -> None:
    """One place sets it; without one there is no dead link."""
    source = (DATA / "rules.yml").read_text()
    assert linked(source, "") == source
    there = linked(source, "https://example.org/echod/")
    alerts = [rule["alert"] for rule in rules("alert")]
    found = re.findall(r"runbook_url: (\S+)$", there, re.MULTILINE)
    assert found == [f"https://example.org/echod/docs/runbook.md#{one.lower()}" for one in alerts]
    assert REPOSITORY == "" or re.fullmatch(r"https://\S+/", REPOSITORY)
