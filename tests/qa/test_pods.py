"""What the pods of k8s/ may do, and what they have of the nodes that they run on."""

from __future__ import annotations

import pytest
from support.manifests import K8S, Manifests, documents, kustomization

WATCH = Manifests(documents((K8S / "client/watch.yaml").read_text()))
PODS = {
    **{name: pod["spec"] for name, pod in Manifests.of("base", "client").pods().items()},
    "watch": WATCH.pods()["watch"]["spec"],
    "probe": documents((K8S / "client/probe-job.yaml").read_text())[0]["spec"]["template"]["spec"],
}
"""The specifications of all pods, by the names of their Deployments or Jobs."""
SPEC = {
    "automountServiceAccountToken",
    "containers",
    "enableServiceLinks",
    "restartPolicy",
    "securityContext",
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "topologySpreadConstraints",
}
CONTAINER = {
    "args",
    "command",
    "env",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resources",
    "securityContext",
}
"""What pods and containers may have: hostNetwork, volumes, initContainers and envFrom are not."""
MORE = {"watch": ("volumes", "volumeMounts")}
"""What a pod and its container have beside that."""


@pytest.mark.parametrize("pod", PODS)
def test_pods_run_restricted_and_without_a_token(pod: str) -> None:
    """The restricted security standard, for each container that there is."""
    spec = PODS[pod]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (one,) = spec["containers"]
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("pod", PODS)
def test_pods_have_no_part_of_their_host(pod: str) -> None:
    """No namespace, port or directory of it, no second container, no secret: nothing unlisted."""
    spec = PODS[pod]
    (one,) = spec["containers"]
    volumes, mounts = MORE.get(pod, ("", ""))
    assert spec.keys() <= SPEC | {volumes}
    assert one.keys() <= CONTAINER | {mounts}
    for volume in spec.get("volumes", []):
        assert volume.keys() == {"name", "configMap"}
    for mount in one.get("volumeMounts", []):
        assert mount["readOnly"] is True
    for port in one.get("ports", []):
        assert port.keys() == {"name", "containerPort"}
    for variable in one.get("env", []):
        assert "value" in variable or variable["valueFrom"].keys() == {"fieldRef"}


@pytest.mark.parametrize("pod", PODS)
def test_pods_state_their_resources(pod: str) -> None:
    """A limit of memory and none of CPU, which would throttle every burst."""
    (one,) = PODS[pod]["containers"]
    requests, limits = one["resources"]["requests"], one["resources"]["limits"]
    assert requests.keys() == {"cpu", "memory"}
    assert limits.keys() == {"memory"}
    assert int(requests["memory"].removesuffix("Mi")) <= int(limits["memory"].removesuffix("Mi"))


@pytest.mark.parametrize("directory", ["base", "client", "watch"])
def test_pods_have_an_account_without_rights(directory: str) -> None:
    """Each Deployment has its own, and no token of it."""
    manifests = WATCH if directory == "watch" else Manifests.of(directory)
    for name, pod in manifests.pods().items():
        assert pod["spec"]["serviceAccountName"] == name
        assert manifests.one("ServiceAccount", name)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("directory", ["base", "client"])
def test_images_have_a_tag(directory: str) -> None:
    """Without one a pod would run whatever is newest."""
    manifests = Manifests.of(directory)
    tags = {image["name"]: image["newTag"] for image in kustomization(directory)["images"]}
    assert tags.keys() == {
        pod["spec"]["containers"][0]["image"] for pod in manifests.pods().values()
    }
    assert "latest" not in tags.values()
