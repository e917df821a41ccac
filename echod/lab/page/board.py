"""The traffic that the page shows: dots, counts and shares over time, in bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from threading import Lock
from typing import Any

from echod.lab.judging import Following
from echod.lab.weights import VERSIONS, Weights
from echod.probe.result import printable
from echod.probe.tally import Outcome

SECONDS = 300
"""Length of the shown history."""

MOST_DOTS = 40
"""Maximum dots per event. If there are more connections, a dot stands for several."""

FAILED, OTHER = "x", "?"
_DOTS = {prefix: f"{number}" for number, prefix in enumerate(VERSIONS.values(), 1)}
_COLUMNS = (*_DOTS.values(), FAILED, OTHER)


class Board:
    """Collects samples. Any thread may call ``take``; the lab's thread calls everything else.

    Samples must come in the order in which they began. Dots are kept until ``dots`` is called.
    """

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        """Replies by prefix, since that version was last started."""
        self._lock = Lock()
        self._judge: Following | None = None
        self._judge_from = 0.0
        self._dots: list[str] = []
        self._second = 0
        self._columns: Counter[str] = Counter()
        self._series: deque[list[float]] = deque(maxlen=SECONDS)
        self._new = 0

    def begin(self, judge: Following | None, now: float) -> None:
        """Have ``judge`` judge all samples that begin from now on."""
        with self._lock:
            self._judge, self._judge_from = judge, now

    def take(self, outcome: Outcome, began: float) -> None:
        """Count one more sample, which began at ``began`` (monotonic seconds)."""
        name = outcome.version
        dot = FAILED if name is None else _DOTS.get(name, OTHER)
        with self._lock:
            self._dots.append(dot)
            self._columns[dot] += 1
            if name is not None:
                self.answered[name if name in _DOTS else OTHER] += 1
            if self._judge and began >= self._judge_from:
                self._judge.take(outcome)

    def forget(self, prefix: str) -> None:
        """Reset the count of a version that is started again."""
        with self._lock:
            self.answered[prefix] = 0

    def dots(self) -> tuple[str, int]:
        """The dots since the last call, in order, and how many samples each dot stands for."""
        with self._lock:
            dots, self._dots = self._dots, []
        each = max(1, -(-len(dots) // MOST_DOTS))
        return "".join(dots[::each]), each

    def tick(self, second: int, weights: Weights) -> None:
        """Record the counts of the previous second, with the current weights."""
        if second == self._second:
            return
        with self._lock:
            columns, self._columns = self._columns, Counter()
        if self._second:
            counts = [float(columns[name]) for name in _COLUMNS]
            shares = [float(weights.get(name, 0)) for name in VERSIONS]
            self._series.append([float(self._second), *counts, *shares])
            self._new += 1
        self._second = second

    def series(self, *, whole: bool) -> list[list[float]]:
        """Rows of second, answers by version, failures, others and weights: all, or new ones."""
        new, self._new = self._new, 0
        if whole:
            return list(self._series)
        return list(self._series)[len(self._series) - new :] if new else []

    def verdict(self) -> dict[str, Any] | None:
        """The current verdict, for the page."""
        with self._lock:
            return said(self._judge) if self._judge else None


def said(judge: Following) -> dict[str, Any]:
    """A verdict in the form that the page expects."""
    status = judge.status
    return {
        "status": "unsure" if status is None else status.name.lower(),
        "at": judge.stopped_at,
        "total": judge.total,
        "failed": judge.failed,
        "lines": list(judge.lines()),
        "rows": [
            {
                "name": printable(row.name),
                "expected": row.expected,
                "seen": row.seen,
                "share": round(row.share, 6),
                "low": round(row.low, 6),
                "high": round(row.high, 6),
                "verdict": row.verdict,
            }
            for row in judge.rows()
        ],
    }
