"""``make test-cluster`` itself, on a stand-in for kubectl: hand-written answers, no cluster."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support import ROOT, until

NAMESPACE = "istio-io-tcp-traffic-shifting"
CHANGES = re.compile(r"apply|delete|patch|rollout restart|drain|label|uncordon|exec|port-forward")
RUN_SECONDS = 600.0
CHECKS = ("--only", "checks")


@dataclass
class Run:
    """A run of the suite that has begun: its process, the stand-in's state and the results."""

    process: subprocess.Popen[str]
    state: Path
    junit: Path

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=RUN_SECONDS)
        return self.process.returncode, output

    @property
    def calls(self) -> list[str]:
        log = self.state / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def flag(self, name: str) -> bool:
        return (self.state / "flags" / name).exists()

    def cases(self) -> dict[str, str]:
        """What came of each case, and the reason if it has not passed."""
        found = {}
        for case in ElementTree.parse(self.junit).getroot().iter("testcase"):
            name = re.sub(r"^test_.*\[(.*)\]$", r"\1", case.get("name") or "")
            ends = [one for one in case if one.tag in ("failure", "error", "skipped")]
            found[name] = f"{ends[0].tag}: {ends[0].get('message')}" if ends else "passed"
        return found

    def left(self) -> list[str]:
        """The processes that belong to the run and still live."""
        mark = f"STAND_IN={self.state}".encode()
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    found.append((place / "cmdline").read_bytes().decode().replace("\0", " "))
            except OSError:  # it is not ours to read, or has ended
                continue
        return found


Begin = Callable[..., Run]


def begin_in(
    directory: Path,
    *flags: str,
    words: tuple[str, ...] = (),
    kubeconfig: str = os.devnull,
    **values: str,
) -> Run:
    """Starts the suite in a network of its own, with these flags of the stand-in."""
    state = directory / "state"
    (state / "flags").mkdir(parents=True)
    for name, text in [*((flag, "") for flag in flags), *values.items()]:
        (state / "flags" / name).write_text(text)
    tool = directory / "bin/kubectl"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/cluster/stand_in.py "$@"\n')
    tool.chmod(0o755)
    junit = directory / "results.xml"
    command = f'ip link set lo up && exec {sys.executable} -m cluster --junit {junit} "$@"'
    process = subprocess.Popen(
        ["unshare", "--net", "bash", "-c", command, "cluster", *words],
        cwd=ROOT / "tests",
        env=os.environ
        | {
            "STAND_IN": str(state),
            "KUBECONFIG": kubeconfig,
            "PATH": f"{tool.parent}:{os.environ['PATH']}",
            "CI": "",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    return Run(process, state, junit)


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    def start(*flags: str, **more: Any) -> Run:
        return begin_in(tmp_path, *flags, **more)

    return start


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which everything is as it should be."""
    run = begin_in(tmp_path_factory.mktemp("whole"), "enforced")
    status, output = run.end()
    assert status == 0, output
    return run


def first(calls: list[str], beginning: str) -> int:
    return next(place for place, call in enumerate(calls) if call.startswith(beginning))


def test_a_whole_run_passes_every_case(whole: Run) -> None:
    """The page's sections, all that goes beyond it, and the clean-up; nothing is skipped."""
    cases = whole.cases()
    assert set(cases.values()) == {"passed"}
    assert {"All to v1", "The same with the Gateway API"} <= cases.keys()
    assert "test_ambient_mode_serves_without_sidecars" in cases
    assert list(cases)[-1] == "test_the_clean_up_leaves_nothing"


def test_a_run_asks_before_it_changes_anything(whole: Run) -> None:
    """Then it types the page in its order."""
    changed = next(place for place, call in enumerate(whole.calls) if CHANGES.match(call))
    assert whole.calls[changed] == "apply -k k8s/istio"
    asked = whole.calls[:changed]
    assert asked[0] == "version -o json"
    assert f"get namespace {NAMESPACE} --ignore-not-found -o name" in asked
    assert any(call.startswith("get daemonsets") for call in asked)
    typed = [call for call in whole.calls if re.match(r"apply -[kf] k8s|delete namespace", call)]
    steps = ["all-v1", "80-20", "50-50", "all-v2"]
    istio = [f"apply -k k8s/istio/{step}" for step in steps]
    assert typed == [
        "apply -k k8s/istio",
        *istio[:2],
        "apply -f k8s/client/probe-job.yaml",
        *istio[2:],
        "apply -k k8s/gateway-api",
        *(f"apply -k k8s/gateway-api/{step}" for step in steps),
        f"delete namespace {NAMESPACE}",
        f"delete namespace {NAMESPACE} --ignore-not-found --timeout=4m",
    ]


def test_a_forward_is_started_again_and_ended_before_the_next(whole: Run) -> None:
    """One that finds no route ends; the loop starts it until there is one, and the page ends it."""
    calls = whole.calls
    one = "port-forward service/istio-ingressgateway 31400:31400"
    other = "port-forward service/tcp-echo-gateway-istio 31400:31400"
    assert calls.count(one) == calls.count(f"ended {one}") >= 1
    assert max(i for i, call in enumerate(calls) if call == f"ended {one}") < first(calls, other)
    assert calls.count(other) == calls.count(f"ended {other}") >= 1
    metrics = "port-forward deploy/tcp-echo-v2 9464"
    assert [call for call in calls if metrics in call] == [metrics, f"ended {metrics}"]


def test_a_run_leaves_nothing(whole: Run) -> None:
    """No namespace, no process, no node that takes no pods."""
    assert not whole.flag("namespace")
    assert not whole.flag("drained")
    assert whole.calls[-1].startswith(f"delete namespace {NAMESPACE} --ignore-not-found")
    assert whole.left() == []


def test_no_cluster_is_changed_that_was_not_named(begin: Begin) -> None:
    """kubectl would take the one of a default file."""
    run = begin(kubeconfig="")
    assert run.end() == (
        2,
        "make test-cluster: KUBECONFIG is not set: it says which cluster is changed\n",
    )
    assert run.calls == []


@pytest.mark.parametrize(
    ("flags", "words", "line"),
    [
        (
            ("namespace",),
            (),
            f"namespace {NAMESPACE} exists: it would be deleted afterwards, so delete it first",
        ),
        (("no istio",), (), "Istio is not installed: no Deployment has the label app=istiod"),
        (
            (),
            ("--image", "echod:9.9"),
            "image echod:9.9 is not on node node-1: load it (kind load docker-image echod:9.9), or"
            " push it and say --image REGISTRY/echod:9.9",
        ),
    ],
)
def test_a_run_is_refused_in_one_line(
    begin: Begin, flags: tuple[str, ...], words: tuple[str, ...], line: str
) -> None:
    """Which names what is in the way; nothing has been changed."""
    run = begin(*flags, words=words)
    status, output = run.end()
    assert (status, output) == (2, f"make test-cluster: {line}\n")
    assert not any(CHANGES.match(call) for call in run.calls)
    assert not run.junit.exists()


def test_what_a_cluster_lacks_is_skipped_with_its_reason(begin: Begin) -> None:
    """In a line before the run, and in the results."""
    run = begin("no 31400", "no routes", "one node", "no ztunnel")
    status, output = run.end()
    assert status == 0, output
    reasons = {
        "Istio's API": "the service istio-ingressgateway in istio-system has no port 31400",
        "Gateway API": "tcproutes.gateway.networking.k8s.io is not defined",
        "nodes": "one node alone takes pods",
        "ambient": "no DaemonSet has the label app=ztunnel",
    }
    assert output.splitlines()[1:5] == [f"skipped: {one}: {why}" for one, why in reasons.items()]
    cases = run.cases()
    for case, part in {
        "All to v1": "Istio's API",
        "The same with the Gateway API": "Gateway API",
        "test_a_drained_node_under_load_fails_no_connection": "nodes",
        "test_ambient_mode_serves_without_sidecars": "ambient",
    }.items():
        assert cases[case] == f"skipped: optional: {reasons[part]}"
    enforced = "test_a_policy_admits_what_it_lists_and_nothing_else"
    assert cases[enforced] == "skipped: optional: this cluster does not enforce network policies"
    assert not any(call.startswith("port-forward") for call in run.calls)


def test_older_routes_are_taken_where_istiod_reads_them(begin: Begin) -> None:
    """TCPRoute v1alpha2, by the steps of its own directory."""
    run = begin("no 31400", "old routes", "alpha", words=("--only", "page"))
    status, output = run.end()
    assert status == 0, output
    assert run.cases()["The same with the Gateway API"] == "passed"
    routes = [call for call in run.calls if call.startswith("apply -k k8s/gateway-api/")]
    assert len(routes) == 4
    assert all("/v1alpha2/" in call for call in routes)


def test_a_check_that_fails_is_a_failed_case(begin: Begin) -> None:
    """The others pass, and the clean-up is the same."""
    run = begin("no ztunnel", "enforced", "classic", "lossy", "stacked", words=CHECKS)
    status, output = run.end()
    assert status == 1, output
    found = run.cases()
    assert {name for name, end in found.items() if end.startswith("failure")} == {
        "test_pods_are_injected_with_a_native_sidecar_and_ready",
        "test_a_rollout_under_load_fails_no_connection",
        "test_a_rollout_spreads_the_pods_of_a_version",
        "test_a_drained_node_under_load_fails_no_connection",
    }
    assert "{'reset': 4}" in found["test_a_rollout_under_load_fails_no_connection"]
    assert found["test_the_clean_up_leaves_nothing"] == "passed"
    assert not run.flag("namespace")
    assert not run.flag("drained")


def test_a_section_that_fails_ends_the_page_alone(begin: Begin) -> None:
    """What comes after it on the page would be typed into another state; checks set their own."""
    run = begin("enforced", "no ztunnel", broken="apply -k k8s/istio/all-v1")
    status, output = run.end()
    assert status == 1, output
    cases = run.cases()
    assert cases["All to v1"].startswith("failure")
    assert "error: broken" in cases["All to v1"]
    assert cases["A fifth to v2"] == "skipped: the section 'All to v1' has failed"
    assert cases["test_probes_are_rewritten_to_the_agent"] == "passed"
    assert not run.flag("namespace")
    assert run.left() == []


@pytest.mark.parametrize(
    ("number", "where"),
    [(signal.SIGINT, "apply -k k8s/istio/all-v1"), (signal.SIGTERM, "drain node")],
)
def test_an_interrupted_run_cleans_up(begin: Begin, number: signal.Signals, where: str) -> None:
    """Amid the page and its forward, or a drain: no namespace, cordon or process is left."""
    amid_a_drain = where.startswith("drain")
    run = begin("enforced", words=CHECKS if amid_a_drain else (), slow=where)
    until(lambda: run.flag("waiting") or run.process.poll() is not None, RUN_SECONDS)
    if amid_a_drain:
        (run.state / "flags/drained").touch()
    run.process.send_signal(number)
    status, output = run.end()
    assert status == 2, output
    assert not run.flag("namespace")
    assert not run.flag("drained")
    assert run.junit.exists()
    assert run.left() == []
