"""Whether a watch is alive and ready, and the pages that say so."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic, sleep

from echod import __version__
from echod.telemetry.http import Pages, health_page, landing_page, metrics_page
from echod.telemetry.metrics import Registry

STALLED_SECONDS = 60.0
"""Beyond the time that a sample may take, and the time between two: no sample has ended for so
long, or the main thread has not looked."""

TURN_SECONDS = 0.1
"""Time in which every thread that is not stuck takes a turn."""

LINKS = {
    "metrics": "metrics, in the format that the scraper asks for",
    "livez": "200, or 503 if no sample has ended for long",
    "readyz": "200, or 503 while the watch is starting or stopping",
}


class Health:
    """What the main thread notes each time that it looks, and what follows from it."""

    def __init__(self, ended: Callable[[], int], longest: float) -> None:
        """``ended`` gives the number of samples that have; ``longest`` (seconds) is how far apart
        two of them may end.
        """
        self.state = "starting"
        self._ended = ended
        self._most = longest + STALLED_SECONDS
        self._seen = 0
        self._silent = 0.0
        self._looked_at = monotonic()

    def look(self) -> None:
        """To be called about every second. Time in which the process was suspended is not
        counted: no thread had its turn then.
        """
        now = monotonic()
        self._silent += min(now - self._looked_at, 1.0)
        self._looked_at = now
        if (ended := self._ended()) != self._seen:
            self._seen, self._silent = ended, 0.0

    def liveness_problem(self) -> str:
        """What is stuck; empty if nothing is."""
        if monotonic() - self._looked_at > STALLED_SECONDS:
            sleep(TURN_SECONDS)  # after the process was suspended, the main thread has its turn
        late = monotonic() - self._looked_at
        if late > STALLED_SECONDS:
            return f"stalled: main thread ({late:.0f} s)"
        return f"no sample has ended for {self._silent:.0f} s" if self._silent > self._most else ""

    def pages(self, registry: Registry) -> Pages:
        """What the metrics port answers."""
        title = f"echod probe {__version__}"
        return {
            "/": lambda accept: landing_page(accept, title, LINKS),
            "/metrics": partial(metrics_page, registry),
            "/livez": lambda _accept: health_page(self.liveness_problem()),
            "/readyz": lambda _accept: health_page("" if self.state == "ready" else self.state),
        }
