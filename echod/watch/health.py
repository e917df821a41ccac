"""Whether a watch is alive and ready, and the pages that report it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic, sleep

from echod import __version__
from echod.telemetry.http import Pages, health_page, landing_page, metrics_page
from echod.telemetry.metrics import Registry

STALLED_SECONDS = 60.0
"""A watch is stalled if its main thread has not run for this long. It is also stalled if no sample
has ended for this long beyond the longest regular interval."""

TURN_SECONDS = 0.1
"""Time within which every thread that is not stuck runs at least once."""

LINKS = {
    "metrics": "metrics, in the format that the scraper asks for",
    "livez": "200, or 503 if no sample has ended for long",
    "readyz": "200, or 503 while the watch is starting or stopping",
}


class Health:
    """The health of a watch, which the main thread updates by ``look``."""

    def __init__(self, ended: Callable[[], int], longest: float) -> None:
        """``ended`` returns the number of samples that have ended; ``longest`` is the longest
        regular time between two ends, in seconds.
        """
        self.state = "starting"
        self._ended = ended
        self._most = longest + STALLED_SECONDS
        self._seen = 0
        self._silent = 0.0
        self._looked_at = monotonic()

    def look(self) -> None:
        """Note progress; call it about every second. Time during which the process was suspended
        does not count, because no thread could run.
        """
        now = monotonic()
        self._silent += min(now - self._looked_at, 1.0)
        self._looked_at = now
        if (ended := self._ended()) != self._seen:
            self._seen, self._silent = ended, 0.0

    def liveness_problem(self) -> str:
        """The part that is stuck; empty if there is none."""
        if monotonic() - self._looked_at > STALLED_SECONDS:
            sleep(TURN_SECONDS)  # lets the main thread run after a suspension of the process
        late = monotonic() - self._looked_at
        if late > STALLED_SECONDS:
            return f"stalled: main thread ({late:.0f} s)"
        return f"no sample has ended for {self._silent:.0f} s" if self._silent > self._most else ""

    def pages(self, registry: Registry) -> Pages:
        """The pages of the metrics port."""
        title = f"echod probe {__version__}"
        return {
            "/": lambda accept: landing_page(accept, title, LINKS),
            "/metrics": partial(metrics_page, registry),
            "/livez": lambda _accept: health_page(self.liveness_problem()),
            "/readyz": lambda _accept: health_page("" if self.state == "ready" else self.state),
        }
