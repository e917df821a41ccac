"""Shares from the weights of a route, whatever its versions are called."""

from __future__ import annotations

import sys

import pytest
from support import ROOT

from echod.errors import SystemRefused, UsageError
from echod.probe.command import route_reader
from echod.probe.expectation import parse
from echod.probe.route import from_manifest

K8S = ROOT / "k8s"


def read(text: str) -> dict[str, float]:
    return from_manifest("route.yaml", text.encode()).shares


SERVICE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: redis}
spec:
  hosts: [redis]
  tcp:
    - match: [{port: 6379, sourceLabels: {app: client}}]
      route:
        - destination: {host: redis, subset: v7}
          weight: 95
        - destination: {host: redis, subset: v8}
          weight: 5
"""
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: redis}
spec:
  parentRefs: [{name: gateway}]
  rules:
    - backendRefs:
        - {name: redis-v7, port: 6379, weight: 3}
        - {name: redis-v8, port: 6379}
"""
OTHER = "apiVersion: v1\nkind: Service\nmetadata: {name: redis}\n"


@pytest.mark.parametrize(
    ("step", "share"), [("all-v1", 1.0), ("80-20", 0.8), ("50-50", 0.5), ("all-v2", 0.0)]
)
def test_the_routes_that_are_shipped_say_what_their_names_do(step: str, share: float) -> None:
    """By subsets, and by Services; the route of the gateway and that of the mesh are one."""
    names = {"istio": ("v1", "v2"), "gateway-api": ("tcp-echo-v1", "tcp-echo-v2")}
    for kind, (first, second) in names.items():
        shares = read((K8S / kind / step / "route.yaml").read_text())
        assert shares.get(first, 0.0) == pytest.approx(share)
        assert shares.get(second, 0.0) == pytest.approx(1 - share)


def test_weights_are_shares_by_subset_or_service() -> None:
    """Any service's, with what the APIs take a missing weight for; other objects are not read."""
    assert read(f"{OTHER}---\n{SERVICE}---\n- a\n---\n") == {"v7": 0.95, "v8": 0.05}
    assert read(ROUTE) == {"redis-v7": 0.75, "redis-v8": 0.25}
    assert read(ROUTE.replace("TCPRoute", "TLSRoute")) == {"redis-v7": 0.75, "redis-v8": 0.25}
    assert read(SERVICE.replace("tcp:", "tls:")) == {"v7": 0.95, "v8": 0.05}
    without = SERVICE.replace("          weight: 5\n", "")
    assert read(without) == {"v7": 1.0, "v8": 0.0}


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("redis-v8", "redis-v8"),
        ("redis-v8.cache.svc", "redis-v8"),
        ("redis-v8.cache.svc.cluster.local", "redis-v8"),
        ("v8.example.com", "v8.example.com"),
    ],
)
def test_a_destination_without_a_subset_is_named_by_its_service(host: str, name: str) -> None:
    """However it is written; a host outside the cluster is its own name. One alone gets all."""
    text = SERVICE.replace("host: redis, subset: v8", f"host: {host}")
    assert read(text)[name] == 0.05
    alone = text.replace(
        "        - destination: {host: redis, subset: v7}\n          weight: 95\n", ""
    )
    assert read(alone.replace("weight: 5", "weight: 0")) == {name: 1.0}


def test_several_rules_must_have_one_split() -> None:
    """The probe cannot know which of them its connections meet."""
    again = SERVICE[SERVICE.index("    - match") :]
    assert read(SERVICE + again.replace("95", "19").replace("5\n", "1\n", 1)) == {
        "v7": 0.95,
        "v8": 0.05,
    }
    other = again.replace("95", "50").replace("weight: 5\n", "weight: 50\n")
    with pytest.raises(
        UsageError, match=r"must describe one split: .*tcp\[0\] and .*tcp\[1\] differ"
    ):
        read(SERVICE + other)
    with pytest.raises(UsageError, match=r"VirtualService redis, .* and TCPRoute redis, "):
        read(f"{SERVICE}---\n{ROUTE}")


@pytest.mark.parametrize(
    ("text", "old", "new", "problem"),
    [
        (OTHER, "", "", "must contain a VirtualService, a TCPRoute or a TLSRoute"),
        (SERVICE, "networking.istio.io", "example.com", "must contain a VirtualService"),
        (ROUTE, "gateway.networking", "example", "must contain a VirtualService"),
        (SERVICE, "  tcp:", "  http:", "spec.tcp: is missing or not a list"),
        (SERVICE, "weight: 95", "weight: -1", "spec.tcp[0].route[0].weight: must be a whole"),
        (SERVICE, "weight: 95", "weight: true", "must be a whole number from 0 to 1,000,000"),
        (SERVICE, "subset: v7", "subset: [v7]", "must lead to a subset or a Service, not"),
        (SERVICE, "subset: v7", "subset: error", "must lead to a subset or a Service, not 'error'"),
        (SERVICE, "{host: redis, subset: v7}", "{}", "must lead to a subset or a Service, not"),
        (SERVICE, "weight: 95", "weight: 0", ""),
        (ROUTE, "name: redis-v7", 'name: "a=1,b"', "must lead to a subset or a Service"),
        (ROUTE, "spec:", "more:", "spec: is missing or not a mapping"),
        (ROUTE, "weight: 3}", "weight: 0}", ""),
        (ROUTE, ROUTE, "a: [\n", "line 2: is not YAML"),
        (ROUTE, ROUTE, "a: &a [1]\nb: *a\n", "aliases (*NAME): must not be used"),
    ],
)
def test_what_is_no_split_is_refused_by_its_place(
    text: str, old: str, new: str, problem: str
) -> None:
    """In one line that names the file."""
    changed = text.replace(old, new)
    if not problem:
        assert 0.0 in read(changed).values()
        return
    with pytest.raises(UsageError) as caught:
        read(changed)
    assert str(caught.value).startswith("--route 'route.yaml'")
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()


def test_weights_that_are_all_zero_are_refused() -> None:
    """They say nothing of a split."""
    nothing = ROUTE.replace("weight: 3", "weight: 0").replace(
        "port: 6379}", "port: 6379, weight: 0}"
    )
    with pytest.raises(UsageError, match=r"rules\[0\].*must have a share over 0"):
        read(nothing)


def test_shares_of_a_route_are_those_of_a_text() -> None:
    """As --expect would have them."""
    assert from_manifest("x", SERVICE.encode()) == parse(["v7=95,v8=5"])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line that says what brings it: the daemon does without."""
    assert route_reader() is from_manifest
    monkeypatch.setitem(sys.modules, "yaml", None)
    for module in ("echod.probe.route", "echod.probe.manifests"):
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(SystemRefused, match=r"^--route: yaml is missing: install PyYAML, or the"):
        route_reader()
