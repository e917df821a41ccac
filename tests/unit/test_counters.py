from __future__ import annotations

from copy import deepcopy

from echod.counters import DURATION_BUCKETS, Counters, PortCounters


def test_the_total_of_a_port_is_the_sum_of_its_threads() -> None:
    """Every thread counts for itself; a scrape adds up."""
    first, second = Counters(), Counters()
    first.opened = 3
    first.rejected["limit"] = 2
    first.accept_errors["EMFILE"] = 1
    second.requests = 10
    second.received = 100
    second.sent = 140
    first.count_closed("eof", 0.5)
    second.count_closed("eof", 2.0)
    second.count_closed("idle", 1e6)
    total = PortCounters(9000, [first, second]).total()
    assert (total.opened, total.requests, total.received, total.sent) == (3, 10, 100, 140)
    assert (total.closed["eof"], total.closed["idle"], sum(total.closed.values())) == (2, 1, 3)
    assert total.rejected == {"limit": 2}
    assert total.accept_errors["EMFILE"] == sum(total.accept_errors.values()) == 1
    assert total.seconds == 1e6 + 2.5
    assert sum(total.durations) == 3


def test_a_duration_counts_in_the_bucket_whose_bound_it_does_not_pass() -> None:
    """A bucket's bound belongs to it, as Prometheus has it: le is less or equal."""
    counters = Counters()
    for bound in DURATION_BUCKETS:
        counters.count_closed("eof", bound)
    counters.count_closed("eof", DURATION_BUCKETS[-1] + 1)
    assert counters.durations == [1] * (len(DURATION_BUCKETS) + 1)


def test_an_end_that_comes_while_a_total_is_made_shows_in_all_of_it_or_nowhere() -> None:
    """active = opened - closed is never negative, and each closed connection has a duration."""

    class Busy(Counters):
        """Each reading of its ends is followed by a whole connection."""

        __slots__ = ("real",)

        @property
        def ends(self) -> dict[str, list[int]]:
            before = deepcopy(self.real)
            self.opened += 1
            self.real["eof"][0] += 1
            return before

        @ends.setter
        def ends(self, value: dict[str, list[int]]) -> None:
            self.real = value

    total = PortCounters(9000, [Busy(), Busy()]).total()
    closed = sum(total.closed.values())
    assert total.opened - closed >= 0
    assert sum(total.durations) == closed
