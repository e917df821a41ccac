"""The shipped rules and scrapes in a real Prometheus, over two echods behind a real Envoy."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT, Start, clean_environment, command, connect, converse, reset, until
from support.scraping import MONITORING, broken_rules, panel_queries, prometheus, promtool, query
from test_lab import Running


def test_rules_and_configurations_pass_promtool() -> None:
    """Syntax and lint of both, and the tests of each rule."""
    assert "SUCCESS" in promtool("check", "rules", MONITORING / "rules.yml")
    assert "SUCCESS" in promtool("check", "config", MONITORING / "prometheus.yml")
    assert "SUCCESS" in promtool("test", "rules", ROOT / "tests/mesh/rules.test.yml")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path, "--serve", "--prometheus", "--steps", "80/20")
    yield running
    if running.process.poll() is None:
        running.end()


def test_the_lab_shows_the_split_and_what_is_expected(lab: Running) -> None:
    """By the shipped rules; after a shift the expectation is another one."""
    port = int(lab.wait_for(r"Prometheus on http://127.0.0.1:(\d+)")[1])
    lab.wait_for("shift with")
    gate = lab.port()
    words = command("probe", f"127.0.0.1:{gate}", "--duration", "300", "--rate", "200", "--quiet")
    load = subprocess.Popen(words, cwd=lab.directory, env=clean_environment())
    try:
        opened = 'sum by (version) (echod:connections_opened:rate3m{port!="0"})'
        until(lambda: len([one for one in query(port, opened) if one[1] > 1]) == 2, 60)
        expected = query(port, "echod_expected_share")
        shares = {labels["version"]: value for labels, value in expected}
        assert shares == {"v1": 0.8, "v2": 0.2}
        assert [value for _, value in query(port, 'up{job="echod"}')] == [1, 1]
        assert {labels["version"] for labels, _ in query(port, "echod:requests:rate3m > 0")} == {
            "v1",
            "v2",
        }
        assert lab.shift("50/50") == "now v1 50, v2 50\n"
        until(lambda: {value for _, value in query(port, "echod_expected_share")} == {0.5}, 30)
    finally:
        load.terminate()
        load.wait(20)
    assert broken_rules(port) == []
    assert lab.end() == 0
    assert list(lab.temporary.iterdir()) == []


def test_without_prometheus_the_error_says_how_to_install_it(tmp_path: Path) -> None:
    """Before anything is started."""
    running = subprocess.run(
        command("lab", "--once", "--prometheus", "--socket", str(tmp_path / "socket")),
        capture_output=True,
        text=True,
        env=clean_environment(PATH=str(tmp_path)),
        timeout=30,
        check=False,
    )
    assert running.returncode == 1
    assert "no prometheus on the path: install the package prometheus" in running.stderr


JOBS: dict[str, dict[str, Any]] = {
    "honoured": {"honor_labels": True, "labels": {"version": "target"}},
    "renamed": {"labels": {"version": "target"}},
    "unlabelled": {"labels": {}},
}


CHECKS = {"own": 3, "none": 1}
"""Of a load balancer, for each connection of a client."""


def test_versions_are_distinguished_however_they_were_scraped(tmp_path: Path, start: Start) -> None:
    """With and without honor_labels, with a version of the target, of echod, of neither; and a load
    balancer's checks are no connections of any.
    """
    named, nameless = start("--service-version", "v1"), start()
    jobs = []
    for version, one in (("own", named), ("none", nameless)):
        for name, job in JOBS.items():
            targets = [{"targets": [f"127.0.0.1:{one.metrics_port}"], "labels": job["labels"]}]
            honor = {"honor_labels": True} if "honor_labels" in job else {}
            jobs.append({"job_name": f"{version} {name}", "static_configs": targets, **honor})
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(MONITORING / "rules.yml")],
        "scrape_configs": jobs,
    }
    with prometheus(tmp_path, config) as port:
        found: dict[str, str] = {}

        def counted() -> bool:
            for one, checks in ((named, CHECKS["own"]), (nameless, CHECKS["none"])):
                converse(one.port, b"x\n")
                for number in range(checks):
                    (reset if number else socket.socket.close)(connect(one.port))
            for labels, rate in query(port, "echod:requests:rate3m"):
                if rate > 0:
                    found[labels["job"]] = labels.get("version", "")
            return len(found) == len(jobs)

        until(lambda: len(query(port, "echod_requests_total == 0")) == len(jobs))
        until(counted, 60)
        # Seconds for a scrape and an evaluation after it: nothing moves between those of a job.
        until(lambda: len(query(port, "rate(echod_requests_total[5s]) == 0")) == len(jobs), 30)
        lines, opened, requests, unused = (
            {labels["job"]: value for labels, value in query(port, text)}
            for text in (
                "echod:requests:rate3m",
                "echod:connections_opened:rate3m",
                "echod_requests_total",
                'echod_connections_closed_total{reason="unused"}',
            )
        )
        assert opened == pytest.approx(lines, rel=0.01)
        assert unused == {job: CHECKS[job.split()[0]] * count for job, count in requests.items()}
        for name in JOBS:
            panels = panel_queries(job=f"(own|none) {name}")
            for title in (
                "Share of connections opened by version",
                "Share of connections opened, in the time shown",
            ):
                shares = [value for _, value in query(port, panels[title][0])]
                # With checks they would be 0.67 and 0.33. Some seconds of traffic are extrapolated
                # by up to a second, of each target by another part of it.
                assert shares == pytest.approx([0.5, 0.5], abs=0.08)
    assert found == {
        "own honoured": "v1",
        "own renamed": "v1",
        "own unlabelled": "v1",
        "none honoured": "target",
        "none renamed": "target",
        "none unlabelled": "",
    }


def test_pods_are_scraped_once_where_their_annotations_say(tmp_path: Path, start: Start) -> None:
    """The relabelling of the Kubernetes configuration, on pods as discovery describes them."""
    one = start()
    config = yaml.safe_load((MONITORING / "prometheus-kubernetes.yml").read_text())
    (job,) = config["scrape_configs"]
    del job["kubernetes_sd_configs"]

    def pod(name: str, port: int, **more: str) -> dict[str, Any]:
        meta = {
            "pod_name": name,
            "namespace": "n",
            "pod_ip": "127.0.0.1",
            "pod_phase": "Running",
            "pod_label_version": "v2",
            "pod_annotation_prometheus_io_scrape": "true",
            "pod_annotation_prometheus_io_port": str(one.metrics_port),
            "pod_annotation_prometheus_io_path": "/metrics",
        }
        labels = {f"__meta_kubernetes_{key}": value for key, value in (meta | more).items()}
        return {"targets": [f"127.0.0.1:{port}"], "labels": labels}

    job["static_configs"] = [
        pod("both", 9000),  # as it is found: once for each port that the pod names
        pod("both", 9464),
        pod("other", 80, pod_annotation_prometheus_io_scrape="false"),
        pod("done", 80, pod_phase="Succeeded"),
        pod("six", 80, pod_ip="0:0:0:0:0:0:0:1"),
    ]
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = []
    with prometheus(tmp_path, config) as port:
        until(lambda: len(query(port, "up")) == 2, 30)
        up = {labels["pod"]: labels for labels, value in query(port, "up") if value == 1}
        assert set(up) == {"both", "six"}
        assert up["both"]["instance"] == f"127.0.0.1:{one.metrics_port}"
        assert up["six"]["instance"] == f"[0:0:0:0:0:0:0:1]:{one.metrics_port}"
        (labels,) = (found for found, _ in query(port, 'echod_ready{pod="both"}'))
    assert (labels["version"], labels["namespace"]) == ("v2", "n")


def test_the_metrics_page_passes_promtool(start: Start) -> None:
    """Names, types and help as Prometheus would have them."""
    one = start("--service-version", "v1")
    converse(one.port, b"x\n")
    _, body, _ = one.get("/metrics")
    result = subprocess.run(
        ["promtool", "check", "metrics"], input=body, capture_output=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, b"")
