"""Writes the files here that are made of others: ``python monitoring/build.py``.

The rules and the scrape configuration are the lab's own, and a PrometheusRule wraps the rules for
the Prometheus operator.
"""

from __future__ import annotations

from pathlib import Path

import yaml

HERE = Path(__file__).parent
DATA = HERE.parent / "echod/lab/data"

HEAD = "# Made of rules.yml by make monitoring.\n"


def prometheus_rule(rules: str) -> str:
    """The object that the Prometheus operator takes rules from."""
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tcp-echo", "labels": {"app": "tcp-echo", "release": "istio"}},
        "spec": yaml.safe_load(rules),
    }
    return HEAD + yaml.safe_dump(document, sort_keys=False, width=1000)


def made() -> dict[str, str]:
    """The files' texts by their names."""
    rules = (DATA / "rules.yml").read_text()
    return {
        "rules.yml": rules,
        "prometheus.yml": (DATA / "prometheus.yml").read_text(),
        "prometheus-rule.yaml": prometheus_rule(rules),
    }


if __name__ == "__main__":
    for name, text in made().items():
        (HERE / name).write_text(text)
