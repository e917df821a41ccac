"""The metric families of a watch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from echod.probe.result import printable
from echod.probe.verdict import Row
from echod.telemetry.metrics import (
    FamiliesCollector,
    Family,
    Registry,
    Samples,
    build_info,
    registry_of,
)
from echod.watch.counts import BUCKETS, Counts, Histogram
from echod.watch.sentinel import Sentinel, Verdict


@dataclass(frozen=True)
class Sources:
    """Where the collector gets its values."""

    sentinel: Sentinel
    skipped: Callable[[], int]
    expectation_valid: Callable[[], bool]
    log_events_dropped: Callable[[], int]


@dataclass(frozen=True)
class Scrape:
    """The values of one scrape."""

    sources: Sources
    rows: list[Row]
    judged: int
    """The number of samples that the rows are based on."""

    @classmethod
    def of(cls, sources: Sources) -> Scrape:
        """The current values."""
        return cls(sources, *sources.sentinel.rows())

    @property
    def counts(self) -> Counts:
        """The counts of all samples."""
        return self.sources.sentinel.counts


def _single(read: Callable[[Scrape], float]) -> Callable[[Scrape], Samples]:
    return lambda scrape: [((), read(scrape))]


def _of_rows(read: Callable[[Row], float]) -> Callable[[Scrape], Samples]:
    """A value by version. If several names are printed alike, only the first counts."""

    def samples(scrape: Scrape) -> Samples:
        found = {(printable(row.name),): read(row) for row in reversed(scrape.rows)}
        return list(reversed(found.items()))

    return samples


def _shares(scrape: Scrape) -> Samples:
    return _of_rows(lambda row: row.share)(scrape) if scrape.judged else []


def _histograms(read: Callable[[Counts], Mapping[str, Histogram]]) -> Callable[[Scrape], Samples]:
    return lambda scrape: [
        ((name,), (list(one.counts), one.seconds))
        for name, one in list(read(scrape.counts).items())
    ]


def _counted(read: Callable[[Counts], Mapping[str, int]]) -> Callable[[Scrape], Samples]:
    return lambda scrape: [((name,), count) for name, count in list(read(scrape.counts).items())]


def _verdict(scrape: Scrape) -> Samples:
    now = scrape.sources.sentinel.verdict
    return [((one.value,), int(one is now)) for one in Verdict]


VERSION = ("version",)

FAMILIES: tuple[Family[Scrape], ...] = (
    Family(
        "echod_probe_connections_total",
        "counter",
        VERSION,
        "Connections answered, by the version that answered.",
        _counted(lambda counts: counts.connections),
    ),
    Family(
        "echod_probe_failures_total",
        "counter",
        ("kind",),
        "Failed connections, by kind of failure.",
        _counted(lambda counts: counts.failures),
    ),
    Family(
        "echod_probe_skipped_total",
        "counter",
        (),
        "Connections skipped because too many were open, or the process was suspended.",
        _single(lambda scrape: scrape.sources.skipped()),
    ),
    Family(
        "echod_probe_connect_seconds",
        "histogram",
        VERSION,
        "Time to establish the connection.",
        _histograms(lambda counts: counts.connect),
        BUCKETS,
    ),
    Family(
        "echod_probe_reply_seconds",
        "histogram",
        VERSION,
        "Time from the connection to the reply.",
        _histograms(lambda counts: counts.reply),
        BUCKETS,
    ),
    Family(
        "echod_probe_expected_share",
        "gauge",
        VERSION,
        "Expected share of the connections, from 0 to 1.",
        _of_rows(lambda row: row.expected or 0.0),
    ),
    Family(
        "echod_probe_share",
        "gauge",
        VERSION,
        "Share since the verdict or the expectation last changed; absent before the first answer.",
        _shares,
    ),
    Family(
        "echod_probe_share_low",
        "gauge",
        VERSION,
        "Lower bound of the shares that these connections do not contradict.",
        _of_rows(lambda row: row.low),
    ),
    Family(
        "echod_probe_share_high",
        "gauge",
        VERSION,
        "Upper bound of the shares that these connections do not contradict.",
        _of_rows(lambda row: row.high),
    ),
    Family(
        "echod_probe_alarm_level",
        "gauge",
        (),
        "Closeness to an alarm, from 0 to 1 on a logarithmic scale; 1 until the all-clear.",
        _single(lambda scrape: scrape.sources.sentinel.level),
    ),
    Family(
        "echod_probe_verdict",
        "gauge",
        ("verdict",),
        "1 for the current verdict: settling, expected or alarm.",
        _verdict,
    ),
    Family(
        "echod_probe_verdict_changes_total",
        "counter",
        (),
        "Changes from one verdict to another.",
        _single(lambda scrape: scrape.sources.sentinel.changes),
    ),
    Family(
        "echod_probe_expectation_valid",
        "gauge",
        (),
        "0 while the expectation's file is invalid and its previous content applies.",
        _single(lambda scrape: int(scrape.sources.expectation_valid())),
    ),
    Family(
        "echod_log_events_dropped_total",
        "counter",
        (),
        "Log events dropped because the log reader is too slow.",
        _single(lambda scrape: scrape.sources.log_events_dropped()),
    ),
    Family(
        "echod_build_info",
        "gauge",
        ("release", "python", "gil"),
        "Version of echod and of Python; always 1.",
        build_info,
    ),
)


def make_registry(sources: Sources) -> Registry:
    """A registry with these families."""
    return registry_of(FamiliesCollector(FAMILIES, lambda: Scrape.of(sources), {}))
