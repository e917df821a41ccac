"""The split that a route requests: the weights of a VirtualService, a TCPRoute or a TLSRoute.

Versions are its subsets or its Services. Objects of other kinds in the same file are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from echod.errors import shown
from echod.probe.expectation import FAILURES, Expectation, parse
from echod.probe.manifests import Object, Refused, documents, mapping, mappings, named, told

MOST = 1_000_000
"""The largest weight that the Gateway API allows."""

_SHORT = re.compile(r"([^.]+)(\.[^.]+)?\.svc(\..*)?|([^.]+)")
"""A Service's host: its name, alone or with namespace and domain."""

_NAME = re.compile(r"[\w.-]{1,253}", re.ASCII)

Leg = tuple[str, int]
"""A version and its weight."""


def from_manifest(path: str, data: bytes) -> Expectation:
    """The shares that a manifest requests. Raises UsageError."""
    source = f"--route {shown(path)}"
    with told(source):
        splits = [split for one in documents(data) for split in _splits(one)]
        if not splits:
            raise Refused("must contain a VirtualService, a TCPRoute or a TLSRoute")
        found = [(place, _expected(legs, f"{source}: {place}")) for place, legs in splits]
    (first, expectation), *others = found
    for place, other in others:
        if other != expectation:
            with told(source):
                raise Refused(f"must describe one split: the weights of {first} and {place} differ")
    return expectation


def _expected(legs: list[Leg], source: str) -> Expectation:
    weights: dict[str, int] = {}
    for name, weight in legs:
        weights[name] = weights.get(name, 0) + weight
    return parse([f"{name}={weight}" for name, weight in weights.items()], source)


def _splits(document: Any) -> Iterator[tuple[str, list[Leg]]]:
    """Each rule of an object: its place, and its legs."""
    if not isinstance(document, dict):
        return
    kind, api = document.get("kind"), str(document.get("apiVersion", ""))
    istio = kind == "VirtualService" and api.startswith("networking.istio.io/")
    gateway = kind in ("TCPRoute", "TLSRoute")
    if not istio and not (gateway and api.startswith("gateway.networking.k8s.io/")):
        return
    spec = mapping(document.get("spec"), "spec")
    lists = [one for one in ("tcp", "tls") if one in spec] or ["tcp"] if istio else ["rules"]
    for key in lists:
        for number, rule in enumerate(mappings(spec.get(key), f"spec.{key}")):
            field = f"spec.{key}[{number}]"
            legs = _of_service(rule, field) if istio else _of_route(rule, field)
            yield f"{named(document)}, {field}", legs


def _of_service(rule: Object, field: str) -> list[Leg]:
    """The legs of a rule of a VirtualService, each with a weight of 0 by default."""
    legs = []
    routes = mappings(rule.get("route"), f"{field}.route")
    for number, leg in enumerate(routes):
        place = f"{field}.route[{number}]"
        to = mapping(leg.get("destination"), f"{place}.destination")
        name = to.get("subset")
        if name is None:
            name = _service(to.get("host"))
        # A single destination gets all connections, whatever its weight.
        weight = leg.get("weight", 0) if len(routes) > 1 else 1
        legs.append(_leg(name, weight, place))
    return legs


def _of_route(rule: Object, field: str) -> list[Leg]:
    """The legs of a rule of a TCPRoute or TLSRoute, each with a weight of 1 by default."""
    backends = mappings(rule.get("backendRefs"), f"{field}.backendRefs")
    return [
        _leg(leg.get("name"), leg.get("weight", 1), f"{field}.backendRefs[{number}]")
        for number, leg in enumerate(backends)
    ]


def _service(host: Any) -> Any:
    """The name of a Service, or the host itself if it is not a Service's."""
    found = _SHORT.fullmatch(host) if isinstance(host, str) else None
    return (found[1] or found[4]) if found else host


def _leg(name: Any, weight: Any, field: str) -> Leg:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == FAILURES:
        raise Refused(f"{field}: must lead to a subset or a Service, not {shown(str(name))}")
    if not isinstance(weight, int) or isinstance(weight, bool) or not 0 <= weight <= MOST:
        raise Refused(f"{field}.weight: must be a whole number from 0 to {MOST:,}")
    return name, weight
