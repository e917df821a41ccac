"""The manifests as a cluster would get them, against the schemas and Istio's linter."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from crds import Definitions
from support import ROOT
from support.manifests import K8S, Manifest, Manifests, directories, documents, render, snippets

import echod

RELEASES = ("1.35", "1.36", "1.37")
OWN_GROUPS = {"v1", "apps/v1", "autoscaling/v2", "batch/v1", "networking.k8s.io/v1", "policy/v1"}
"""Of the built-in kinds; whatever else there is must have a definition."""
PAGES = [K8S / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STEPS = ["all-v1", "80-20", "50-50", "all-v2"]

rendered = functools.cache(lambda directory: render(K8S / directory))
"""A directory's objects, by its name in k8s/."""


def whole_snippets() -> list[Manifest]:
    """The objects that pages show; patches and values are no objects."""
    shown = [one for page in PAGES for text in snippets(page) for one in documents(text)]
    return [
        one
        for one in shown
        if isinstance(one, dict)
        and {"apiVersion", "kind"} <= one.keys()
        and one["kind"] != "Kustomization"
    ]


@pytest.fixture(scope="module")
def definitions() -> Definitions:
    directory = os.environ.get("ECHOD_CRDS")
    if not directory:
        pytest.skip("optional: ECHOD_CRDS=DIR names the CRD files of Istio and Gateway API")
    return Definitions(ROOT / directory)


@pytest.mark.parametrize("directory", directories())
def test_every_object_of_a_directory_is_valid(directory: str) -> None:
    """For each release of Kubernetes, unknown fields refused."""
    objects = rendered(directory)
    assert objects
    for one in objects:
        if one["apiVersion"] in OWN_GROUPS:
            for release in RELEASES:
                kubernetes_validate.validate(one, release, strict=True)


@pytest.mark.parametrize("directory", directories())
def test_every_custom_object_of_a_directory_is_valid(
    directory: str, definitions: Definitions
) -> None:
    """By its own definition, unknown fields refused; an undefined kind fails."""
    for one in rendered(directory):
        if one["apiVersion"] not in OWN_GROUPS:
            assert definitions.knows(one), f"{one['apiVersion']} {one['kind']}"
            assert definitions.errors(one) == []


def test_the_objects_that_pages_show_are_valid(definitions: Definitions) -> None:
    """What a reader copies is accepted, and so are the Job and the watch that are applied by
    themselves. (Argo's definitions are in no set of schemas that others come in.)
    """
    shown = [one for one in whole_snippets() if one["kind"] != "AnalysisTemplate"]
    assert "PeerAuthentication" in {one["kind"] for one in shown}
    for name in ("probe-job", "watch"):
        shown += documents((K8S / f"client/{name}.yaml").read_text())
    for one in shown:
        if one["apiVersion"] in OWN_GROUPS:
            for release in RELEASES:
                kubernetes_validate.validate(one, release, strict=True)
        else:
            assert definitions.errors(one) == []


def test_a_wrong_field_of_a_manifest_is_found(definitions: Definitions) -> None:
    """By both validators, at any depth."""
    service = Manifests(rendered("base")).one("Service", "tcp-echo")
    wrong = service | {"spec": service["spec"] | {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, RELEASES[0], strict=True)
    (rule,) = Manifests(rendered("istio")).all("DestinationRule")
    assert definitions.errors(rule | {"spec": rule["spec"] | {"hosts": "x"}})
    subset = rule["spec"]["subsets"][0] | {"label": {}}
    assert definitions.errors(rule | {"spec": rule["spec"] | {"subsets": [subset]}})
    assert definitions.errors(rule | {"spec": rule["spec"] | {"host": 1}})
    assert not definitions.knows(rule | {"kind": "DestinationRules"})


def test_steps_reach_the_namespace_and_the_image_its_tag() -> None:
    """Rendered, each exercise is in one namespace and runs this version."""
    for exercise in ("istio", "gateway-api"):
        whole = rendered(exercise) + [
            one for step in STEPS for one in rendered(f"{exercise}/{step}")
        ]
        (namespace,) = Manifests(whole).all("Namespace")
        namespaces = {one["metadata"].get("namespace") for one in whole if one is not namespace}
        assert namespaces == {namespace["metadata"]["name"]}
        images = {
            pod["spec"]["containers"][0]["image"]
            for name, pod in Manifests(whole).pods().items()
            if name.startswith("tcp-echo")
        }
        assert images == {f"echod:{echod.__version__}"}


def test_older_routes_differ_in_their_version_alone() -> None:
    """For clusters whose Gateway API is older than 1.6."""
    for step in STEPS:
        (newer,) = rendered(f"gateway-api/{step}")
        (older,) = rendered(f"gateway-api/v1alpha2/{step}")
        assert older["apiVersion"] == "gateway.networking.k8s.io/v1alpha2"
        assert newer | {"apiVersion": ""} == older | {"apiVersion": ""}


def test_the_autoscalers_alone_set_the_number_of_pods() -> None:
    """Each one its own version's, by the load of a container that there is."""
    manifests = Manifests(rendered("hpa"))
    autoscalers = manifests.all("HorizontalPodAutoscaler")
    assert [one["metadata"]["name"] for one in autoscalers] == ["tcp-echo-v1", "tcp-echo-v2"]
    for one in autoscalers:
        spec, target = one["spec"], one["spec"]["scaleTargetRef"]
        assert target["name"] == one["metadata"]["name"]
        deployment = manifests.one(target["kind"], target["name"])
        assert "replicas" not in deployment["spec"]
        before = Manifests(rendered("istio")).one(target["kind"], target["name"])
        assert spec["minReplicas"] == before["spec"]["replicas"] < spec["maxReplicas"]
        (metric,) = spec["metrics"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert metric["containerResource"]["container"] == container["name"]
    assert manifests.one("Deployment", "curl")["spec"]["replicas"] == 1


def test_the_dual_stack_overlay_changes_the_service_alone() -> None:
    """Both families are requested; everything else is the exercise's."""
    exercise, both = rendered("istio"), rendered("dual-stack")
    changed = [one for one in both if one not in exercise]
    (before,) = [one for one in exercise if one not in both]
    assert changed == [before | {"spec": before["spec"] | {"ipFamilyPolicy": "RequireDualStack"}}]


SAMPLE = """\
apiVersion: v1
kind: Service
metadata: {name: tcp-echo, labels: {app: tcp-echo, service: tcp-echo}}
spec:
  ports: [{name: tcp, port: 9000}, {name: tcp-other, port: 9001}]
  selector: {app: tcp-echo}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: tcp-echo-v2, labels: {app: tcp-echo, version: v2}}
spec:
  replicas: 1
  selector: {matchLabels: {app: tcp-echo, version: v2}}
  template:
    metadata: {labels: {app: tcp-echo, version: v2}}
    spec:
      containers:
        - name: tcp-echo
          image: IMAGE
          imagePullPolicy: IfNotPresent
          args: ["9000,9001,9002", "two"]
          ports: [{containerPort: 9000}, {containerPort: 9001}]
"""
"""The sample as Istio ships it, in what the change of the image touches."""


@pytest.mark.parametrize(
    "image",
    ["registry.istio.io/release/tcp-echo-server:1.3", "docker.io/istio/tcp-echo-server:1.2"],
)
def test_the_drop_in_page_swaps_the_samples_image(tmp_path: Path, image: str) -> None:
    """As the page has it: the sample's objects with echod in them, its version and its metrics."""
    (text,) = [text for text in snippets(ROOT / "docs/drop-in.md") if "kind: Kustomization" in text]
    (tmp_path / "kustomization.yaml").write_text(text)
    (name,) = yaml.safe_load(text)["resources"]
    (tmp_path / name).write_text(SAMPLE.replace("IMAGE", image))
    before, after = Manifests(documents(SAMPLE)), Manifests(render(tmp_path))
    assert after.all("Service") == before.all("Service")
    for one in after.objects:
        kubernetes_validate.validate(one, RELEASES[0], strict=True)
    pod, sample = after.pods()["tcp-echo-v2"], before.pods()["tcp-echo-v2"]
    (container,) = pod["spec"]["containers"]
    (old,) = sample["spec"]["containers"]
    assert container["image"] == f"echod:{echod.__version__}"
    assert {key: container[key] for key in old} == old | {"image": container["image"]}
    ours = Manifests(rendered("base")).pods()["tcp-echo-v2"]
    annotations = ours["metadata"]["annotations"]
    native = {"sidecar.istio.io/nativeSidecar": "true"}  # the sample's drain fits a classic one
    assert pod["metadata"]["annotations"] | native == annotations
    assert container["env"] == ours["spec"]["containers"][0]["env"][:1]
    assert pod["metadata"]["labels"] == sample["metadata"]["labels"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("exercise", ["istio", "gateway-api"])
def test_istioctl_analyze_reports_nothing(tmp_path: Path, exercise: str, step: str) -> None:
    """Neither in the objects nor in what they say of each other."""
    if not shutil.which("istioctl"):
        pytest.skip("optional: istioctl is not on the path")
    path = tmp_path / "all.yaml"
    objects = [*rendered(exercise), *rendered(f"{exercise}/{step}")]
    if exercise == "istio":
        objects += rendered("vm")
    path.write_text(yaml.safe_dump_all(objects))
    (namespace,) = Manifests(objects).all("Namespace")
    name = namespace["metadata"]["name"]
    assert istioctl("validate", "-f", path) == f'"{path}" is valid'
    analysis = istioctl("analyze", "--use-kube=false", "-n", name, path)
    assert analysis == f"✔ No validation issues found when analyzing {path}."


def istioctl(*words: str | Path) -> str:
    """All that it says, to either output."""
    result = subprocess.run(["istioctl", *words], capture_output=True, text=True, check=False)
    return (result.stdout + result.stderr).strip()
