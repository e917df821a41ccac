"""Two versions of echod behind an Envoy, started, shifted and stopped together."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from echod.lab import envoy, prometheus
from echod.lab.envoy import Envoy
from echod.lab.processes import remove
from echod.lab.prometheus import Prometheus
from echod.lab.version import State, Version
from echod.lab.weights import Weights
from echod.loop.listeners import bind

PROMETHEUS_PORT = 9090

PORTS = {"v1": (9000, 9464), "v2": (9100, 9465)}
"""Echo and metrics ports, as in the examples for VMs. With --port 0, any free ports are used."""


class Lab:
    """All parts, running from its construction until ``stop``.

    Raises SystemRefused if a part does not start.
    """

    def __init__(
        self,
        port: int,
        weights: Weights,
        environ: Mapping[str, str],
        *,
        with_prometheus: bool = False,
        drain_delay: float = 0.0,
    ) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="echod-lab-"))
        self.versions: dict[str, Version] = {}
        self._envoy: Envoy | None = None
        self.prometheus: Prometheus | None = None
        self.weights = weights
        try:
            envoy.find()  # fails early if Envoy is missing
            if with_prometheus:
                prometheus.find()
            # Two Envoys would share the port silently (SO_REUSEPORT): this bind fails instead.
            bind("--port", "127.0.0.1", port).socket.close()
            for name, fixed in PORTS.items():
                ports = fixed if port else (0, 0)
                self.versions[name] = Version(
                    name, ports, self._directory, environ, drain_delay=drain_delay
                )
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
        """Change the weights for new connections; open ones stay. Raises SystemRefused."""
        if self._envoy and weights != self.weights:
            self.weights = {}  # unknown until Envoy has applied them
            self._envoy.shift(weights)
            self.weights = weights
            if self.prometheus:
                self.prometheus.expect(weights)

    @property
    def metrics_urls(self) -> list[str]:
        """The URLs of the versions' metrics."""
        return [version.metrics_url for version in self.versions.values()]

    def check(self) -> None:
        """Raise SystemRefused if a part has ended by itself."""
        for part in (*self.versions.values(), self._envoy, self.prometheus):
            if part:
                part.check()

    def stop(self) -> None:
        """Stop all parts, even if one of them fails, and remove their files. Raises OSError."""
        with ExitStack() as steps:  # runs them all, the last one first
            steps.callback(remove, self._directory)
            for part in (*self.versions.values(), self._envoy, self.prometheus):
                if part:
                    steps.callback(part.stop)
            for version in self.versions.values():  # in parallel, since each may take a while
                steps.callback(_terminate, version)


def _terminate(version: Version) -> None:
    if version.state is not State.ENDED:
        version.terminate()
