"""What the page leaves out, on the exercise's pods with half of the connections each.

The cases run in this order. Those that change what a pod is come last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.manifests import K8S, documents, snippets

from cluster.plain import OUTSIDER, WALLED, WALLED_PORT, pods, wall
from cluster.setting import (
    DEPLOYMENTS,
    READY_SECONDS,
    Cluster,
    container,
    host,
    is_ready,
    patiently,
    sidecar,
)

Needs = Callable[[str], None]

ECHO_PORTS = (9000, 9001, 9002)
METRICS_PORT = 9464
AGENT_PORT = 15020
UNLISTED_PORT = 9999
"""That the policy in k8s/base does not admit."""

LOAD = {"--rate": "100", "--duration": "180"}
"""Connections a second, and for how long, while pods go and come."""

STOP = """
import os, signal
for name in os.listdir("/proc"):
    if name.isdigit() and int(name) != os.getpid():
        try:
            words = open(f"/proc/{name}/cmdline", "rb").read()
        except OSError:
            continue
        if b"9000,9001,9002" in words:
            os.kill(int(name), signal.SIGSTOP)
            print("stopped")
"""
"""Stops the daemon from within its pod; the kernel spares a first process, which it must not be."""


@pytest.fixture(scope="module", autouse=True)
def exercise(cluster: Cluster) -> None:
    """Istio's exercise at 50/50, whatever the page has left, and pods that have no sidecar."""
    if cluster.facts.route:
        cluster.call("delete", "tcproutes.gateway.networking.k8s.io", "--all")
    for step in ("k8s/istio", "k8s/istio/50-50"):
        cluster.call("apply", "-k", str(cluster.checkout / step))
    cluster.call(
        *("wait", "--for=condition=Available", "deployment", *DEPLOYMENTS, "curl", "--timeout=3m"),
        seconds=200,
    )
    image = container(cluster.pods("app=curl")[0], "curl")["image"]
    cluster.apply(*pods(image))
    names = (f"pod/{OUTSIDER}", f"pod/{WALLED}")
    cluster.call("wait", "--for=condition=Ready", *names, "--timeout=3m", seconds=200)


def fetched(cluster: Cluster, pod: Any, port: int, path: str) -> str:
    """A page of a pod, asked from outside the mesh; empty without an answer."""
    url = f"http://{host(pod['status']['podIP'])}:{port}{path}"
    answered, said = cluster.run_in(OUTSIDER, OUTSIDER, "curl", "-sf", "-m", "10", url)
    return said if answered else ""


def replied(cluster: Cluster, pod: Any, port: int) -> str:
    """The reply to a line in plain text from outside the mesh."""
    return cluster.says(OUTSIDER, OUTSIDER, pod["status"]["podIP"], port)


def test_pods_are_injected_with_a_native_sidecar_and_ready(cluster: Cluster) -> None:
    """An init container that restarts, as the annotation asks."""
    found = cluster.pods()
    assert len(found) == 4
    for pod in found:
        assert sidecar(pod).get("restartPolicy") == "Always", pod["metadata"]["name"]
        assert is_ready(pod)


def test_probes_are_rewritten_to_the_agent(cluster: Cluster) -> None:
    """The kubelet has no certificate, and asks the agent."""
    for pod in cluster.pods():
        for probe in ("readinessProbe", "livenessProbe"):
            asked = container(pod)[probe]["httpGet"]
            assert int(asked["port"]) == AGENT_PORT
            assert asked["path"].startswith("/app-health/tcp-echo/")


def test_merged_metrics_are_parsed_and_name_the_version(cluster: Cluster) -> None:
    """The agent's and echod's on one page, whose every sample of echod's has its pod's version."""
    for pod in cluster.pods():
        page = fetched(cluster, pod, AGENT_PORT, "/stats/prometheus")
        families = list(text_string_to_metric_families(page))
        assert any(family.name.startswith("istio_agent") for family in families)
        samples = [
            sample
            for family in families
            for sample in family.samples
            if sample.name.startswith("echod_")
        ]
        assert samples
        versions = {sample.labels.get("version") for sample in samples}
        assert versions == {pod["metadata"]["labels"]["version"]}


def test_plain_text_is_refused_under_strict(cluster: Cluster) -> None:
    """At the echo ports and at the metrics port; that the pods are reached shows at the agent's."""
    for pod in cluster.pods():
        assert fetched(cluster, pod, AGENT_PORT, "/stats/prometheus")
        assert [replied(cluster, pod, port) for port in ECHO_PORTS] == ["", "", ""]
        assert fetched(cluster, pod, METRICS_PORT, "/metrics") == ""


def test_port_9002_passes_through_where_plain_text_is_permitted(cluster: Cluster) -> None:
    """By a pod's address from inside the mesh: refused under STRICT, answered under PERMISSIVE."""
    address = cluster.pods()[0]["status"]["podIP"]

    def says() -> str:
        return cluster.says("deploy/curl", "curl", address, 9002)

    def permit(mode: str) -> None:
        patch = json.dumps({"spec": {"mtls": {"mode": mode}}})
        cluster.call("patch", "peerauthentication", "default", "--type=merge", "-p", patch)

    assert says() == ""
    permit("PERMISSIVE")
    try:
        patiently(says)
    finally:
        permit("STRICT")
    patiently(lambda: not says())


def test_a_job_ends_with_its_native_sidecar(cluster: Cluster) -> None:
    """Complete, although its pod's proxy would run without end."""
    cluster.job("few", ["probe", "tcp-echo:9000", "-n", "20"])
    assert cluster.verdict("few") == "Complete"
    (pod,) = cluster.pods("batch.kubernetes.io/job-name=few")
    assert sidecar(pod).get("restartPolicy") == "Always"


def test_a_policy_admits_what_it_lists_and_nothing_else(cluster: Cluster) -> None:
    """Where policies are enforced, which a connection shows that must fail behind a wall."""
    (walled,) = cluster.pods(f"app={WALLED}")

    def connects(address: str, port: int) -> bool:
        words = ("nc", "-z", "-w", "3", address, str(port))
        return cluster.run_in(OUTSIDER, OUTSIDER, *words)[0]

    address = walled["status"]["podIP"]
    patiently(lambda: connects(address, WALLED_PORT))
    cluster.apply(wall())
    try:
        patiently(lambda: not connects(address, WALLED_PORT), 20)
    except AssertionError:
        pytest.skip("optional: this cluster does not enforce network policies")
    address = cluster.pods()[0]["status"]["podIP"]
    assert connects(address, AGENT_PORT)
    # A sidecar accepts on every port: what fails has not come as far.
    assert not connects(address, UNLISTED_PORT)


@contextmanager
def load(cluster: Cluster, name: str) -> Iterator[None]:
    """The probe's connections from inside the mesh, all along and beyond; none may fail."""
    options = [word for option in LOAD.items() for word in option]
    cluster.job(name, ["probe", "tcp-echo:9000", "--json", *options])
    patiently(lambda: cluster.get("job", name)["status"].get("ready"), READY_SECONDS)
    yield
    status = cluster.get("job", name)["status"]
    assert status.get("active"), f"the load of {LOAD['--duration']} s has ended before: {status}"
    verdict = cluster.verdict(name, int(LOAD["--duration"]) + READY_SECONDS)
    report = cluster.report(name)
    assert (report["failures"], verdict) == ({}, "Complete")
    assert report["connections"] > 0
    assert {one["name"] for one in report["versions"]} == {"one", "two"}


def places(cluster: Cluster, version: str) -> list[str]:
    """The nodes of a version's pods."""
    return sorted(
        pod["spec"]["nodeName"] for pod in cluster.pods(f"app=tcp-echo,version={version}")
    )


def test_a_rollout_under_load_fails_no_connection(cluster: Cluster) -> None:
    """Both versions at once, every pod replaced."""
    before = {pod["metadata"]["uid"] for pod in cluster.pods()}
    with load(cluster, "rollout"):
        cluster.roll_out(*DEPLOYMENTS)
    assert before.isdisjoint(pod["metadata"]["uid"] for pod in cluster.pods())


def test_a_rollout_spreads_the_pods_of_a_version(cluster: Cluster, needs: Needs) -> None:
    """Three in a row, since it could be chance."""
    needs("nodes")
    for _ in range(3):
        cluster.roll_out(*DEPLOYMENTS)
        for version in ("v1", "v2"):
            found = places(cluster, version)
            assert len(set(found)) == len(found), f"{version}: {found}"


def test_a_drained_node_under_load_fails_no_connection(cluster: Cluster, needs: Needs) -> None:
    """Only the exercise's pods are evicted, and other pods of the node stay where they are."""
    needs("nodes")
    node = places(cluster, "v1")[0]
    with load(cluster, "drained"):
        cluster.cordoned.add(node)
        words = (node, "--pod-selector=app=tcp-echo", "--timeout=3m")
        cluster.call("drain", *words, seconds=200)
        assert node not in places(cluster, "v1") + places(cluster, "v2")
        patiently(
            lambda: len(cluster.pods()) == 4 and all(map(is_ready, cluster.pods())), READY_SECONDS
        )
    cluster.call("uncordon", node)
    cluster.cordoned.remove(node)


def test_a_frozen_process_is_restarted(cluster: Cluster) -> None:
    """Its liveness probe gets no answer, and the kubelet restarts the container."""
    patch = json.dumps({"spec": {"template": {"spec": {"shareProcessNamespace": True}}}})
    cluster.call("patch", "deployment", "tcp-echo-v2", "--type=merge", "-p", patch)
    cluster.call("rollout", "status", "deployment/tcp-echo-v2", "--timeout=3m", seconds=200)
    (name, *_) = [
        pod["metadata"]["name"]
        for pod in cluster.pods("app=tcp-echo,version=v2")
        if pod["spec"].get("shareProcessNamespace")
    ]
    assert "stopped" in cluster.call("exec", name, "-c", "tcp-echo", "--", "python3", "-c", STOP)

    def restarted() -> bool:
        pod = cluster.get("pod", name)
        counts = {one["name"]: one["restartCount"] for one in pod["status"]["containerStatuses"]}
        return counts["tcp-echo"] > 0 and is_ready(pod)

    patiently(restarted, READY_SECONDS)


def test_ambient_mode_serves_without_sidecars(cluster: Cluster, needs: Needs) -> None:
    """Pods of the mesh answer, plain text is refused, and the exception opens one port alone."""
    needs("ambient")
    words = ("istio-injection-", "istio.io/dataplane-mode=ambient", "--overwrite")
    cluster.call("label", "namespace", cluster.namespace, *words)
    cluster.roll_out(*DEPLOYMENTS, "curl")
    pod, *others = cluster.pods()
    for one in (pod, *others):
        assert sidecar(one) == {}
        assert is_ready(one)
        assert one["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled"
    patiently(lambda: cluster.says("deploy/curl", "curl", "tcp-echo", 9000))
    assert replied(cluster, pod, 9000) == ""
    assert fetched(cluster, pod, METRICS_PORT, "/metrics") == ""
    (exception,) = [
        one
        for text in snippets(K8S / "README.md")
        for one in documents(text)
        if one.get("kind") == "PeerAuthentication"
    ]
    cluster.apply(exception)
    patiently(lambda: "echod_requests_total" in fetched(cluster, pod, METRICS_PORT, "/metrics"))
    assert replied(cluster, pod, 9000) == ""
