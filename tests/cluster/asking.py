"""What a cluster has, asked before anything is changed: what is missing, and what is skipped."""

from __future__ import annotations

import json
import os
import shutil
import socket
from dataclasses import dataclass, field
from typing import Any

from cluster.kubectl import Failed, kubectl, objects

NAMESPACE = "istio-io-tcp-traffic-shifting"
"""The page's, which must not be there yet: it is deleted afterwards."""

TCP_PORT = 31400
METRICS_PORT = 9464
LEAST_SERVER = 30
LEAST_CLIENT = 27
"""Minor releases of Kubernetes 1: those that k8s/README.md names."""

ROUTE = "tcproutes.gateway.networking.k8s.io"
ALPHA = "PILOT_ENABLE_ALPHA_GATEWAY_API"


class Missing(Exception):
    """Why nothing can be run here, in one line."""


@dataclass
class Facts:
    """What there is; a reason in ``skipped`` for each part that cannot be run."""

    nodes: list[str] = field(default_factory=list)
    balanced: bool = False
    """Whether services get load balancer addresses."""
    route: str = ""
    """The served version of TCPRoute that the steps take."""
    skipped: dict[str, str] = field(default_factory=dict)


def ask(image: str) -> Facts:
    """Asks a cluster. Raises Missing."""
    if not os.environ.get("KUBECONFIG"):
        raise Missing("KUBECONFIG is not set: it says which cluster is changed")
    for tool in ("kubectl", "nc", "curl", "bash", "ps"):
        if not shutil.which(tool):
            raise Missing(f"{tool} is not on the path")
    try:
        _ask_for_versions()
        if kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "name"):
            raise Missing(
                f"namespace {NAMESPACE} exists: it would be deleted afterwards, so delete it first"
            )
        facts = Facts(nodes=_nodes(image))
        _ask_for_istio(facts)
    except Failed as error:
        raise Missing(" ".join(str(error).split())) from error
    if not facts.balanced:
        for port in (TCP_PORT, METRICS_PORT):
            if is_taken(port):
                raise Missing(f"port {port} of this host is in use: kubectl port-forward needs it")
    return facts


def is_taken(port: int) -> bool:
    """Whether something listens on a port of the loopback. It is not connected to, since a
    connection without a listener behind it ends a forward.
    """
    with socket.socket() as probe:
        # Connections that have ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def _ask_for_versions() -> None:
    found = json.loads(kubectl("version", "-o", "json"))
    for side, least in (("clientVersion", LEAST_CLIENT), ("serverVersion", LEAST_SERVER)):
        if side not in found:
            raise Missing("no cluster answers")
        minor = int("".join(filter(str.isdigit, found[side]["minor"])))
        if minor < least:
            name = "kubectl" if side == "clientVersion" else "Kubernetes"
            raise Missing(f"{name} 1.{minor}: must be 1.{least} or later")


def _nodes(image: str) -> list[str]:
    """The nodes that take pods. Raises Missing if an image without a registry is not on them."""
    usable = [
        node
        for node in objects("get", "nodes")["items"]
        if not node["spec"].get("unschedulable")
        and not any(taint["effect"] == "NoSchedule" for taint in node["spec"].get("taints", []))
        and _condition(node, "Ready")
    ]
    if not usable:
        raise Missing("no node is ready and takes pods")
    if "/" not in image:
        for node in usable:
            names = {name for one in node["status"]["images"] for name in one.get("names") or []}
            if not names & {image, f"docker.io/library/{image}"}:
                raise Missing(
                    f"image {image} is not on node {node['metadata']['name']}: load it (kind load"
                    f" docker-image {image}), or push it and say --image REGISTRY/{image}"
                )
    return [node["metadata"]["name"] for node in usable]


def _condition(one: Any, kind: str) -> bool:
    conditions = one.get("status", {}).get("conditions") or []
    return any(found["type"] == kind and found["status"] == "True" for found in conditions)


def _ask_for_istio(facts: Facts) -> None:
    istiods = objects("get", "deployments", "-A", "-l", "app=istiod").get("items")
    if not istiods:
        raise Missing("Istio is not installed: no Deployment has the label app=istiod")
    service = objects(
        *("-n", "istio-system", "get", "service", "istio-ingressgateway", "--ignore-not-found")
    )
    ports = [port["port"] for port in service.get("spec", {}).get("ports", [])]
    if TCP_PORT not in ports:
        facts.skipped["Istio's API"] = (
            f"the service istio-ingressgateway in istio-system has no port {TCP_PORT}"
        )
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress") or [{}]
    # The page reads the ip; where there is a host name alone the forward takes its place.
    facts.balanced = bool(ingress[0].get("ip"))
    _ask_for_routes(facts, istiods)
    if len(facts.nodes) < 2:
        facts.skipped["nodes"] = "one node alone takes pods"
    if not objects("get", "daemonsets", "-A", "-l", "app=ztunnel").get("items"):
        facts.skipped["ambient"] = "no DaemonSet has the label app=ztunnel"


def _ask_for_routes(facts: Facts, istiods: Any) -> None:
    definition = objects("get", "crd", ROUTE, "--ignore-not-found")
    served = [
        one["name"] for one in definition.get("spec", {}).get("versions", []) if one["served"]
    ]
    environment = {
        variable["name"]: variable.get("value")
        for istiod in istiods
        for container in istiod["spec"]["template"]["spec"]["containers"]
        for variable in container.get("env", [])
    }
    if "v1" in served:
        facts.route = "v1"
    elif "v1alpha2" in served and environment.get(ALPHA) == "true":
        facts.route = "v1alpha2"
    elif served:
        facts.skipped["Gateway API"] = (
            f"{ROUTE} is {', '.join(served)}, and istiod lacks {ALPHA}=true"
        )
    else:
        facts.skipped["Gateway API"] = f"{ROUTE} is not defined"
