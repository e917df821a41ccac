"""One echod of the lab, which may be stopped, killed and started again."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from echod.errors import SystemRefused
from echod.lab.processes import Process
from echod.lab.weights import VERSIONS

START_SECONDS = 20.0
STOP_SECONDS = 5.0


class State(StrEnum):
    """The state of a version."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class Version:
    """One echod, running from its construction until ``stop``.

    After SIGTERM it keeps accepting for ``drain_delay`` seconds while it is not ready, as it would
    for a load balancer that needs time to notice.
    """

    def __init__(
        self,
        name: str,
        ports: tuple[int, int],
        directory: Path,
        environ: Mapping[str, str],
        *,
        drain_delay: float = 0.0,
    ) -> None:
        self.name = name
        self.port, self.metrics_port = ports
        self.problem = ""
        """Why the last start failed."""
        self._directory = directory
        self._options = ["--drain-delay", f"{drain_delay:g}", "--service-version", name]
        self._environ = {
            key: value for key, value in environ.items() if not key.startswith("ECHOD_")
        }
        self._asked: State | None = None  # the state that a request has led to
        self._process = self._started()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def state(self) -> State:
        """The current state."""
        if self._process.status is not None:
            if self._asked is State.STARTING:
                self.problem = f"{self.name} cannot be started: {self._process.said()}"
            self._asked = self._asked and State.ENDED
            return State.ENDED
        if self._asked is State.STARTING and self._is_ready():
            self._asked = None
        return self._asked or State.RUNNING

    @property
    def metrics_url(self) -> str:
        """The URL of its metrics."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def wait(self) -> None:
        """Wait until it is ready. Raises SystemRefused if that takes too long."""
        self._process.wait_until(self._is_ready, START_SECONDS, "is not ready")

    def check(self) -> None:
        """Raise SystemRefused if it has ended by itself."""
        if self.state is State.ENDED and not self._asked:
            self._process.check()

    def must_run(self, verb: str) -> None:
        """Raise SystemRefused, for a request named ``verb``, if it has ended."""
        if self.state is State.ENDED:
            raise SystemRefused(f"{verb} {self.name}: it has ended")

    def terminate(self, verb: str = "stop") -> None:
        """Start its graceful shutdown. Raises SystemRefused if it has ended."""
        self.must_run(verb)
        self._asked = State.STOPPING
        self._process.terminate()

    def kill(self) -> None:
        """Kill it. Raises SystemRefused if it has ended."""
        self.must_run("kill")
        self._asked = State.STOPPING
        self._process.kill()

    def start(self) -> None:
        """Start it again on the same ports; ``state`` shows when it runs. Raises SystemRefused if
        it has not ended.
        """
        if self.state is not State.ENDED:
            raise SystemRefused(f"start {self.name}: it is {self.state}")
        self.problem = ""
        self._process = self._started()
        self._asked = State.STARTING

    def stop(self) -> None:
        """Stop it, and wait for its end."""
        self._process.stop(STOP_SECONDS)

    def _started(self) -> Process:
        words = [sys.executable, "-P", "-m", "echod", str(self.port), VERSIONS[self.name]]
        words += ["--address", "127.0.0.1", "--metrics-address", "127.0.0.1"]
        words += ["--metrics-port", str(self.metrics_port), *self._options]
        words += ["--drain-timeout", "1", "--log-format", "json"]
        return Process(self.name, words, self._directory, self._environ)

    def _is_ready(self) -> bool:
        events = self._events()
        if "ready" not in events:
            return False
        self.port, self.metrics_port = events["listening on"], events["metrics on"]
        return True

    def _events(self) -> dict[str, int]:
        """The ports in its log, by event name."""
        found = {}
        for line in self._process.log.read_text().splitlines():
            with suppress(ValueError):  # a line that is not yet complete
                event = json.loads(line)
                name = event["event"].partition(" [")[0].partition(" 127.")[0]
                found[name] = event.get("port", 0)
        return found
