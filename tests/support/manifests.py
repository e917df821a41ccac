"""The manifests as the tests see them, rendered or not."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from support import ROOT

K8S = ROOT / "k8s"
Manifest = dict[str, Any]


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def render(directory: Path) -> list[Manifest]:
    """What a cluster would get of a directory."""
    assert shutil.which("kubectl"), "kubectl is missing: 1.27 or later renders the manifests"
    result = subprocess.run(
        ["kubectl", "kustomize", directory], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return documents(result.stdout)


def snippets(page: Path) -> list[str]:
    """The YAML that a page shows."""
    return re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def directories() -> list[str]:
    """All that can be given to ``kubectl apply -k``, relative to k8s/."""
    return sorted(str(path.parent.relative_to(K8S)) for path in K8S.rglob("kustomization.yaml"))


def kustomization(directory: str) -> Manifest:
    (found,) = documents((K8S / directory / "kustomization.yaml").read_text())
    return found


def files(directory: str) -> Iterator[Path]:
    """The files that a directory is made of, its neighbours' included."""
    for name in kustomization(directory)["resources"]:
        path = (K8S / directory / name).resolve()
        if path.is_dir():
            yield from files(str(path))
        else:
            yield path


class Manifests:
    """Objects by kind and name."""

    def __init__(self, objects: Sequence[Manifest]) -> None:
        self.objects = objects

    @classmethod
    def of(cls, *names: str) -> Manifests:
        """The objects of directories, as they are written: no namespace, image without a tag."""
        paths = dict.fromkeys(path for name in names for path in files(name))
        return cls([one for path in paths for one in documents(path.read_text())])

    def all(self, kind: str) -> list[Manifest]:
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, name: str) -> Manifest:
        (found,) = [one for one in self.all(kind) if one["metadata"]["name"] == name]
        return found

    def pods(self) -> dict[str, Manifest]:
        """The pod templates by their Deployments' names."""
        return {one["metadata"]["name"]: one["spec"]["template"] for one in self.all("Deployment")}

    def selected(self, selector: dict[str, str]) -> list[str]:
        """The Deployments whose pods a selector finds."""
        return [
            name
            for name, pod in self.pods().items()
            if selector.items() <= pod["metadata"]["labels"].items()
        ]
