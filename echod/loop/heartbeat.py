"""Heartbeats: the time stamps that event loops write each round, and which threads are stuck."""

from collections.abc import Iterable

STALLED_SECONDS = 3.0
"""A thread is stalled if its stamp is older. Idle threads write one at least every second."""


class Heartbeat:
    """The time stamp of one thread. Only that thread writes it; every thread may read it."""

    __slots__ = ("at", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.at: float | None = None  # monotonic seconds; no stamp is expected before the start

    def end(self) -> None:
        """Expect no more stamps: the thread has ended normally."""
        self.at = None


def stalled(heartbeats: Iterable[Heartbeat], now: float) -> list[str]:
    """The name and the age of the stamp of each thread that is stalled at ``now``.

    ``now`` should be the stamp of a running thread. After a suspension of the whole process (a
    paused machine) all stamps are equally old, and no thread counts as stalled.
    """
    stamps = [(beat.name, beat.at) for beat in heartbeats]
    return [
        f"{name} ({now - at:.1f} s)"
        for name, at in stamps
        if at is not None and now - at > STALLED_SECONDS
    ]
