from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.setting import CLUSTER, Cluster


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Cluster:
    """The cluster that the command has asked."""
    found = pytestconfig.stash.get(CLUSTER, None)
    if found is None:
        pytest.fail("these cases change a cluster: run them by make test-cluster")
    return found


@pytest.fixture(scope="session")
def needs(cluster: Cluster) -> Callable[[str], None]:
    """Skips a case whose part of the cluster is missing, with the reason."""

    def skip_without(part: str) -> None:
        if reason := cluster.facts.skipped.get(part):
            pytest.skip(f"optional: {reason}")

    return skip_without
