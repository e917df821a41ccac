"""The metric families: a Collector that sums the counters at scrape time."""

from __future__ import annotations

import _thread
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector

from echod import __version__
from echod.config.runtime import gil_enabled
from echod.telemetry.counters import DURATION_BUCKETS, Counters, PortCounters

Seen = TypeVar("Seen")
"""The values of one scrape, from which all its families are made."""


@dataclass(frozen=True)
class Sources:
    """Where the collector gets its values."""

    ports: Sequence[PortCounters]
    connections_limit: int
    buffered_bytes: Callable[[], int]
    log_events_dropped: Callable[[], int]
    ready: Callable[[], bool]


@dataclass(frozen=True)
class Scrape:
    """The values of one scrape: all its families come from the same sums."""

    sources: Sources
    totals: list[tuple[str, Counters]]  # by port


Samples = list[tuple[tuple[str, ...], Any]]  # label values, and a number or a histogram


def _of_each_port(read: Callable[[Counters], Any]) -> Callable[[Scrape], Samples]:
    return lambda scrape: [((port,), read(total)) for port, total in scrape.totals]


def _by_reason(read: Callable[[Counters], dict[str, int]]) -> Callable[[Scrape], Samples]:
    return lambda scrape: [
        ((port, reason), count)
        for port, total in scrape.totals
        for reason, count in read(total).items()
    ]


def _single(read: Callable[[Sources], float]) -> Callable[[Scrape], Samples]:
    return lambda scrape: [((), read(scrape.sources))]


@dataclass(frozen=True)
class Family(Generic[Seen]):
    """One metric family. ``labels`` excludes ``version``."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    samples: Callable[[Seen], Samples]
    buckets: Sequence[float] = DURATION_BUCKETS
    """Upper bounds of a histogram's buckets; +Inf follows."""


def build_info(_seen: object) -> Samples:
    """The one sample of ``echod_build_info``."""
    gil = "enabled" if gil_enabled() else "disabled"
    return [((__version__, platform.python_version(), gil), 1)]


PORT, PORT_REASON = ("port",), ("port", "reason")

FAMILIES: tuple[Family[Scrape], ...] = (
    Family(
        "echod_connections_opened_total",
        "counter",
        PORT,
        "Connections accepted and admitted.",
        _of_each_port(lambda total: total.opened),
    ),
    Family(
        "echod_connections_closed_total",
        "counter",
        PORT_REASON,
        "Connections closed, by reason.",
        _by_reason(lambda total: total.closed),
    ),
    Family(
        "echod_connections_rejected_total",
        "counter",
        PORT_REASON,
        "Connections closed at once because no connection slot was free.",
        _by_reason(lambda total: total.rejected),
    ),
    Family(
        "echod_connections_active",
        "gauge",
        PORT,
        "Connections opened and not yet closed.",
        _of_each_port(lambda total: total.opened - sum(total.closed.values())),
    ),
    Family(
        "echod_connections_limit",
        "gauge",
        (),
        "Maximum number of concurrent connections, all ports together.",
        _single(lambda sources: sources.connections_limit),
    ),
    Family(
        "echod_requests_total",
        "counter",
        PORT,
        "Lines answered.",
        _of_each_port(lambda total: total.requests),
    ),
    Family(
        "echod_received_bytes_total",
        "counter",
        PORT,
        "Bytes received from clients, including those without a reply.",
        _of_each_port(lambda total: total.received),
    ),
    Family(
        "echod_sent_bytes_total",
        "counter",
        PORT,
        "Bytes sent to clients, counted when the kernel accepts them.",
        _of_each_port(lambda total: total.sent),
    ),
    Family(
        "echod_buffered_bytes",
        "gauge",
        (),
        "Bytes buffered for clients: unfinished lines and unsent replies.",
        _single(lambda sources: sources.buffered_bytes()),
    ),
    Family(
        "echod_connection_duration_seconds",
        "histogram",
        PORT,
        "Connection duration in seconds.",
        _of_each_port(lambda total: (total.durations, total.seconds)),
    ),
    Family(
        "echod_accept_errors_total",
        "counter",
        PORT_REASON,
        "Failed accepts, by error.",
        _by_reason(lambda total: total.accept_errors),
    ),
    Family(
        "echod_log_events_dropped_total",
        "counter",
        (),
        "Log events dropped because the log reader is too slow.",
        _single(lambda sources: sources.log_events_dropped()),
    ),
    Family(
        "echod_ready",
        "gauge",
        (),
        "1 while ready, 0 while starting or draining.",
        _single(lambda sources: int(sources.ready())),
    ),
    Family(
        "echod_threads",
        "gauge",
        (),
        "Threads of the process.",
        lambda _: [((), _thread._count() + 1)],  # threading's has a lock
    ),
    Family(
        "echod_build_info",
        "gauge",
        ("release", "python", "gil"),
        "Version of echod and of Python; always 1.",
        build_info,
    ),
)


class FamiliesCollector(Collector, Generic[Seen]):
    """Collects metric families. The labels of ``constant`` come first in every label set."""

    def __init__(
        self,
        families: Sequence[Family[Seen]],
        look: Callable[[], Seen],
        constant: Mapping[str, str],
    ) -> None:
        self._families = families
        self._look = look
        self._constant = constant

    def collect(self) -> Iterable[Metric]:
        """One metric per family."""
        seen = self._look()
        for family in self._families:
            yield self._metric(family, family.samples(seen))

    def _metric(self, family: Family[Seen], samples: Samples) -> Metric:
        names = (*self._constant, *family.labels)
        if family.kind == "histogram":
            histogram = HistogramMetricFamily(family.name, family.help, labels=names)
            for labels, (counts, seconds) in samples:
                bounds = [*map(str, family.buckets), "+Inf"]
                buckets = list(zip(bounds, accumulate(counts), strict=True))
                histogram.add_metric((*self._constant.values(), *labels), buckets, seconds)
            return histogram
        kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        metric = kind(family.name, family.help, labels=names)
        for labels, value in samples:
            metric.add_metric((*self._constant.values(), *labels), value)
        return metric


class Registry(CollectorRegistry):
    """Collectors that all exist before the first scrape.

    So a scrape takes no lock. If memory ran out as client_python's own ends, every later scrape
    would wait for it for ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._collectors: list[Collector] = []

    def register(self, collector: Collector) -> None:
        """Add a collector."""
        self._collectors.append(collector)

    def collect(self) -> Iterable[Metric]:
        """The families of all collectors."""
        for collector in self._collectors:
            yield from collector.collect()


def registry_of(collector: Collector) -> Registry:
    """A registry with a collector's families and client_python's process, platform and GC ones."""
    registry = Registry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def make_registry(sources: Sources, version: str | None) -> Registry:
    """A registry with echod's families. Every label set exists from the start; all have the label
    ``version`` if there is one.
    """

    def look() -> Scrape:
        return Scrape(sources, [(str(port.port), port.total()) for port in sources.ports])

    constant = {} if version is None else {"version": version}
    return registry_of(FamiliesCollector(FAMILIES, look, constant))


def render(registry: Registry, *, openmetrics: bool) -> bytes:
    """A registry's families as OpenMetrics 1.0.0, or as Prometheus text 0.0.4."""
    if openmetrics:
        return bytes(openmetrics_exposition.generate_latest(registry))
    return generate_latest(registry)
