"""A real Prometheus beside the lab, with the shipped scrape configuration and rules."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from http.client import HTTPException
from importlib import resources
from pathlib import Path

import yaml

from echod.errors import SystemRefused
from echod.lab.processes import Process, free_port
from echod.lab.weights import Weights
from echod.probe.webclient import Connection

START_SECONDS = 30.0
STOP_SECONDS = 10.0
SCRAPE_SECONDS = 1
"""Shorter than in production, so that a shift shows at once."""


def find() -> str:
    """The Prometheus program. Raises SystemRefused if there is none."""
    if found := shutil.which("prometheus"):
        return found
    raise SystemRefused(
        "--prometheus: no prometheus on the path: install the package prometheus"
        " (Debian, Ubuntu and Homebrew have one), or omit the option"
    )


class Prometheus:
    """One Prometheus, running from its construction until ``stop``. ``targets`` are ``host:port``.

    ``port`` 0 takes any free port. Raises SystemRefused if it does not start.
    """

    def __init__(
        self, port: int, targets: Sequence[str], weights: Weights, directory: Path
    ) -> None:
        program = find()
        self._directory = directory
        self.port = port or free_port()
        self._configure(targets)
        self._expect(weights)
        words = [
            program,
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-lifecycle",
        ]
        self._process = Process("prometheus", words, directory)
        try:
            self._process.wait_until(self._is_ready, START_SECONDS, "is not ready")
        except BaseException:
            self.stop()
            raise

    def expect(self, weights: Weights) -> None:
        """Change the values of echod_expected_share. Raises SystemRefused."""
        self._expect(weights)
        if self._ask("POST", "/-/reload") != 200:
            raise SystemRefused("prometheus does not take the expected shares")

    def check(self) -> None:
        """Raise SystemRefused if it has ended."""
        self._process.check()

    def stop(self) -> None:
        """Stop it."""
        self._process.stop(STOP_SECONDS)

    def _configure(self, targets: Sequence[str]) -> None:
        shipped = resources.files("echod.lab") / "data"
        (self._directory / "rules.yml").write_text((shipped / "rules.yml").read_text())
        config = yaml.safe_load((shipped / "prometheus.yml").read_text())
        config["global"] = dict.fromkeys(config["global"], f"{SCRAPE_SECONDS}s")
        config["rule_files"].append("expected.yml")
        config["scrape_configs"][0]["static_configs"] = [{"targets": list(targets)}]
        (self._directory / "prometheus.yml").write_text(yaml.safe_dump(config))

    def _expect(self, weights: Weights) -> None:
        total = sum(weights.values())
        rules = [
            {
                "record": "echod_expected_share",
                "expr": f"vector({weight / total})",
                "labels": {"version": version},
            }
            for version, weight in weights.items()
        ]
        document = {"groups": [{"name": "echod.expected", "rules": rules}]}
        new = self._directory / "expected.yml.new"
        new.write_text(yaml.safe_dump(document))
        new.rename(self._directory / "expected.yml")

    def _is_ready(self) -> bool:
        return self._ask("GET", "/-/ready") == 200

    def _ask(self, method: str, path: str) -> int:
        """The status of the response; 0 if there is none."""
        connection = Connection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return 0
        finally:
            connection.close()
