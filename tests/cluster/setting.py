"""What the cases share: the cluster's facts, a copy of the manifests, a shell, and ways to look."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from support import ROOT, pause, until

from cluster.asking import NAMESPACE, Facts
from cluster.kubectl import kubectl, objects
from cluster.shell import Shell

DEPLOYMENTS = ("tcp-echo-v1", "tcp-echo-v2")
READY_SECONDS = 180.0

Value = TypeVar("Value")


class Cluster:
    """A namespace of the tests' own, from nothing to nothing."""

    def __init__(self, facts: Facts, image: str, directory: Path) -> None:
        self.facts = facts
        self.image = image
        self.namespace = NAMESPACE
        self.failed = ""
        """The section of the page that failed, after which the others cannot be typed."""
        self.cordoned: set[str] = set()
        self.checkout = directory / "echod"
        self._lay(directory)
        self.shell = Shell(directory, self.checkout)

    def _lay(self, directory: Path) -> None:
        """What the page's commands need of a checkout, with the image that the cluster has."""
        shutil.copytree(ROOT / "k8s", self.checkout / "k8s")
        (self.checkout / ".venv").mkdir()
        (self.checkout / ".venv/bin").symlink_to(Path(sys.executable).parent)
        name, _, tag = self.image.rpartition(":")
        setting = self.checkout / "k8s/base/kustomization.yaml"
        text = yaml.safe_load(setting.read_text())
        text["images"] = [{"name": "echod", "newName": name, "newTag": tag}]
        setting.write_text(yaml.safe_dump(text))
        job = self.checkout / "k8s/client/probe-job.yaml"
        documents = list(yaml.safe_load_all(job.read_text()))
        documents[0]["spec"]["template"]["spec"]["containers"][0]["image"] = self.image
        job.write_text(yaml.safe_dump_all(documents))

    def clean_up(self) -> list[str]:
        """Ends and deletes what the tests have made; gives what has not worked."""
        self.shell.close()
        troubles = []
        delete = ("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=4m")
        calls = [*(("uncordon", node) for node in sorted(self.cordoned)), delete]
        for words in calls:
            try:
                kubectl(*words, seconds=300)
            except AssertionError as error:
                troubles.append(str(error))
        return troubles

    def call(self, *words: str, stdin: str = "", seconds: float = 120.0) -> str:
        """What kubectl prints, in the tests' namespace."""
        return kubectl("-n", NAMESPACE, *words, stdin=stdin, seconds=seconds)

    def get(self, *words: str) -> Any:
        """The objects that kubectl gets, in the tests' namespace."""
        return objects("-n", NAMESPACE, "get", *words)

    def apply(self, *documents: Any) -> None:
        self.call("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))

    def pods(self, selector: str = "app=tcp-echo") -> list[Any]:
        """The pods that are not terminating."""
        found = self.get("pods", "-l", selector)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def roll_out(self, *names: str) -> None:
        """Restarts deployments and waits for the new pods, and until the old ones have gone."""
        self.call("rollout", "restart", *(f"deployment/{name}" for name in names))
        for name in names:
            self.call("rollout", "status", f"deployment/{name}", "--timeout=3m", seconds=200)

        def gone() -> bool:
            return not any(
                "deletionTimestamp" in pod["metadata"] for pod in self.get("pods")["items"]
            )

        patiently(gone, READY_SECONDS)

    def run_in(self, pod: str, container: str, *words: str) -> tuple[bool, str]:
        """Whether a command in a pod succeeds, and what it prints."""
        try:
            return True, self.call("exec", pod, "-c", container, "--", *words)
        except AssertionError as error:
            return False, str(error)

    def says(self, pod: str, container: str, address: str, port: int) -> str:
        """The reply to a line that is sent from a pod; empty without one."""
        word = f"echo hello | nc -w 5 {address} {port}"
        _, said = self.run_in(pod, container, "sh", "-c", word)
        return said.strip() if said.strip() in ("one hello", "two hello") else ""

    def job(self, name: str, arguments: Sequence[str]) -> None:
        """Starts the page's Job under another name, with other arguments."""
        text = (self.checkout / "k8s/client/probe-job.yaml").read_text()
        job, policy = yaml.safe_load_all(text)
        job["metadata"]["name"] = name
        job["spec"]["template"]["spec"]["containers"][0]["args"] = list(arguments)
        self.apply(job, policy)

    def verdict(self, name: str, seconds: float = READY_SECONDS) -> str:
        """``Complete`` or ``Failed``, when the Job has ended."""

        def ended() -> str:
            conditions = self.get("job", name).get("status", {}).get("conditions", [])
            kinds = {one["type"] for one in conditions if one["status"] == "True"}
            return next(iter(kinds & {"Complete", "Failed"}), "")

        return patiently(ended, seconds)

    def report(self, name: str) -> Any:
        """What the probe of a Job has written as JSON."""
        said = self.call("logs", f"job/{name}", "-c", "probe")
        return json.loads(said[said.index("{") :])


def patiently(look: Callable[[], Value], seconds: float = 60.0) -> Value:
    """The first true value of ``look``, which asks the cluster and so looks twice a second."""

    def looked() -> Value:
        value = look()
        if not value:
            pause(0.5, "what a cluster does takes seconds")
        return value

    return until(looked, seconds)


def host(address: str) -> str:
    """An address as a URL has it."""
    return f"[{address}]" if ":" in address else address


def container(pod: Any, name: str = "tcp-echo") -> Any:
    return next(one for one in pod["spec"]["containers"] if one["name"] == name)


def sidecar(pod: Any) -> Any:
    """The proxy among the init containers, where a native sidecar is; nothing if it has none."""
    proxies = pod["spec"].get("initContainers", [])
    return next((one for one in proxies if one["name"] == "istio-proxy"), {})


def is_ready(pod: Any) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


CLUSTER = pytest.StashKey[Cluster]()
"""Where the cases find it."""
