"""Every alert that is shipped: caused for real in a real Prometheus, and over when its cause is.

Time is scaled: each duration in the rules is divided by ``FASTER``, and the scrape interval of
fifteen seconds is shortened likewise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml
from support import Start, pause, until
from support.scraping import (
    MONITORING,
    api,
    broken_rules,
    expectation,
    prometheus,
    promtool,
    query,
    scaled,
    sooner,
)
from support.troubles import Scene

EVERY = sooner("15s")
RULES: dict[str, Any] = yaml.safe_load((MONITORING / "rules.yml").read_text())


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


class Watch:
    """What Prometheus has said of the alerts so far, looked at ten times a second."""

    def __init__(self, port: int, scene: Scene, expected: Path) -> None:
        self.port = port
        self.expected = expected
        self.scene = scene
        self.fired: dict[str, set[str]] = {}
        self.active: set[str] = set()

    def expect(self, **shares: float) -> None:
        """Other shares than before."""
        self.expected.write_text(yaml.safe_dump(expectation(shares)))
        request = Request(f"http://127.0.0.1:{self.port}/-/reload", method="POST")
        with urlopen(request, timeout=20) as answer:  # noqa: S310  # on this host
            assert answer.status == 200

    def look_for(self, duration: str, *, calls: bool = True) -> None:
        """Rounds for as long as a duration of the rules takes here."""
        end = time.monotonic() + int(sooner(duration).removesuffix("ms")) / 1000
        while time.monotonic() < end:
            self.look(calls=calls)

    def look(self, *, calls: bool = True) -> None:
        """One round of what clients do, and one look at the alerts."""
        if calls:
            self.scene.round()
        pause(0.1, "rounds of what clients do, at a pace")
        alerts = api(self.port, "alerts")["alerts"]
        self.active = {alert["labels"]["alertname"] for alert in alerts}
        for alert in alerts:
            labels = alert["labels"]
            if alert["state"] == "firing":
                where = labels.get("instance", labels.get("version", ""))
                self.fired.setdefault(labels["alertname"], set()).add(where)


@pytest.fixture
def scene(start: Start, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as closing:
        yield Scene(start, tmp_path, closing)


@pytest.fixture
def watch(scene: Scene, tmp_path: Path) -> Iterator[Watch]:
    """Prometheus with the shipped rules and an expectation, over the scene."""
    shares = {"v1": 0.8, "v2": 0.2, "v3": 1, "all": 1}
    files = {"rules.yml": scaled(RULES), "expected.yml": expectation(shares)}
    for name, document in files.items():
        (tmp_path / name).write_text(yaml.safe_dump(document))
    promtool("check", "rules", tmp_path / "rules.yml")
    job = {
        "job_name": "echod",
        "file_sd_configs": [{"files": [str(scene.targets)]}],
    }
    config = {
        "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY},
        "rule_files": [str(tmp_path / name) for name in files],
        "scrape_configs": [job],
    }
    # A series without new samples is gone after five minutes, and here sooner too.
    words = (f"--query.lookback-delta={sooner('5m')}", "--web.enable-lifecycle")
    with prometheus(tmp_path, config, *words) as port:
        yield Watch(port, scene, tmp_path / "expected.yml")


def test_every_alert_fires_when_it_is_caused_and_resolves_after(scene: Scene, watch: Watch) -> None:
    """None before; each names what is in trouble and nothing else."""
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


SHARES = {"v3": 1.0, "all": 1.0}


def test_a_change_of_weights_is_no_drift_and_a_wrong_one_is(scene: Scene, watch: Watch) -> None:
    """Connections follow the expectation at once; later on they do not."""

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


def test_an_outage_alerts_for_as_long_as_it_lasts(scene: Scene, watch: Watch) -> None:
    """More than an hour, which is two minutes here; not for what is expected to have nothing."""
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
