"""Weights from a manifest as a cluster would get it: a VirtualService or a TCPRoute.

The lab refuses fields that it does not support (a match on labels, for example) by name. Objects of
other kinds in the same file are ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from echod.errors import shown
from echod.lab.weights import MOST, VERSIONS, Weights
from echod.probe.manifests import (
    Object,
    Refused,
    documents,
    listed,
    mapping,
    mappings,
    named,
    sequence,
    told,
)

SERVICE = "tcp-echo"
GATEWAY_PORT = 31400
ECHO_PORT = 9000
MOST_BYTES = 64 * 1024


def read(path: str) -> Weights:
    """The weights in a file. Raises UsageError, naming the file and the problem."""
    with told(f"--route {path}"):
        return _weights(_route(_documents(Path(path))))


def _documents(path: Path) -> list[Any]:
    """The documents in a file. Its size is limited, which bounds time and memory."""
    if path.exists() and not path.is_file():
        raise Refused("must be a regular file")
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise Refused(f"must have {MOST_BYTES:,} bytes at most")
    return documents(text)


def _route(objects: list[Any]) -> Object:
    """The one route for the gateway."""
    routes = [one for one in objects if _is_route(one)]
    tls = [named(one) for one in routes if one["kind"] == "TLSRoute"]
    if tls:
        raise Refused(f"{listed(tls)}: the lab has no TLS, and takes a TCPRoute")
    if not routes:
        raise Refused(
            "must have one route for the gateway, a VirtualService or a TCPRoute: it has none"
        )
    if len(routes) > 1:
        names = listed([named(one) for one in routes])
        raise Refused(f"must have one route for the gateway: it has {names}")
    found: Object = routes[0]
    return found


def _is_route(document: Any) -> bool:
    """Whether it is a route for the gateway; the sample has another one for the mesh itself."""
    if not isinstance(document, dict):
        return False
    kind, api = document.get("kind"), str(document.get("apiVersion", ""))
    if kind in ("TCPRoute", "TLSRoute") and api.startswith("gateway.networking.k8s.io/"):
        return True
    if kind == "VirtualService" and api.startswith("networking.istio.io/"):
        spec = document.get("spec")
        return not (isinstance(spec, dict) and spec.get("gateways") == ["mesh"])
    return False


def _weights(document: Object) -> Weights:
    spec = mapping(document.get("spec"), "spec")
    found = _of_service(spec) if document["kind"] == "VirtualService" else _of_route(spec)
    weights: Weights = dict.fromkeys(VERSIONS, 0)
    for version, weight, field in found:
        if not isinstance(version, str) or version not in VERSIONS:
            raise Refused(f"{field}: the lab has only v1 and v2, not {shown(str(version))}")
        if not isinstance(weight, int) or isinstance(weight, bool) or not 0 <= weight <= MOST:
            raise Refused(f"{field}.weight: must be a whole number from 0 to {MOST:,}")
        weights[version] += weight
    if not any(weights.values()):
        raise Refused("must have a weight over 0")
    return weights


def _of_service(spec: Object) -> list[tuple[Any, Any, str]]:
    """Version, weight (0 by default) and field of each leg of a VirtualService."""
    _only(spec, "spec", {"hosts", "gateways", "tcp"})
    for host in sequence(spec.get("hosts"), "spec.hosts"):
        if host != "*" and not _is_service(host, SERVICE):
            raise Refused(f"spec.hosts: the lab has only {SERVICE}, not {shown(str(host))}")
    rule = _single(spec.get("tcp"), "spec.tcp")
    _only(rule, "spec.tcp[0]", {"match", "route"})
    for number, match in enumerate(sequence(rule.get("match"), "spec.tcp[0].match")):
        field = f"spec.tcp[0].match[{number}]"
        _only(mapping(match, field), field, {"port"})
        if match.get("port") not in (GATEWAY_PORT, ECHO_PORT):
            raise Refused(f"{field}.port: must be {GATEWAY_PORT}")
    legs = []
    for number, leg in enumerate(mappings(rule.get("route"), "spec.tcp[0].route")):
        field = f"spec.tcp[0].route[{number}]"
        _only(leg, field, {"destination", "weight"})
        to = mapping(leg.get("destination"), f"{field}.destination")
        _only(to, f"{field}.destination", {"host", "port", "subset"})
        if not _is_service(to.get("host"), SERVICE):
            raise Refused(
                f"{field}.destination.host: must be {SERVICE}, not {shown(str(to.get('host')))}"
            )
        if to.get("port", {"number": ECHO_PORT}) != {"number": ECHO_PORT}:
            raise Refused(f"{field}.destination.port: must be {ECHO_PORT}")
        legs.append((to.get("subset"), leg.get("weight", 0), field))
    if len(legs) == 1:  # a single destination gets all connections, whatever its weight
        version, weight, field = legs[0]
        return [(version, 1 if weight == 0 else weight, field)]
    return legs


def _of_route(spec: Object) -> list[tuple[Any, Any, str]]:
    """Version, weight (1 by default) and field of each backend of a TCPRoute."""
    _only(spec, "spec", {"parentRefs", "rules"})
    rule = _single(spec.get("rules"), "spec.rules")
    _only(rule, "spec.rules[0]", {"name", "backendRefs"})
    legs = []
    for number, leg in enumerate(mappings(rule.get("backendRefs"), "spec.rules[0].backendRefs")):
        field = f"spec.rules[0].backendRefs[{number}]"
        _only(leg, field, {"group", "kind", "name", "port", "weight"})
        name = str(leg.get("name"))
        if leg.get("port") != ECHO_PORT or leg.get("kind", "Service") != "Service":
            raise Refused(f"{field}: must be a Service with port {ECHO_PORT}, not {shown(name)}")
        if not name.startswith(f"{SERVICE}-"):
            raise Refused(f"{field}.name: must be {SERVICE}-v1 or {SERVICE}-v2, not {shown(name)}")
        legs.append((name.removeprefix(f"{SERVICE}-"), leg.get("weight", 1), field))
    return legs


def _is_service(host: Any, name: str) -> bool:
    """Whether a host is this Service, by its name alone or with namespace and domain."""
    return isinstance(host, str) and host.partition(".")[0] == name


def _single(value: Any, field: str) -> Object:
    found = mappings(value, field)
    if len(found) != 1:
        raise Refused(f"{field}: the lab supports one rule, not {len(found)}")
    return found[0]


def _only(value: Object, field: str, known: set[str]) -> None:
    for key in value:
        if key not in known:
            name = key if isinstance(key, str) and key.isidentifier() else shown(str(key))
            raise Refused(f"{field}.{name}: not supported by the lab")
