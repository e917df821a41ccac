"""What the dashboard shows in a real Prometheus, against traffic of which everything is known.

Two versions behind a real Envoy at 80/20, and one beside them whose connections end in unusual
ways. Stand-ins replace the mesh's own metrics, because a mesh's Envoy exports ``istio_tcp_*`` by a
filter that this one lacks. They are Envoy's own counts of connections and bytes to each cluster,
with the mesh's names and labels set by the scrape.
"""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from math import sqrt
from typing import Any

import pytest
import yaml
from support import Start, until
from support.scraping import MONITORING, broken_rules, expectation, panel_queries, prometheus, query
from support.traffic import CHECKS, HELD, LIMIT, LINES, UNFINISHED, WEIGHTS, Odd, Split

import echod
from echod.probe.binomial import interval
from echod.telemetry.counters import ACCEPT_ERROR_REASONS, CLOSE_REASONS

SHARES = {name: weight / 100 for name, weight in WEIGHTS.items()}
BY_CHANCE = 1e-6
"""How often a test may fail by chance."""
WINDOW = 180
"""Seconds of the recorded rates, and of the panels' own here."""

MOST = 1.06
"""A rate extrapolates beyond the last sample, by at most a scrape. Since the first sample is at
least 20 seconds old, that is about a twentieth. It never falls short, because all counters were
scraped at 0 first."""
ENVOY = {
    "envoy_cluster_upstream_cx_total": "istio_tcp_connections_opened_total",
    "envoy_cluster_upstream_cx_tx_bytes_total": "istio_tcp_received_bytes_total",
    "envoy_cluster_upstream_cx_rx_bytes_total": "istio_tcp_sent_bytes_total",
}
"""Envoy's directions are its own: what it has sent to a cluster the servers have received."""


def scrapes(split: Split, odd: Odd) -> list[dict[str, Any]]:
    """The versions as they are scraped with the shipped configuration, and Envoy in disguise."""

    def job(name: str, *ports: int, **more: Any) -> dict[str, Any]:
        targets = {"targets": [f"127.0.0.1:{port}" for port in ports]}
        return {"job_name": name, "static_configs": [targets]} | more

    renaming: list[dict[str, Any]] = [
        {"source_labels": ["__name__"], "regex": old, "target_label": "__name__",
         "replacement": new} for old, new in ENVOY.items()
    ]  # fmt: skip
    renaming.append({"source_labels": ["__name__"], "regex": "istio_tcp_.*", "action": "keep"})
    renaming.append(
        {"source_labels": ["envoy_cluster_name"], "target_label": "destination_version"}
    )
    mesh = job("mesh", split.envoy.admin_address[1], metrics_path="/stats/prometheus")
    mesh["metric_relabel_configs"] = renaming
    mesh["static_configs"][0]["labels"] = {
        "reporter": "destination",
        "destination_app": "tcp-echo",
        "destination_workload_namespace": "default",
    }
    ports = (one.metrics_port for one in split.echods.values())
    return [
        job("split", *ports, honor_labels=True),
        job("odd", odd.echod.metrics_port, honor_labels=True),
        mesh,
    ]


class Seen:
    """All that was caused, and what Prometheus says of it as of one moment after."""

    def __init__(self, port: int, split: Split, odd: Odd) -> None:
        self.port = port
        self.split = split
        self.odd = odd
        self.at = 0.0

    def run(self) -> None:
        """Causes it, and waits until all of it has been scraped and recorded."""
        until(lambda: len(query(self.port, "rate(up[1m]) == 0")) == 4)
        began = time.time()
        self.split.hold()
        self.split.check()
        self.odd.cause()
        self.split.load()
        done = time.time()
        recorded = "timestamp(echod:requests:rate3m)"
        # A second for a scrape, and another for an evaluation after it.
        until(lambda: all(at > done + 2 for _, at in query(self.port, recorded)), 30)
        self.at = time.time()
        assert self.at - began < WINDOW - 5, (
            "too slow: rates are over a window, and this took longer"
        )

    def ask(self, title: str, number: int = 0, by: str = "version", **chosen: str) -> Any:
        """What a panel shows by its query of this number: values by a label."""
        text = panel_queries(**({"job": "split"} | chosen))[title][number]
        found = query(self.port, text, self.at)
        values = {labels[by]: value for labels, value in found}
        assert len(values) == len(found), found
        return values


@pytest.fixture(scope="module")
def seen(start_once: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    directory = tmp_path_factory.mktemp("prometheus")
    expected = directory / "expected.yml"
    expected.write_text(yaml.safe_dump(expectation(SHARES)))
    with ExitStack() as closing:
        split, odd = Split(start_once, closing), Odd(start_once)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(MONITORING / "rules.yml"), str(expected)],
            "scrape_configs": scrapes(split, odd),
        }
        seen = Seen(closing.enter_context(prometheus(directory, config)), split, odd)
        seen.run()
        yield seen


def assert_a_window_of(found: Mapping[str, float], counts: Mapping[str, float]) -> None:
    """Rates over the last three minutes of what was counted, all of it within them."""
    assert found.keys() == counts.keys()
    for name, count in counts.items():
        assert count * (1 - 1e-9) <= found[name] * WINDOW <= count * MOST, (name, found, counts)


def of_each(seen: Seen, name: str) -> dict[str, int]:
    return {version: getattr(tally, name) for version, tally in seen.split.tallies.items()}


def test_the_request_panels_show_the_answered_lines(seen: Seen) -> None:
    """Per second by version, the same by port, and the share of each."""
    lines = of_each(seen, "lines")
    assert_a_window_of(seen.ask("Requests per second by version"), lines)
    ports = {str(one.port): lines[name] for name, one in seen.split.echods.items()}
    assert_a_window_of(seen.ask("Requests per second by version and port", by="port"), ports)
    shares = seen.ask("Share of requests by version")
    total = sum(lines.values())
    assert shares == {name: pytest.approx(lines[name] / total, abs=0.015) for name in WEIGHTS}
    assert sum(shares.values()) == pytest.approx(1)
    alone = seen.ask("Share of requests by version", version="v2")
    assert alone == {"v2": shares["v2"]}


def test_the_split_panels_show_the_replies_and_the_expected_shares(seen: Seen) -> None:
    """Near what the replies say, and inside the interval that chance allows around it."""
    opened = of_each(seen, "opened")
    total = sum(opened.values())
    assert_a_window_of(seen.ask("Connections opened per second"), opened)
    for title in ("Share of connections opened by version",
                  "Share of connections opened, in the time shown"):  # fmt: skip
        assert seen.ask(title, 1) == SHARES
        shares = seen.ask(title)
        # The rates of two targets reach beyond their last samples by different parts of a second.
        assert shares == {name: pytest.approx(opened[name] / total, abs=0.015) for name in WEIGHTS}
        for name, share in shares.items():
            low, high = interval(round(total * SHARES[name]), total, BY_CHANCE)
            assert low < share < high, (name, share)


def test_the_deviation_is_in_standard_errors(seen: Seen) -> None:
    """As far off as the replies are, and no further than chance goes."""

    def deviations(opened: Mapping[str, float]) -> dict[str, float]:
        total = sum(opened.values())
        return {
            name: (opened[name] - total * share) / sqrt(total * share * (1 - share))
            for name, share in SHARES.items()
        }

    found = seen.ask("Deviation from the expected split")
    # Counts reach beyond the last sample by up to 6 % of themselves, one target's more than the
    # other's: of 600 connections that is under one standard error.
    assert found == pytest.approx(deviations(of_each(seen, "opened")), abs=1)
    grown, unused = (
        {labels["version"]: value for labels, value in query(seen.port, text, seen.at)}
        for text in (
            'increase(echod_connections_opened_total{job="split"}[5m])',
            'increase(echod_connections_closed_total{job="split", reason="unused"}[5m])',
        )
    )
    used = {name: grown[name] - unused[name] for name in WEIGHTS}
    assert found == pytest.approx(deviations(used))
    assert all(abs(value) < 6 for value in found.values())


def test_counters_of_bytes_and_lines_equal_the_wire(seen: Seen) -> None:
    """Both directions by version; what is of one target is scraped at one time, and exact."""
    received, sent = seen.ask("Received by version"), seen.ask("Sent by version")
    assert_a_window_of(received, of_each(seen, "received"))
    assert_a_window_of(sent, of_each(seen, "sent"))
    lines = seen.ask("Lines per connection")
    for name, tally in seen.split.tallies.items():
        assert sent[name] / received[name] == pytest.approx(tally.sent / tally.received)
        assert lines[name] == pytest.approx(tally.lines / tally.opened)
        assert 0.5 < lines[name] <= LINES[name] * (1 + 1e-9)


def test_the_connection_panels_show_the_open_connections(seen: Seen) -> None:
    """Active ones, the slots that they take, and the line that is not finished."""
    held = seen.split.held
    assert seen.ask("Active connections by version") == {name: held[name] for name in WEIGHTS}
    assert sum(held.values()) == HELD
    used = {name: pytest.approx(held[name] / LIMIT) for name in WEIGHTS}
    assert seen.ask("Connection limit in use") == used
    assert seen.ask("Ready") == dict.fromkeys(WEIGHTS, 1)
    buffered = dict.fromkeys(WEIGHTS, 0) | {seen.split.unfinished: len(UNFINISHED)}
    assert seen.ask("Buffered bytes") == buffered


def test_closed_connections_are_counted_by_their_reasons(seen: Seen) -> None:
    """Every one of them, and those that were not caused are 0."""
    none = dict.fromkeys(CLOSE_REASONS, 0.0)
    title = "Connections closed per second by reason"
    ended = sum(tally.closed for tally in seen.split.tallies.values())
    caused = {"eof": ended, "unused": sum(CHECKS.values())}
    assert_a_window_of(seen.ask(title, by="reason"), none | caused)
    assert_a_window_of(seen.ask(title, by="reason", job="odd"), none | seen.odd.closed)
    title = "Connections rejected per second"
    assert seen.ask(title) == dict.fromkeys(WEIGHTS, 0)
    assert_a_window_of(seen.ask(title, job="odd"), {"v3": seen.odd.rejected})
    title, none = "Accept errors per second", dict.fromkeys(ACCEPT_ERROR_REASONS, 0.0)
    assert seen.ask(title, by="reason") == none
    assert seen.odd.errors > 0
    assert_a_window_of(seen.ask(title, by="reason", job="odd"), none | {"EMFILE": seen.odd.errors})
    assert seen.ask("Log events dropped per second") == dict.fromkeys(WEIGHTS, 0)


def test_durations_are_of_the_connections_that_have_ended(seen: Seen) -> None:
    """As many as have, none longer than the load, and the held ones not among them."""
    buckets = seen.ask("Connection duration", by="le")
    ended = sum(tally.closed for tally in seen.split.tallies.values()) + sum(CHECKS.values())
    assert ended <= buckets["+Inf"] <= ended * MOST
    assert buckets["+Inf"] == buckets["15.0"] >= buckets["0.1"] >= buckets["0.005"]
    title = "Connection duration, median and 99th percentile"
    medians, slowest = seen.ask(title), seen.ask(title, 1)
    for name in WEIGHTS:
        assert 0 < medians[name] <= slowest[name] < 15


def test_the_process_is_seen_as_the_system_sees_it(seen: Seen) -> None:
    """Threads, files, memory, age; a scrape has a few files open of its own."""
    one = seen.split.echods
    assert seen.ask("Threads") == {name: one[name].threads() for name in WEIGHTS}
    memory, files = seen.ask("Memory"), seen.ask("Open files")
    used, age = seen.ask("Open-file limit in use"), seen.ask("Time since the start")
    cpu, runs = seen.ask("CPU"), seen.ask("Garbage collections per second")
    for name in WEIGHTS:
        assert memory[name] == pytest.approx(one[name].rss(), rel=0.1)
        assert files[name] == pytest.approx(one[name].open_files(), abs=4)
        soft, _ = resource.prlimit(one[name].process.pid, resource.RLIMIT_NOFILE)
        assert used[name] == pytest.approx(files[name] / soft)
        # The kernel tells when it was started to the second.
        assert age[name] == pytest.approx(seen.at - seen.split.born[name], abs=3)
        assert 0 < cpu[name] * WINDOW <= one[name].cpu_seconds() * MOST
        assert runs[name] >= 0
    instances = {f"127.0.0.1:{echo.metrics_port}": 1 for echo in one.values()}
    assert seen.ask("What runs", by="instance") == instances
    for label, value in (("release", echod.__version__), ("python", platform.python_version())):
        assert seen.ask("What runs", by=label, version="v1") == {value: 1}


def test_the_mesh_has_counted_the_same(seen: Seen) -> None:
    """Envoy's counts by version, under the mesh's names, beside ours; the difference is what went
    past it, the checks here.
    """
    for kind, name, past in (
        ("Opened", "opened", CHECKS),
        ("Received", "received", {}),
        ("Sent", "sent", {}),
    ):
        counts = of_each(seen, name)
        ours = {version: count + past.get(version, 0) for version, count in counts.items()}
        assert_a_window_of(seen.ask(f"{kind}: echod and the mesh"), ours)
        assert_a_window_of(seen.ask(f"{kind}: echod and the mesh", 1), counts)
        difference = seen.ask(f"{kind}: difference")
        assert difference == {
            version: pytest.approx(
                (count - counts[version]) / WINDOW, abs=count / WINDOW * (MOST - 1)
            )
            for version, count in ours.items()
        }


def test_every_query_and_every_rule_has_an_answer(seen: Seen) -> None:
    """With everything selected; alerts have theirs when they fire."""
    queries = [text for texts in panel_queries().values() for text in texts]
    rules = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    queries += [rule["record"] for group in rules for rule in group["rules"] if "record" in rule]
    queries.remove("echod:split:drift")  # there is none
    assert [text for text in queries if not query(seen.port, text, seen.at)] == []
    assert broken_rules(seen.port) == []
