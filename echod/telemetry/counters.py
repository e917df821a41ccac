"""What one thread has counted for one port: plain integers with a single writer, no lock."""

from bisect import bisect_left

CLOSE_REASONS = (
    "eof",
    "reset",
    "timeout",
    "idle",
    "max_age",
    "line_too_long",
    "buffer_limit",
    "write_timeout",
    "drain",
    "drain_timeout",
    "error",
    "unused",  # no byte was received, and the client ended it
)
REJECT_REASONS = ("limit",)
ACCEPT_ERROR_REASONS = ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "other")

DURATION_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
"""Upper bounds of the connection duration histogram, in seconds; +Inf follows."""


class Counters:
    """Counters of one thread for one port. That thread alone writes; every thread may read."""

    __slots__ = (
        "accept_errors",
        "ends",
        "opened",
        "received",
        "rejected",
        "requests",
        "seconds",
        "sent",
    )

    def __init__(self) -> None:
        self.opened = 0
        self.requests = 0
        self.received = 0  # bytes, client to server
        self.sent = 0  # bytes, server to client
        # By reason and duration in one: of two, a scrape could see the one without the other.
        self.ends = {reason: [0] * (len(DURATION_BUCKETS) + 1) for reason in CLOSE_REASONS}
        self.rejected = dict.fromkeys(REJECT_REASONS, 0)
        self.accept_errors = dict.fromkeys(ACCEPT_ERROR_REASONS, 0)
        self.seconds = 0.0

    def count_closed(self, reason: str, seconds: float) -> None:
        """Counts a connection's end, for one of CLOSE_REASONS, ``seconds`` after its start."""
        total = self.seconds + seconds  # first: without memory for a sum nothing is counted
        self.ends[reason][bisect_left(DURATION_BUCKETS, seconds)] += 1
        self.seconds = total

    def count_dropped(self, size: int) -> None:
        """Counts bytes that arrive after a connection's end: received, and not answered."""
        self.received += size

    @property
    def closed(self) -> dict[str, int]:
        """Ended connections by reason."""
        return {reason: sum(counts) for reason, counts in self.ends.items()}

    @property
    def durations(self) -> list[int]:
        """Ended connections by bucket of DURATION_BUCKETS, not cumulative."""
        return [sum(counts) for counts in zip(*self.ends.values(), strict=True)]


class PortCounters:
    """All the counters of one port, summed at scrape time."""

    def __init__(self, port: int, parts: list[Counters]) -> None:
        self.port = port
        self._parts = parts

    def total(self) -> Counters:
        """The sum over all threads, a snapshot in which closed never exceeds opened and the
        durations are those of the closed.

        Ends are read first: a connection that opens and ends meanwhile then shows as
        opened at most.
        """
        total = Counters()
        for part in self._parts:
            for reason, counts in part.ends.items():
                for bucket, count in enumerate(counts):
                    total.ends[reason][bucket] += count
            total.seconds += part.seconds
        for part in self._parts:
            total.opened += part.opened
            total.sent += part.sent
            total.requests += part.requests
            total.received += part.received
            for name, count in part.rejected.items():
                total.rejected[name] += count
            for name, count in part.accept_errors.items():
                total.accept_errors[name] += count
        return total
