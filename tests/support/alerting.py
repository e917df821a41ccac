"""What a Prometheus with the shipped rules says of the alerts over a scene of troubles."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml

from support import Start, pause
from support.scraping import (
    MONITORING,
    api,
    expectation,
    prometheus,
    promtool,
    scaled,
    sooner,
)
from support.troubles import Scene

EVERY = sooner("15s")

RULES: dict[str, Any] = yaml.safe_load((MONITORING / "rules.yml").read_text())


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


@contextmanager
def watching(start: Start, directory: Path) -> Iterator[Watch]:
    """Prometheus with the shipped rules and an expectation, over a scene of troubles."""
    shares = {"v1": 0.8, "v2": 0.2, "v3": 1, "all": 1}
    files = {"rules.yml": scaled(RULES), "expected.yml": expectation(shares)}
    for name, document in files.items():
        (directory / name).write_text(yaml.safe_dump(document))
    promtool("check", "rules", directory / "rules.yml")
    with ExitStack() as closing:
        scene = Scene(start, directory, closing)
        job = {"job_name": "echod", "file_sd_configs": [{"files": [str(scene.targets)]}]}
        pace = {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY}
        config = {
            "global": pace,
            "rule_files": [str(directory / name) for name in files],
            "scrape_configs": [job],
        }
        # A series without new samples is gone after five minutes, and here sooner too.
        words = (f"--query.lookback-delta={sooner('5m')}", "--web.enable-lifecycle")
        port = closing.enter_context(prometheus(directory, config, *words))
        yield Watch(port, scene, directory / "expected.yml")
