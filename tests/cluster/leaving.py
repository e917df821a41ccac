"""The page's clean-up, typed last."""

from __future__ import annotations

from support import until

from cluster.asking import NAMESPACE
from cluster.kubectl import kubectl
from cluster.page import LAST, applies, sections, type_in
from cluster.setting import Cluster


def test_the_clean_up_leaves_nothing(cluster: Cluster) -> None:
    """No namespace, and no background processes."""
    (section,) = [one for one in sections() if one.title == LAST]
    for block in section.blocks:
        if applies(section, block, cluster.facts, cluster.shell):
            type_in(cluster.shell, block, cluster.facts)

    def is_idle() -> bool:
        cluster.shell.run(":", strict=True)
        return cluster.shell.jobs == []

    until(is_idle)
    assert not kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "name")
