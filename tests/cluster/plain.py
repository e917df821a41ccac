"""Pods of the tests' own, which no sidecar is injected into: one that calls, one that listens."""

from __future__ import annotations

from typing import Any

OUTSIDER = "outsider"
WALLED = "walled"
WALLED_PORT = 8080
OUTSIDE_THE_MESH = {"sidecar.istio.io/inject": "false", "istio.io/dataplane-mode": "none"}


def pods(image: str) -> list[Any]:
    """Both, by an image that has nc and curl."""
    return [
        _pod(OUTSIDER, image, ["sleep", "infinity"]),
        _pod(WALLED, image, ["nc", "-lk", "-p", str(WALLED_PORT), "-e", "cat"]),
    ]


def wall() -> Any:
    """A policy by which no connection reaches the one that listens."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": WALLED},
        "spec": {"podSelector": {"matchLabels": {"app": WALLED}}, "policyTypes": ["Ingress"]},
    }


def _pod(name: str, image: str, command: list[str]) -> Any:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name} | OUTSIDE_THE_MESH},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": name,
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": command,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
