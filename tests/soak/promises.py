"""What must hold at every scrape, and what at rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support import Echod, Metrics, get

from echod.telemetry.counters import CLOSE_REASONS
from soak.board import Board

HEAD_BYTES = len(b"one ")
FORMATS = {"text/plain": parse_text, "application/openmetrics-text": parse_openmetrics}
BUDGET = 16 * 1024 * 1024
DURATION = "echod_connection_duration_seconds"
Sums = Mapping[str, int]


class Promises:
    """Those that have been broken, each with its first case."""

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}

    def check(self, promise: str, held: bool, *facts: object) -> None:
        if not held:
            self.broken.setdefault(promise, ", ".join(map(str, facts)))

    def in_order(self, promise: str, *values: float) -> None:
        """None is greater than the next."""
        self.check(promise, all(one <= other for one, other in pairwise(values)), *values)

    def equal(self, promise: str, *values: object) -> None:
        self.check(promise, len(set(values)) == 1, *values)

    def lines(self) -> list[str]:
        return [f"broken: {promise}: {facts}" for promise, facts in self.broken.items()]


class Scrape(Metrics):
    """One scrape, and which of its samples must never fall."""

    def __init__(self, body: str, parse: Callable[[str], Iterable[Metric]]) -> None:
        self.samples = {}
        self.rising = set()
        for family in parse(body):
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                self.samples[key] = sample.value
                if family.type in {"counter", "histogram"}:
                    self.rising.add(key)

    def own_series(self) -> set[object]:
        """Those of client_python's that may come later are left out."""
        return {key for key in self.samples if key[0].startswith("echod_")}

    def closed(self, port: int, reason: str) -> float:
        return self("echod_connections_closed_total", port=port, reason=reason)

    def buckets(self, port: int) -> dict[float, float]:
        """The cumulative counts by their bounds, +Inf last."""
        found = {
            float(dict(labels)["le"]): value
            for (name, labels), value in self.samples.items()
            if name == f"{DURATION}_bucket" and dict(labels)["port"] == str(port)
        }
        return dict(sorted(found.items()))


class Watcher:
    """Scrapes an echod all of whose clients keep account on boards, one a port, and judges."""

    def __init__(self, echod: Echod, boards: Mapping[int, Board], promises: Promises) -> None:
        self.scrapes = 0
        self.most_buffered = 0.0
        self._metrics_port = echod.metrics_port
        self._boards = boards
        self._promises = promises
        self._first = self._last = self.scrape()

    def look(self) -> None:
        """One scrape, in the two formats by turns, beside what clients know before and after."""
        before = self._sums()
        scrape = self.scrape(list(FORMATS)[self.scrapes % len(FORMATS)])
        after = self._sums()
        self.scrapes += 1
        self._judge_series(scrape)
        self._judge_states(scrape)
        for port in self._boards:
            self._judge_port(scrape, port)
            self._judge_clients(scrape, port, before[port], after[port])
        self._last = scrape

    def scrape(self, accept: str = "text/plain") -> Scrape:
        status, body, headers = get(self._metrics_port, "/metrics", Accept=accept)
        self._promises.equal("a scrape is answered", status, 200)
        self._promises.equal(
            "the format is the one asked for", headers["Content-Type"].partition(";")[0], accept
        )
        return Scrape(body.decode(), FORMATS[accept])

    def _sums(self) -> dict[int, dict[str, int]]:
        return {port: board.sums() for port, board in self._boards.items()}

    def _judge_series(self, scrape: Scrape) -> None:
        missing = self._first.own_series() ^ scrape.own_series()
        self._promises.check("every label set exists from the start", not missing, *missing)
        for key in scrape.rising & self._last.rising:
            self._promises.in_order(
                f"no counter falls ({key[0]})", self._last.samples[key], scrape.samples[key]
            )

    def _judge_states(self, scrape: Scrape) -> None:
        held = scrape("echod_buffered_bytes")
        self._promises.in_order("held bytes are within their budget", 0, held, BUDGET)
        self.most_buffered = max(self.most_buffered, held)
        for name, value in (
            ("echod_ready", 1),
            ("echod_connections_limit", self._first("echod_connections_limit")),
            ("echod_threads", self._first("echod_threads")),
            ("echod_accept_errors_total", 0),
            ("echod_log_events_dropped_total", 0),
        ):
            self._promises.equal(f"{name} stays as it is", scrape(name), value)

    def _judge_port(self, scrape: Scrape, port: int) -> None:
        """What the numbers of one scrape have to do with each other."""

        def of(name: str) -> float:
            return scrape(f"echod_{name}", port=port)

        opened, closed = of("connections_opened_total"), of("connections_closed_total")
        self._promises.in_order("closed is never more than opened", closed, opened)
        self._promises.equal(
            "active is opened less closed", of("connections_active"), opened - closed
        )
        self._promises.in_order(
            "sent is never more than what is due",
            of("sent_bytes_total"),
            of("received_bytes_total") + of("requests_total") * HEAD_BYTES,
        )
        buckets = list(scrape.buckets(port).values())
        self._promises.in_order("buckets are cumulative", 0, *buckets)
        self._promises.equal(
            "durations are of the closed connections",
            closed,
            buckets[-1],
            of("connection_duration_seconds_count"),
        )

    def _judge_clients(self, scrape: Scrape, port: int, before: Sums, after: Sums) -> None:
        """Not less than what they had seen before, not more than what they had done after."""
        for name, least, most in (
            ("connections_opened", "served", "tried"),
            ("connections_closed", "ended", "tried"),
            ("requests", "lines_back", "lines_out"),
            ("received_bytes", "bytes_answered", "bytes_out"),
        ):
            value = scrape(f"echod_{name}_total", port=port)
            promise = f"{name} is between what clients have seen and done"
            self._promises.in_order(promise, before[least], value, after[most])
        self._promises.in_order(
            "sent bytes are counted by the end of the stream",
            before["bytes_ended"],
            scrape("echod_sent_bytes_total", port=port),
        )

    def judge_rest(self, certain: int, wild: int, rejected: int) -> None:
        """With every connection at its end: exactly what clients have done, on these ports."""
        scrape, sums = self.scrape(), self._sums()
        for port, of_port in sums.items():
            for name in ("opened", "closed"):
                self._promises.equal(
                    f"at rest each connection is {name}",
                    scrape(f"echod_connections_{name}_total", port=port),
                    of_port["tried"],
                )
        self._promises.equal("at rest nothing is held", scrape("echod_buffered_bytes"), 0)
        self._promises.equal(
            "each refused connection is counted",
            scrape("echod_connections_rejected_total"),
            rejected,
        )
        self._judge_reasons(scrape, certain, sums[certain])
        unused = scrape.closed(wild, "unused")
        self._promises.equal("who sends nothing and goes is unused", unused, sums[wild]["unused"])
        ends = [scrape.closed(wild, reason) for reason in ("eof", "reset")]
        self._promises.equal(
            "who else goes has an end or a reset for a reason",
            sum(ends) + unused,
            sums[wild]["tried"],
        )
        self._judge_traffic(scrape, certain, sums[certain])
        for port in sums:
            self._judge_durations(scrape, port)

    def reasons(self) -> str:
        """The ends so far, to understand a failure by."""
        scrape = self.scrape()
        counts = {
            f"{port} {reason}": scrape.closed(port, reason)
            for port in self._boards
            for reason in CLOSE_REASONS
        }
        return ", ".join(f"{name}: {count:.0f}" for name, count in counts.items() if count)

    def _judge_reasons(self, scrape: Scrape, port: int, sums: Sums) -> None:
        for reason in CLOSE_REASONS:
            self._promises.equal(
                f"at rest ends are counted by their reason ({reason})",
                scrape.closed(port, reason),
                sums.get(reason, 0),
            )

    def _judge_traffic(self, scrape: Scrape, port: int, sums: Sums) -> None:
        replies = sums["bytes_answered"] + HEAD_BYTES * sums["lines_back"]
        for name, *known in (
            ("requests", sums["lines_out"], sums["lines_back"]),
            ("received_bytes", sums["bytes_out"]),
            ("sent_bytes", replies),
        ):
            self._promises.equal(
                f"at rest {name} are those of the clients",
                scrape(f"echod_{name}_total", port=port),
                *known,
            )

    def _judge_durations(self, scrape: Scrape, port: int) -> None:
        """The sum is one that the buckets allow."""
        least = most = lower = below = 0.0
        for bound, cumulative in scrape.buckets(port).items():
            least += (cumulative - below) * lower
            most += (cumulative - below) * bound if cumulative > below else 0
            lower, below = bound, cumulative
        total = scrape(f"{DURATION}_sum", port=port)
        self._promises.in_order("at rest durations add up to their sum", least, total, most)
