from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

from echod.telemetry.counters import DURATION_BUCKETS, Counters, PortCounters


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


class Read:
    """Counters that are read while threads continue: after each reading, ``meanwhile``."""

    def __init__(self, real: Counters, meanwhile: Callable[[], None]) -> None:
        self._real = real
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        value = deepcopy(getattr(self._real, name))
        self._meanwhile()
        return value


def test_connections_that_come_and_go_while_a_total_is_made_show_in_all_of_it_or_nowhere() -> None:
    """active = opened - closed is never negative, and each closed connection has a duration."""
    first, second = Counters(), Counters()

    def come_and_go() -> None:
        """A connection to each thread, both accepted by the first."""
        for thread in (first, second):
            first.opened += 1
            thread.count_closed("eof", 0.1)

    parts = [Read(part, come_and_go) for part in (first, second)]
    total = PortCounters(9000, cast("list[Counters]", parts)).total()
    closed = sum(total.closed.values())
    assert 0 < closed <= total.opened
    assert sum(total.durations) == closed
