"""The same actions for a cluster: commands, and routes as in k8s/."""

from __future__ import annotations

import shlex

from echod.lab.weights import VERSIONS, Weights

NAMESPACE = "istio-io-tcp-traffic-shifting"
"""The namespace of k8s/. Its files get it from kustomize; what is copied must name it."""

_SERVICE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: {name}
  namespace: {namespace}
spec:
  hosts: [{host}]
  gateways: [{gateway}]
  tcp:
"""
_RULE = """\
    - match:
        - port: {matched}
      route:
"""
_LEG = """\
        - destination:
            host: tcp-echo
            port:
              number: {port}
            subset: {version}
"""
_TCP_ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata:
  name: tcp-echo
  namespace: {namespace}
spec:
  parentRefs:
    - name: tcp-echo-gateway
      sectionName: tcp-31400
    # Calls from inside the mesh.
    - group: ""
      kind: Service
      name: tcp-echo
      port: 9000
  rules:
    - backendRefs:
"""
_BACKEND = """\
        - name: tcp-echo-{version}
          port: 9000
"""
_MESH = "---\n# The same for calls from inside the mesh, which the route above does not affect.\n"


def virtual_service(weights: Weights) -> str:
    """Istio's routes, at the gateway and inside the mesh."""
    gateway = _service("tcp-echo", '"*"', "tcp-echo-gateway")
    mesh = _service("tcp-echo-mesh", "tcp-echo", "mesh")
    inside = "".join(_rule(port, port, weights) for port in (9000, 9001))
    return f"{gateway}{_rule(31400, 9000, weights)}{_MESH}{mesh}{inside}"


def tcp_route(weights: Weights) -> str:
    """The Gateway API's route, for the gateway and the mesh."""
    used = _used(weights)
    return _TCP_ROUTE.format(namespace=NAMESPACE) + "".join(
        _BACKEND.format(version=version)
        + (f"          weight: {weight}\n" if len(used) > 1 else "")
        for version, weight in used.items()
    )


def _service(name: str, host: str, gateway: str) -> str:
    return _SERVICE.format(name=name, namespace=NAMESPACE, host=host, gateway=gateway)


def _rule(matched: int, port: int, weights: Weights) -> str:
    used = _used(weights)
    return _RULE.format(matched=matched) + "".join(
        _LEG.format(port=port, version=version)
        + (f"          weight: {weight}\n" if len(used) > 1 else "")
        for version, weight in used.items()
    )


def _used(weights: Weights) -> Weights:
    return {version: weight for version, weight in weights.items() if weight}


def terminal(line: str, socket: str = "") -> str:
    """A request as typed in a terminal; ``socket`` is set if the lab does not use the default."""
    return f"echod lab {line}" + (f" --socket {shlex.quote(socket)}" if socket else "")


def faults(socket: str = "") -> list[dict[str, str]]:
    """The page's buttons of each version as commands, for a terminal and for a cluster."""
    rows = []
    for version, other in zip(VERSIONS, reversed(VERSIONS), strict=True):
        kubectl = f"kubectl -n {NAMESPACE}"
        scale = f"{kubectl} scale deployment/tcp-echo-{version} --replicas="
        pods = f"-l app=tcp-echo,version={version}"
        for verb, cluster in (
            ("stop", f"{scale}0"),
            ("kill", f"{kubectl} delete pod {pods} --grace-period=0 --force"),
            ("start", f"{scale}2"),
            ("drain", f"kubectl apply -k k8s/istio/all-{other} && {scale}0"),
        ):
            line = f"{verb} {version}"
            rows.append({"do": line, "terminal": terminal(line, socket), "cluster": cluster})
    return rows
