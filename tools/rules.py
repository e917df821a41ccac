"""Writes the files that are generated from the lab's: ``python tools/rules.py``.

The rules and the scrape configuration, a PrometheusRule with the rules for the Prometheus operator,
and the files that ``compose.yaml`` mounts into Envoy and Prometheus.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from repository import address, pages

from echod.lab.envoy import LISTENERS, bootstrap, listeners

ROOT = Path(__file__).parent.parent
DATA = ROOT / "echod/lab/data"
STEPS = {
    "all-v1": {"v1": 100, "v2": 0},
    "80-20": {"v1": 80, "v2": 20},
    "50-50": {"v1": 50, "v2": 50},
    "all-v2": {"v1": 0, "v2": 100},
}
"""The weights of the steps, by their names in ``k8s/``."""
FIRST = "80-20"

REPOSITORY = pages(address())
"""The URL of ``docs/``, with a slash at the end. With it each alert gets a ``runbook_url``; without
it, an alert names the runbook's section in words."""

HEAD = "# Made of rules.yml by make monitoring.\n"


def prometheus_rule(rules: str) -> str:
    """The PrometheusRule object for the Prometheus operator."""
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tcp-echo", "labels": {"app": "tcp-echo", "release": "istio"}},
        "spec": yaml.safe_load(rules),
    }
    return HEAD + yaml.safe_dump(document, sort_keys=False, width=1000)


def compose_envoy() -> dict[str, str]:
    """The lab's Envoy configuration, with container hosts instead of child processes, and its
    steps.
    """
    upstreams = {name: (name, 9000) for name in STEPS[FIRST]}
    everywhere = ("0.0.0.0", 31400)  # noqa: S104  # in a container
    documents = {
        f"{step}.json": listeners(everywhere, weights, number)
        for number, (step, weights) in enumerate(STEPS.items(), start=1)
    }
    documents[LISTENERS] = documents[f"{FIRST}.json"]
    documents["bootstrap.json"] = bootstrap("/etc/echod", upstreams)
    return {name: json.dumps(one, indent=2) + "\n" for name, one in documents.items()}


def compose_prometheus(config: str) -> str:
    """The lab's scrape configuration, for containers."""
    document = yaml.safe_load(config)
    targets = [f"{name}:9464" for name in STEPS[FIRST]]
    document["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
    return "# Made of prometheus.yml by make monitoring.\n" + yaml.safe_dump(document)


def linked(rules: str, repository: str) -> str:
    """The rules, with links to the runbook if it has an address."""

    def url(found: re.Match[str]) -> str:
        return f"runbook_url: {repository}docs/runbook.md#{found[1].lower()}"

    return (
        re.sub(r"runbook: section (\w+) of docs/runbook\.md", url, rules) if repository else rules
    )


def made() -> dict[str, str]:
    """The contents of the files by path from the project's root."""
    rules = linked((DATA / "rules.yml").read_text(), REPOSITORY)
    scrapes = (DATA / "prometheus.yml").read_text()
    return {
        "monitoring/rules.yml": rules,
        "monitoring/prometheus.yml": scrapes,
        "monitoring/prometheus-rule.yaml": prometheus_rule(rules),
        "compose/prometheus.yml": compose_prometheus(scrapes),
        **{f"compose/envoy/{name}": text for name, text in compose_envoy().items()},
    }


if __name__ == "__main__":
    for name, text in made().items():
        (ROOT / name).write_text(text)
