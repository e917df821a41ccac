"""Heartbeats: the stamps that event loops leave each round, and which threads are stuck."""

from collections.abc import Iterable

STALLED_SECONDS = 3.0
"""A thread without a stamp for this long is stalled. Idle ones stamp at least every second."""


class Heartbeat:
    """The stamp of one thread, which alone writes it. Every thread may read it."""

    __slots__ = ("at", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.at: float | None = None  # monotonic seconds; no stamp is expected before the start

    def end(self) -> None:
        """Expects no more stamps: the thread has ended as it should."""
        self.at = None


def stalled(heartbeats: Iterable[Heartbeat], now: float) -> list[str]:
    """One text for each thread that has stalled by ``now``: its name, the age of its stamp.

    ``now`` is best the stamp of a thread that runs. After the whole process was suspended (a
    paused machine), all stamps are equally old, and no thread has stalled.
    """
    stamps = [(beat.name, beat.at) for beat in heartbeats]
    return [
        f"{name} ({now - at:.1f} s)"
        for name, at in stamps
        if at is not None and now - at > STALLED_SECONDS
    ]
