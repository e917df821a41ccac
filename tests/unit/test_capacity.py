from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echod.config.options import Config, load
from echod.errors import SystemRefused
from echod.process.capacity import MARGIN, METRICS_CLIENTS, Capacity, capacity

TAKEN = 15
"""Descriptors that a daemon with one port needs at rest."""


def config(**flags: str) -> Config:
    return load({"ports": "0", "prefix": "x"} | flags, {})


def shared(limit: int, *, metrics: bool = True, **flags: str) -> Capacity:
    return capacity(config(**flags), limit, TAKEN, metrics=metrics)


def test_enough_descriptors_leave_the_limits_as_set() -> None:
    """And there is nothing to warn of."""
    fits = shared(20_000)
    assert fits == Capacity(20_000, 10_000, METRICS_CLIENTS)
    assert not fits.lowered(config())


def test_from_about_five_hundred_descriptors_on_only_connections_are_fewer() -> None:
    """The metrics port and the margin have their full share."""
    fits = shared(1024)
    assert fits == Capacity(1024, 1024 - TAKEN - METRICS_CLIENTS - MARGIN, METRICS_CLIENTS)
    assert fits.lowered(config())


@given(limit=st.integers(28, 1000), metrics=st.booleans())
def test_all_shares_fit_and_a_higher_limit_takes_from_none(limit: int, metrics: bool) -> None:
    """Whatever the limit is."""
    fits, more = (shared(each, metrics=metrics) for each in (limit, limit + 1))
    assert 1 <= fits.connections <= more.connections <= fits.connections + 1
    assert 4 * metrics <= fits.metrics_clients <= more.metrics_clients <= METRICS_CLIENTS
    assert fits.connections + fits.metrics_clients + 8 + TAKEN <= limit


def test_a_connection_limit_over_the_open_file_limit_is_refused_by_name() -> None:
    """With what would fit."""
    room = shared(128).connections
    assert shared(128, max_connections=str(room)).connections == room
    message = f"^--max-connections {room + 1}: the open-file limit of 128 allows {room} at most"
    with pytest.raises(SystemRefused, match=message):
        shared(128, max_connections=str(room + 1))


def test_descriptors_that_connections_leave_go_to_the_metrics_port() -> None:
    """A few connections under a low limit lower nothing."""
    fits = shared(256, max_connections="50")
    assert fits == Capacity(256, 50, METRICS_CLIENTS)
    assert not fits.lowered(config(max_connections="50"))
    assert shared(128, max_connections="50").lowered(config(max_connections="50"))


def test_without_a_metrics_port_it_takes_no_descriptors() -> None:
    """And its lack is no lowering."""
    assert shared(64, metrics=False).connections > shared(64).connections
    fits = shared(20_000, metrics=False)
    assert fits.metrics_clients == 0
    assert not fits.lowered(config())


def test_an_open_file_limit_that_fits_nothing_names_what_echod_needs() -> None:
    """One connection, and the least of the others."""
    assert shared(TAKEN + 13).connections == 1
    message = "open-file limit of 27 leaves no connection: echod itself needs 27 file"
    with pytest.raises(SystemRefused, match=message):
        shared(TAKEN + 12)
