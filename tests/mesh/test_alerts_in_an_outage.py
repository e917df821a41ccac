"""EchodDown and EchodVersionNotReady while versions stay away, scaled as in test_alerts.

A file of its own: it takes minutes in real time, beside another.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Start, until
from support.alerting import Watch, watching
from support.scraping import query


@pytest.fixture
def watch(start: Start, tmp_path: Path) -> Iterator[Watch]:
    with watching(start, tmp_path) as one:
        yield one


def test_an_outage_alerts_for_as_long_as_it_lasts(watch: Watch) -> None:
    """More than an hour, which is two minutes here; not for what is expected to have nothing."""
    scene = watch.scene
    watch.expect(v1=0.8, v2=0.2, v3=1.0, v9=0.0, all=1.0)
    until(lambda: len(query(watch.port, "echod:target:known")) == scene.instances, 60)
    for one in (scene.drained, scene.stranger):
        one.process.kill()
        one.process.wait()

    def fired() -> bool:
        watch.look(calls=False)
        return "EchodVersionNotReady" in watch.fired and "EchodDown" in watch.fired

    until(fired, 60)
    for _ in range(5):
        watch.look_for("14m", calls=False)
        assert watch.active >= {"EchodVersionNotReady", "EchodDown"}
    assert watch.fired["EchodVersionNotReady"] == {"v3"}
    scene.jobs["drained"] = []  # retired
    scene.jobs["split"].remove(scene.stranger.metrics_port)
    scene.discover()

    def over() -> bool:
        watch.look(calls=False)
        return not watch.active & {"EchodVersionNotReady", "EchodDown"}

    until(over, 60)
