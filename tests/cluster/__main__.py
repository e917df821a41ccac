"""``python -m cluster``: asks the cluster of KUBECONFIG, runs the cases in it, and cleans up.

The exit status is pytest's: 0 if all cases have passed, 1 if one has failed, 2 if the run was
interrupted. It is 2 as well where nothing was run, and 3 if something is left in the cluster.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import pytest
from support import ROOT

import echod
from cluster.asking import NAMESPACE, Facts, Missing, ask
from cluster.setting import CLUSTER, Cluster

CASES = {
    "all": ("walk.py", "beyond.py", "leaving.py"),
    "page": ("walk.py", "leaving.py"),
    "checks": ("beyond.py", "leaving.py"),
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REFUSED = 2
UNCLEAN = 3


class Given:
    """Gives pytest's cases the cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[CLUSTER] = self.cluster


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # the command's own


def main() -> int:
    options = _options()
    _on_signals(_interrupt)
    try:
        facts = ask(options.image)
        _tell(facts)
        return _run(facts, options)
    except Missing as missing:
        say(f"make test-cluster: {missing}")
        return REFUSED
    except KeyboardInterrupt:
        say("make test-cluster: interrupted")
        return REFUSED


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("make test-cluster", usage="make test-cluster [CLUSTER='…']")
    parser.add_argument("--image", default=f"echod:{echod.__version__}", metavar="NAME:TAG")
    parser.add_argument(
        "--junit", default="test-cluster.xml", metavar="FILE", help="relative to the checkout"
    )
    parser.add_argument("--only", choices=[*CASES][1:], default="all")
    options = parser.parse_args()
    if ":" not in options.image.rpartition("/")[2]:
        parser.error(f"--image {options.image}: must be NAME:TAG")
    return options


def _tell(facts: Facts) -> None:
    addresses = "" if facts.balanced else "no "
    say(f"nodes: {', '.join(facts.nodes)}; {addresses}load balancer addresses")
    for part, reason in facts.skipped.items():
        say(f"skipped: {part}: {reason}")


def _run(facts: Facts, options: argparse.Namespace) -> int:
    """Whatever happens, what the cases have made is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="echod-cluster-") as name:
        cluster = Cluster(facts, options.image, Path(name))
        try:
            cases = [str(Path(__file__).parent / case) for case in CASES[options.only]]
            words = ["-p", "no:randomly", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-v"]
            words.append(f"--junitxml={ROOT / options.junit}")
            status = int(pytest.main([*words, *cases], plugins=[Given(cluster)]))
        finally:
            _on_signals(_refuse)
            say(f"deleting the namespace {NAMESPACE}")
            troubles = cluster.clean_up()
            for trouble in troubles:
                say(f"make test-cluster: left behind: {trouble}")
    return UNCLEAN if troubles else status


def _on_signals(handler: signal._HANDLER) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup's
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _refuse(_number: int, _frame: FrameType | None) -> None:
    say("cleaning up, which takes a minute or two")


sys.exit(main())
