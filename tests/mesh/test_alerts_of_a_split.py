"""EchodSplitDrift while weights and expectation change, scaled as in test_alerts.

A file of its own: it takes minutes in real time, beside another.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Start, until
from support.alerting import Watch, watching
from support.scraping import query

SHARES = {"v3": 1.0, "all": 1.0}


@pytest.fixture
def watch(start: Start, tmp_path: Path) -> Iterator[Watch]:
    with watching(start, tmp_path) as one:
        yield one


def test_a_change_of_weights_is_no_drift_and_a_wrong_one_is(watch: Watch) -> None:
    """Connections follow the expectation at once; later on they do not."""
    scene = watch.scene

    def judged() -> bool:
        watch.look()
        return bool(query(watch.port, 'echod:split:surprise10m{job="split"} < 14'))

    until(judged, 60)
    watch.look_for("12m")
    for ratio, shares in (((1, 1), (0.5, 0.5)), ((1, 4), (0.2, 0.8)), ((4, 1), (0.8, 0.2))):
        scene.ratio = ratio
        watch.expect(v1=shares[0], v2=shares[1], v9=0.0, **SHARES)
        watch.look_for("7m")
    assert "EchodSplitDrift" not in watch.fired
    watch.expect(v1=0.5, v2=0.5, v9=0.0, **SHARES)

    def fired() -> bool:
        watch.look()
        return watch.fired.get("EchodSplitDrift") == {"v1", "v2"}

    until(fired, 60)
