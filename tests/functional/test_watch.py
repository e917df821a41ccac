"""``echod probe --watch`` as a user runs it: its log, its metrics port, and its end."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from support import (
    PATIENCE,
    ROOT,
    Echod,
    Start,
    altered,
    call,
    command,
    pause,
    peers,
    until,
)
from support.commands import two_addresses
from support.peers import serving
from support.processes import without_descriptors

from echod.lab.processes import free_port
from echod.watch.metrics import FAMILIES

RATE = 200
LEVEL = "echod_probe_alarm_level"
VERDICT = "echod_probe_verdict"
CONNECTIONS = "echod_probe_connections_total"
FAILURES = "echod_probe_failures_total"


class Source:
    """A target whose versions, or lack of them, the test chooses as it goes."""

    def __init__(self) -> None:
        self.names = [b"one", b"one", b"two", b"one", b"one"]
        self.behave: peers.Behaviour | None = None

    def __call__(self, connection: socket.socket, number: int) -> None:
        behave = self.behave or peers.prefixing(self.names[number % len(self.names)])
        behave(connection, number)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def port(source: Source) -> Iterator[int]:
    with serving(source) as port:
        yield port


Watch = Callable[..., Echod]


@pytest.fixture
def watch(start: Start, port: int) -> Watch:
    """Starts a watch of the source, or of another target."""

    def begin(*words: object, target: str = "", rate: float = RATE, **options: Any) -> Echod:
        by = options.pop("by", command)
        words = (target or f"127.0.0.1:{port}", "--watch", "--rate", rate, *words)
        called = by("probe", *map(str, words), "--metrics-port", "0")
        return start(command=lambda *_: called, **options)

    return begin


def verdict(one: Echod) -> str:
    scrape = one.metrics()
    (now,) = [name for name in ("settling", "expected", "alarm") if scrape(VERDICT, verdict=name)]
    return now


def refused(directory: Path, *words: object) -> tuple[int, str]:
    """The exit status and the one line of a call that does not begin."""
    result = subprocess.run(
        command("probe", *map(str, words)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=directory,
        check=False,
    )
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.returncode, result.stderr


def test_a_split_that_leaves_and_returns(watch: Watch, source: Source) -> None:
    """An alarm and an all-clear, as events and as metrics."""
    one = watch("--expect", "one=80,two=20", "--false-alarm", "1h", "--detect", 20)
    until(lambda: one.metrics()(CONNECTIONS, version="two") > 20)
    assert verdict(one) == "expected"
    assert one.metrics()(LEVEL) < 1
    source.names = [b"one", b"two"]
    until(lambda: verdict(one) == "alarm")
    assert one.metrics()(LEVEL) == 1
    alarm = one.event("alarm")
    assert (alarm["level"], alarm["reason"]) == ("error", "shares differ")
    assert re.fullmatch(r"one=\d+,two=\d+", alarm["seen"])
    source.names = [b"one", b"one", b"two", b"one", b"one"]
    until(lambda: one.events("all-clear"), 3 * PATIENCE)
    until(lambda: verdict(one) == "expected")
    assert one.metrics()("echod_probe_verdict_changes_total") == 2
    last = one.stop()
    assert (last["verdict"], last["verdict_changes"], last["signal"]) == ("expected", 2, "SIGTERM")
    assert last["connections"].keys() == {"one", "two"}


def test_one_that_must_not_be_there_raises_an_alarm_at_once(watch: Watch, source: Source) -> None:
    """100 % forbidden from the first sample on."""
    source.names = [b"\x1b[2J\xff"]
    one = watch("--expect", "one=80,two=20")
    alarm = one.event("alarm")
    assert (alarm["reason"], alarm["version"]) == ("unexpected", r"\x1b[2J\xff")
    assert alarm["seconds"] < PATIENCE
    until(lambda: one.metrics()(CONNECTIONS, version=r"\x1b[2J\xff") > 10)
    one.stop()
    assert len(one.events("alarm")) == 1


def test_the_metrics_are_openmetrics_and_complete(watch: Watch) -> None:
    """Every family, parsed by the reference's own parser; every label set from the start."""
    one = watch("--expect", "one=80,two=20,three=0")
    until(lambda: one.metrics()(CONNECTIONS, version="two") > 2)
    accept = "application/openmetrics-text; version=1.0.0"
    status, body, headers = one.get("/metrics", Accept=accept)
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "application/openmetrics-text")
    families = {family.name: family for family in openmetrics(body.decode())}
    for family in FAMILIES:
        found = families[family.name.removesuffix("_total")]
        assert found.type == family.kind
        assert found.documentation == family.help
        assert found.samples, family.name
        for sample in found.samples:
            assert set(sample.labels) - {"le"} == set(family.labels)
    assert {"process_open_fds", "python_info", "python_gc_collections"} <= families.keys()
    scrape = one.metrics()
    assert scrape("echod_probe_expected_share", version="one") == 0.8
    assert scrape("echod_probe_expected_share", version="three") == 0
    assert scrape(CONNECTIONS, version="three") == 0
    assert scrape(FAILURES, kind="name not found") == 0
    low, share, high = (
        scrape(f"echod_probe_share{end}", version="one") for end in ("_low", "", "_high")
    )
    assert 0 <= low < share < high <= 1
    assert scrape("echod_probe_connect_seconds_count", version="one") > 0
    assert scrape("echod_probe_reply_seconds_count", version="one") > 0
    assert scrape("echod_probe_expectation_valid") == 1
    one.stop()


def test_every_kind_of_failure_is_a_series_before_it_happens(watch: Watch) -> None:
    """rate() misses the first of a kind otherwise; other kinds cannot happen."""
    plain = {"refused", "reset", "timeout", "closed", "wrong reply", "name not found"}
    plain |= {"unreachable", "this host"}
    matched, encrypted = {"no match", "slow match"}, {"tls"}
    for words, kinds in (
        ([], plain),
        (["--match", "(one)"], plain | matched),
        (["--tls", "--insecure"], plain | encrypted),
        (["--tls", "--insecure", "--match", "(one)"], plain | matched | encrypted),
    ):
        one = watch("--expect", "one=1", *words, rate=0.1)
        one.event("ready")
        text = one.get("/metrics")[1].decode()
        assert (
            set(re.findall(r'^echod_probe_failures_total{kind="(.*)"}', text, re.MULTILINE))
            == kinds
        )
        one.stop()


def test_the_pages_say_that_it_is_alive_and_ready(watch: Watch) -> None:
    """Like the daemon's."""
    one = watch("--expect", "one=80,two=20")
    one.event("ready")
    assert one.get("/livez")[:2] == one.get("/readyz")[:2] == (200, b"ok\n")
    assert b"/livez: 200, or 503 if no sample has ended for long" in one.get("/")[1]
    one.stop()


def test_without_a_metrics_port_it_watches_all_the_same(port: int, start: Start) -> None:
    """``none`` turns it off."""
    words = (f"127.0.0.1:{port}", "--watch", "--rate", "200", "--expect", "one=1")
    one = start(command=lambda *_: command("probe", *words, "--metrics-port", "none"))
    one.event("alarm")
    assert one.stop()["connections"]["one"] >= 1
    assert one.events("metrics on") == []


def failed_samples(one: Echod, kind: str) -> list[dict[str, Any]]:
    return [event for event in one.events("sample failed") if event["kind"] == kind]


def test_failures_are_counted_by_kind_and_it_goes_on(watch: Watch, source: Source) -> None:
    """Resets, closes and silence; the next answer is as good as any."""
    one = watch("--expect", "one=80,two=20", "--timeout", "0.2", "--concurrency", "5")
    kinds = {"reset": peers.resetting, "closed": peers.saying(b""), "timeout": peers.silent}
    for kind, behave in kinds.items():
        source.behave = behave
        until(lambda kind=kind: one.metrics()(FAILURES, kind=kind) > 3)  # type: ignore[misc]
        told = until(lambda kind=kind: failed_samples(one, kind))  # type: ignore[misc]
        assert [event["address"] for event in told] == ["127.0.0.1"]
    until(lambda: one.metrics()("echod_probe_skipped_total") > 0)  # five at a time, all silent
    source.behave = None
    before = one.metrics()(CONNECTIONS)
    until(lambda: one.metrics()(CONNECTIONS) > before + 20)
    assert verdict(one) == "expected"
    one.stop()


def test_a_target_that_goes_and_comes_back_on_the_same_port(start: Start, watch: Watch) -> None:
    """Refused meanwhile; the same verdict afterwards."""
    server = start(ports=str(free_port()), prefix="one")
    target = f"127.0.0.1:{server.port}"
    one = watch("--expect", "one=100,two=0", target=target)
    until(lambda: one.metrics()(CONNECTIONS, version="one") > 10)
    port = server.port
    server.stop()
    until(lambda: one.metrics()(FAILURES, kind="refused") > 10)
    again = start(command=lambda *_: command(str(port), "one", "--metrics-port", "0"))
    again.event("ready")
    before = one.metrics()(CONNECTIONS, version="one")
    until(lambda: one.metrics()(CONNECTIONS, version="one") > before + 10)
    assert verdict(one) == "expected"
    one.stop()


def test_a_name_that_cannot_be_found_is_a_failure_of_its_own(tmp_path: Path, watch: Watch) -> None:
    """It is looked up again and again, with one event; the expectation is followed meanwhile."""
    path = tmp_path / "expected"
    path.write_text("one=1\n")
    one = watch("--expect-file", path, target="echod.invalid:9", rate=20)
    until(lambda: one.metrics()(FAILURES, kind="name not found") >= 3)
    assert one.event("sample failed")["kind"] == "name not found"
    assert one.get("/livez")[0] == 200
    path.write_text("two=1\n")
    one.event("expectation changed")
    assert not one.events("address taken")
    one.stop()


def test_it_says_which_of_several_addresses_it_has_taken(watch: Watch, port: int) -> None:
    """One of a name that it looks up once; the first does not answer."""
    one = watch("--expect", "one=80,two=20", target=f"two.example:{port}", by=two_addresses)
    taken = one.event("address taken")
    assert (taken["address"], taken["addresses"]) == ("127.0.0.1", 2)
    assert one.stop()["failures"] == {}
    assert len(one.events("address taken")) == 1
    assert one.events("sample failed") == []


def test_a_host_without_descriptors_is_a_failure_and_not_the_end(watch: Watch) -> None:
    """A separate kind of failure, which ends once descriptors are free again."""
    one = watch("--expect", "one=80,two=20")
    until(lambda: one.metrics()(CONNECTIONS) > 10)
    with without_descriptors(one, limit=3):
        told = one.event("sample failed")
        assert (told["kind"], "address" in told) == ("this host", False)
    before = one.metrics()(CONNECTIONS)
    until(lambda: one.metrics()(CONNECTIONS) > before + 10)
    one.stop()


def test_a_planned_change_by_a_file(tmp_path: Path, watch: Watch, source: Source) -> None:
    """The file, then the weights: no alarm; an invalid file keeps what was expected."""
    path = tmp_path / "expected"
    path.write_text("one=80,two=20\n")
    one = watch("--expect-file", path, "--settle", 2)
    until(lambda: one.metrics()(CONNECTIONS) > 50)
    path.write_text("two=100,one=0\n")
    changed = one.event("expectation changed")
    assert (changed["before"], changed["expected"]) == ("one=80,two=20", "two=100,one=0")
    assert one.metrics()("echod_probe_expected_share", version="two") == 1
    source.names = [b"two"]
    one.event("settled")
    path.write_text("nonsense\n")
    invalid = one.event("expectation invalid")
    assert "'nonsense': must be NAME=SHARE" in invalid["problem"]
    until(lambda: one.metrics()("echod_probe_expectation_valid") == 0)
    path.write_text("two=1\none=0\n")
    until(lambda: len(one.events("expectation invalid")) == 2)
    path.write_text("two=1,one=0\n")
    one.event("expectation valid again")
    until(lambda: one.metrics()("echod_probe_expectation_valid") == 1)
    assert one.events("alarm") == []
    source.names = [b"one"]
    one.event("alarm")
    one.stop()


ROUTE = (ROOT / "k8s/istio/80-20/route.yaml").read_text()
NAMES = ("--name", "one=v1", "--name", "two=v2")


def test_one_verdict_on_the_weights_of_a_route(tmp_path: Path, port: int) -> None:
    """What is found is named by the route's subsets."""
    (tmp_path / "route.yaml").write_text(ROUTE)
    words = ("probe", f"127.0.0.1:{port}", "--route", "route.yaml")
    result = call(tmp_path, command(*words, *NAMES))
    assert (result.returncode, result.stderr) == (0, "")
    assert "do not contradict v1=80,v2=20" in result.stdout
    assert "v1 is unexpected" not in result.stdout
    # Which of the two is found first is a matter of which connection is answered first.
    result = call(tmp_path, command(*words))
    assert result.returncode == 1
    assert re.search(r"\b(one|two) is unexpected", result.stdout), result.stdout
    result = call(tmp_path, command("probe", "--plan", "--route", "route.yaml", "--quiet"))
    assert (result.returncode, result.stderr) == (0, "")


def test_a_route_that_changes_is_followed(tmp_path: Path, watch: Watch, source: Source) -> None:
    """As the file of an expectation is."""
    path = tmp_path / "route.yaml"
    path.write_text(ROUTE)
    one = watch("--route", path, "--settle", 0, *NAMES)
    until(lambda: one.metrics()(CONNECTIONS, version="v1") > 10)
    path.write_text(ROUTE.replace("weight: 20", "weight: 100").replace("weight: 80", "weight: 0"))
    source.names = [b"two"]
    changed = one.event("expectation changed")
    assert (changed["before"], changed["expected"]) == ("v1=80,v2=20", "v1=0,v2=100")
    path.write_text("kind: Nothing")
    assert "must contain a VirtualService" in one.event("expectation invalid")["problem"]
    one.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_a_last_report(watch: Watch, number: signal.Signals) -> None:
    """Exit status 0, even with connections in progress."""
    one = watch("--expect", "one=80,two=20")
    until(lambda: one.metrics()(CONNECTIONS) > 10)
    one.process.send_signal(number)
    assert one.wait() == 0
    last = one.events()[-1]
    assert (last["event"], last["signal"]) == ("stopped", number.name)
    assert sum(last["connections"].values()) >= 10
    assert last["failures"] == {}


def test_a_signal_during_the_start_or_while_all_hang_ends_it(watch: Watch, source: Source) -> None:
    """No sample is waited for."""
    source.behave = peers.silent
    early = watch("--expect", "one=1")
    early.event("starting")
    early.stop()
    late = watch("--expect", "one=1", "--timeout", 1000, "--concurrency", 3)
    until(lambda: late.metrics()("echod_probe_skipped_total") > 10)
    assert late.stop()["connections"] == {"one": 0}


def test_no_burst_follows_when_the_process_was_suspended(watch: Watch) -> None:
    """Samples that were scheduled meanwhile count as skipped."""
    one = watch("--expect", "one=80,two=20", rate=20)
    until(lambda: one.metrics()(CONNECTIONS) > 5)
    one.freeze()
    before = len(one.lines())
    pause(3, "sixty samples are due while it is suspended")
    one.thaw()
    until(lambda: one.metrics()("echod_probe_skipped_total") > 40)
    assert len(one.lines()) == before
    assert verdict(one) == "expected"
    one.stop()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--watch"], "--watch: must be given together with --expect"),
        (["--expect", "a=1", "--settle", "5"], "--settle: must be given together with --watch"),
        (["--expect", "a=1", "--false-alarm", "1d"], "--false-alarm: must be given together"),
        (["--expect", "a=1", "--metrics-port", "1"], "--metrics-port: must be given together"),
        (["--expect-file", "x"], "--expect-file: must be given together with --watch"),
        (["--watch", "--expect", "a=1", "--expect-file", "x"], "--expect: must be given without"),
        (["--watch", "--expect", "a=1", "-n", "5"], "--watch: must be given without -n"),
        (["--watch", "--expect", "a=1", "--json"], "--watch: must be given without --json"),
        (["--watch", "--expect", "a=1", "--max-errors", "5"], "without --max-errors"),
        (["--watch", "--expect", "a=1", "--false-alarm", "0"], "'0': must be a time from 1s"),
        (["--watch", "--expect", "a=1", "--false-alarm", "soon"], "'soon': must be a time from"),
        (["--watch", "--expect", "a=1", "--false-alarm", "9999999d"], "must be a time from 1s"),
        (
            ["--watch", "--expect", "a=1", "--settle=-1"],
            "--settle '-1': must be a number of seconds",
        ),
        (
            ["--watch", "--expect", "a=1,b=1", "--detect", "60"],
            "--detect 60: must be 50.0 % at most",
        ),
        (["--watch", "--expect-file", ""], "--expect-file '': must be the name of a file"),
        (["--watch", "--expect-file", "gone"], "'gone': cannot be read: No such file"),
        (["--watch", "--expect-file", "/"], "--expect-file '/': must be a regular file"),
    ],
)
def test_a_wrong_call_is_refused_in_one_line(
    tmp_path: Path, words: list[str], problem: str
) -> None:
    """With exit status 2, before any connection."""
    status, line = refused(tmp_path, "127.0.0.1:9", *words)
    assert (status, problem in line) == (2, True), line


def test_a_metrics_port_in_use_is_named(tmp_path: Path) -> None:
    """With exit status 3: this host's doing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        words = ("--metrics-port", number, "--metrics-address", "127.0.0.1")
        status, line = refused(tmp_path, "127.0.0.1:9", "--watch", "--expect", "a=1", *words)
    assert status == 3
    assert f"--metrics-port {number}: cannot listen on 127.0.0.1:{number}: " in line


@pytest.mark.parametrize("constant", ["LEAST_LOOK_UP_SECONDS", "MOST_WAITING"])
def test_what_ends_a_thread_of_the_samples_ends_the_watch(watch: Watch, constant: str) -> None:
    """With exit status 3, one line and the last report: a supervisor restarts it."""
    one = watch("--expect", "one=1", by=altered(**{f"watch__sampling__{constant}": ""}))
    assert one.process.wait(PATIENCE) == 3
    assert one.error_path.read_text().startswith("echod: error: ")
    assert one.events()[-1]["event"] == "stopped"


def test_a_start_that_is_refused_a_thread_ends_in_one_line(watch: Watch) -> None:
    """With exit status 3, before any connection."""
    one = watch("--expect", "one=1", by=altered(loop__threads__HEADROOM_BYTES=1 << 60))
    assert one.process.wait(PATIENCE) == 3
    assert one.error_path.read_text().startswith("echod: error: cannot start thread")


def test_a_bug_in_a_page_is_logged_and_the_watch_goes_on(watch: Watch) -> None:
    """It costs that answer alone."""
    one = watch("--expect", "one=80,two=20", by=altered(watch__health__LINKS=1))
    one.event("ready")
    with suppress(OSError, HTTPException):
        one.get("/")
    assert "AttributeError" in one.event("unhandled exception")["error"]
    before = one.metrics()(CONNECTIONS)
    until(lambda: one.metrics()(CONNECTIONS) > before)
    one.stop()
