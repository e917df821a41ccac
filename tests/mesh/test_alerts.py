"""Every alert that is shipped: caused for real in a real Prometheus, and over when its cause is.

Time is scaled: each duration in the rules is divided by ``FASTER``, and the scrape interval of
fifteen seconds is shortened likewise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import Start, until
from support.alerting import RULES, Watch, watching
from support.scraping import broken_rules, query, scaled, sooner
from support.troubles import Scene


def test_every_duration_of_a_rule_is_divided() -> None:
    """Ranges, steps, offsets and waits are divided; names and numbers stay."""
    text = "max_over_time(a:rate10m[1h30m:5m] offset 10m) > 4 * 0.5 and x_5m[15s]"
    assert sooner(text) == (
        "max_over_time(a:rate10m[180000ms:10000ms] offset 20000ms) > 4 * 0.5 and x_5m[500ms]"
    )
    for unknown in ({"interval": "1m"}, {"rules": [{"alert": "A", "expr": "a", "until": "1m"}]},
                    {"rules": [{"alert": "A", "expr": "time() - a > 300"}]}):  # fmt: skip
        with pytest.raises(AssertionError):
            scaled({"groups": [{"name": "g", "rules": []} | unknown]})
    with pytest.raises(KeyError):
        sooner("a[1w]")


Step = Callable[[], object]


def nothing() -> None:
    """Comes or goes with another, or by itself."""


def troubles(scene: Scene) -> dict[str, tuple[Step, Step, set[str]]]:
    """For each alert its cause, its cure, and the versions or instances that it is to name."""

    def at(*ports: int) -> set[str]:
        return {f"127.0.0.1:{port}" for port in ports}

    watched = scene.watched
    looking = at(watched.watch.metrics_port)
    fallen, full = at(scene.fallen.metrics_port), at(scene.full.metrics_port)
    return {
        "EchodDown": (scene.fall, scene.rise, fallen),
        "EchodRestarting": (
            scene.restless.restart,
            scene.restless.rest,
            at(scene.restless.metrics_port),
        ),
        "EchodVersionNotReady": (scene.drained.terminate, scene.replace, {"v3"}),
        "EchodSplitDrift": (scene.lean, scene.straighten, {"v1", "v2"}),
        "EchodUnexpectedVersion": (scene.call_stranger, scene.forget_stranger, {"v9"}),
        "EchodConnectionsNearLimit": (
            scene.crowd,
            scene.thin,
            at(scene.near.metrics_port) | full,
        ),
        "EchodRejecting": (scene.fill, nothing, full),
        "EchodAcceptErrors": (scene.starve, scene.feed, at(scene.starved.metrics_port)),
        "EchodLogEventsDropped": (scene.babble, scene.read, at(scene.mute_metrics_port)),
        "EchodScrapeGaps": (nothing, nothing, fallen),
        "EchodProbeAlarm": (watched.leave, watched.come_back, looking),
        "EchodProbeFailures": (watched.fail, watched.mend, looking),
    }


@pytest.fixture
def watch(start: Start, tmp_path: Path) -> Iterator[Watch]:
    with watching(start, tmp_path) as one:
        yield one


def test_every_alert_fires_when_it_is_caused_and_resolves_after(watch: Watch) -> None:
    """None before; each names what is in trouble and nothing else."""
    scene = watch.scene
    cases = troubles(scene)
    alerts = {
        rule["alert"] for group in RULES["groups"] for rule in group["rules"] if "alert" in rule
    }
    assert set(cases) == alerts, "an alert without a cause here, or a cause without an alert"

    def settled() -> bool:
        """All targets have been scraped for longer than any alert waits. Scrapes are so frequent
        that a few missed ones on a busy machine are no gaps.
        """
        watch.look()
        assert watch.fired == {}
        long = query(watch.port, f"count_over_time(up[{sooner('15m')}]) > 40 and up == 1")
        return len(long) == scene.instances and not watch.active

    until(settled, 60)
    for cause, _, _ in cases.values():
        cause()
    cured: set[str] = set()
    deadline = time.monotonic() + 90

    def over() -> bool:
        watch.look()
        for name in cases.keys() - cured:
            if watch.fired.get(name) == cases[name][2]:
                cases[name][1]()
                cured.add(name)
        assert time.monotonic() < deadline, f"fired: {watch.fired}; active: {watch.active}"
        return cured == alerts and not watch.active

    until(over, 120)
    assert watch.fired == {name: where for name, (_, _, where) in cases.items()}
    assert broken_rules(watch.port) == []
