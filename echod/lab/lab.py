"""Two versions of echod behind an Envoy, as one thing that starts, shifts and stops."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from echod.lab import envoy, prometheus
from echod.lab.envoy import Envoy
from echod.lab.processes import Process
from echod.lab.prometheus import Prometheus
from echod.lab.weights import VERSIONS, Weights
from echod.loop.listeners import bind

PROMETHEUS_PORT = 9090
START_SECONDS = 20.0
STOP_SECONDS = 5.0

PORTS = {"v1": (9000, 9464), "v2": (9100, 9465)}
"""Echo and metrics ports, as in the examples for VMs; any free ones where the lab's own is."""


class Version:
    """One echod of the lab, from its making until ``stop``."""

    def __init__(
        self, name: str, ports: tuple[int, int], directory: Path, environ: Mapping[str, str]
    ) -> None:
        words = [sys.executable, "-P", "-m", "echod", str(ports[0]), VERSIONS[name]]
        words += ["--address", "127.0.0.1", "--metrics-address", "127.0.0.1"]
        words += ["--metrics-port", str(ports[1]), "--service-version", name]
        words += ["--drain-timeout", "1", "--log-format", "json"]
        clean = {key: value for key, value in environ.items() if not key.startswith("ECHOD_")}
        self._process = Process(name, words, directory, clean)
        self.port = self.metrics_port = 0

    def wait(self) -> None:
        """Waits until it is ready. Raises SystemRefused if it is not in time."""
        self._process.wait_until(self._is_ready, START_SECONDS, "is not ready")

    def _is_ready(self) -> bool:
        events = self._events()
        if "ready" not in events:
            return False
        self.port, self.metrics_port = events["listening on"], events["metrics on"]
        return True

    def _events(self) -> dict[str, int]:
        """The ports in its log, by the words before them."""
        found = {}
        for line in self._process.log.read_text().splitlines():
            with suppress(ValueError):  # a line that is not yet complete
                event = json.loads(line)
                name = event["event"].partition(" [")[0].partition(" 127.")[0]
                found[name] = event.get("port", 0)
        return found

    @property
    def metrics_url(self) -> str:
        """Where its counters are."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def check(self) -> None:
        """Raises SystemRefused if it has ended."""
        self._process.check()

    def stop(self) -> None:
        """Stops it."""
        self._process.stop(STOP_SECONDS)


class Lab:
    """All of it, from its making until ``stop``. Raises SystemRefused if a part does not start."""

    def __init__(
        self,
        port: int,
        weights: Weights,
        environ: Mapping[str, str],
        *,
        with_prometheus: bool = False,
    ) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="echod-lab-"))
        self.versions: dict[str, Version] = {}
        self._envoy: Envoy | None = None
        self.prometheus: Prometheus | None = None
        self.weights = weights
        try:
            envoy.find()  # before anything is started in vain
            if with_prometheus:
                prometheus.find()
            # Two Envoys would share the port silently (SO_REUSEPORT): this bind fails instead.
            bind("--port", "127.0.0.1", port).socket.close()
            for name, fixed in PORTS.items():
                ports = fixed if port else (0, 0)
                self.versions[name] = Version(name, ports, self._directory, environ)
            for version in self.versions.values():
                version.wait()
            upstreams = {name: ("127.0.0.1", one.port) for name, one in self.versions.items()}
            self._envoy = Envoy(("127.0.0.1", port), upstreams, weights)
            self.port = self._envoy.port
            if with_prometheus:
                targets = [f"127.0.0.1:{one.metrics_port}" for one in self.versions.values()]
                at = PROMETHEUS_PORT if port else 0
                self.prometheus = Prometheus(at, targets, weights, self._directory)
        except BaseException:
            self.stop()
            raise

    def shift(self, weights: Weights) -> None:
        """Gives new connections other weights; open ones stay. Raises SystemRefused."""
        if self._envoy and weights != self.weights:
            self.weights = {}  # until it is sure what they are
            self._envoy.shift(weights)
            self.weights = weights
            if self.prometheus:
                self.prometheus.expect(weights)

    @property
    def metrics_urls(self) -> list[str]:
        """Where the versions' counters are."""
        return [version.metrics_url for version in self.versions.values()]

    def check(self) -> None:
        """Raises SystemRefused if a part has ended."""
        for part in (*self.versions.values(), self._envoy, self.prometheus):
            if part:
                part.check()

    def stop(self) -> None:
        """Stops all parts, and removes their files."""
        for part in (self.prometheus, self._envoy, *self.versions.values()):
            if part:
                part.stop()
        shutil.rmtree(self._directory, ignore_errors=True)
