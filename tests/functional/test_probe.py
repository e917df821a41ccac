"""``echod probe`` as a user runs it, against echod and against what is none."""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support import (
    NEVER,
    OWN_ALLOCATOR,
    PATIENCE,
    ROOT,
    Clock,
    Start,
    call,
    clean_environment,
    command,
    connect,
    pause,
    peers,
    repeat,
    reset,
    unmeasured,
    until,
    with_open_files,
)
from support.commands import two_addresses
from support.peers import serving
from support.processes import holds_back

from echod.errors import UsageError
from echod.probe.files import check_writable

Run = subprocess.CompletedProcess[str]


def probe(directory: Path, *words: object) -> Run:
    result = call(directory, command("probe", *map(str, words)))
    assert "Traceback" not in result.stderr
    return result


def document(directory: Path, *words: object) -> tuple[int, Any]:
    result = probe(directory, *words, "--json")
    return result.returncode, json.loads(result.stdout)


def seen(document: Any) -> dict[str, int]:
    return {row["name"]: row["seen"] for row in document["versions"]}


@pytest.fixture(scope="module")
def split() -> Iterator[str]:
    """Exactly 80/20, four of five in turn."""
    with serving(peers.prefixing(b"one", b"one", b"two", b"one", b"one")) as port:
        yield f"127.0.0.1:{port}"


def test_a_split_that_holds_passes(tmp_path: Path, split: str) -> None:
    """As soon as that is sure; with a table, the promise, and exit status 0."""
    result = probe(tmp_path, split, "--expect", "one=80,two=20")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"^one +80.0 % +\d+ +\d\d.\d % .* as expected ", result.stdout, re.MULTILINE)
    assert re.search(
        r"^holds: \d{3} connections do not contradict one=80", result.stdout, re.MULTILINE
    )
    assert result.stdout.endswith(
        "a share off by 5 points, or a version that never answers, passes in 1 run of 20 at most\n"
    )


def test_a_split_that_does_not_hold_fails(tmp_path: Path, split: str) -> None:
    """And the reason says which share is off, and how far."""
    result = probe(tmp_path, split, "--expect", "one=70,two=30")
    assert result.returncode == 1
    assert re.search(r"does not hold: one has .*, 70\.0+ % was expected; two has", result.stdout)


def test_too_few_connections_are_inconclusive(tmp_path: Path, split: str) -> None:
    """Twenty say nothing of 80/20, and the error output says so before they are made."""
    words = (split, "--expect", "one=80,two=20", "-n", 20)
    result = probe(tmp_path, *words)
    assert result.returncode == 4
    assert "inconclusive: 20 connections do not contradict" in result.stdout
    assert result.stderr == (
        "echod: warning: -n 20: the split cannot pass, which takes at least 381 connections\n"
    )
    for more in ([], ["--tolerance", 5, "--wait", 1000]):
        run = running(tmp_path, *words[:-1], 380, "--rate", 0.01, *more)
        assert run.stderr
        assert "cannot pass" in run.stderr.readline()
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=PATIENCE)
    assert "judged" in document(tmp_path, *words)[1]


def test_a_dead_canary_does_not_pass(tmp_path: Path) -> None:
    """Not a single connection to a version that should have one in a hundred."""
    with serving(peers.prefixing(b"one")) as port:
        status, found = document(tmp_path, f"127.0.0.1:{port}", "--expect", "one=99,two=1")
    assert (status, found["stopped_at"]) == (1, 698)
    assert [row["verdict"] for row in found["versions"]] == ["off", "off"]


def test_failures_that_are_allowed_hide_no_version(tmp_path: Path) -> None:
    """75/25 of which v2 refuses a quarter: 80/20 of those that answer."""

    def behave(connection: socket.socket, number: int) -> None:
        place = number * 7 % 16  # 12 to v1, 4 to v2, of which one fails
        answer = peers.prefixing(b"one" if place < 12 else b"two")
        (peers.resetting if place == 15 else answer)(connection, number)

    with serving(behave) as port:
        words = (f"127.0.0.1:{port}", "--expect", "one=80,two=20", "--max-errors", 10_000)
        status, found = document(tmp_path, *words, "-n", 3000)
        assert (status, found["judged"], found["stopped_at"]) == (4, 3000, None)
        assert found["failures"]["reset"] == pytest.approx(3000 / 16, abs=10)
        assert "may belong to any version" in probe(tmp_path, *words, "-n", 3000).stdout


def with_a_slow_version(counted: list[int], answers: threading.Event) -> peers.Behaviour:
    """80/20 in turn, of which two waits for an event before each answer."""

    def behave(connection: socket.socket, number: int) -> None:
        counted.append(number)
        if number % 5 == 4:
            answers.wait(PATIENCE)
        peers.prefixing(b"two" if number % 5 == 4 else b"one")(connection, number)

    return behave


def test_a_slow_version_is_not_counted_short_when_a_run_is_interrupted(tmp_path: Path) -> None:
    """What began after a connection that has not ended is not judged."""
    counted: list[int] = []
    gone = threading.Event()
    behave = with_a_slow_version(counted, gone)

    with serving(behave) as port:
        words = ("--expect", "one=80,two=20", "--concurrency", 40, "--timeout", NEVER, "--json")
        run = running(tmp_path, f"127.0.0.1:{port}", *words)
        until(lambda: len(counted) >= 200)  # forty are held, and 160 have answered
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=PATIENCE)
        gone.set()
    found = json.loads(output)
    assert (run.returncode, found["verdict"], found["interrupted"]) == (4, "inconclusive", True)
    assert found["judged"] < 40
    assert found["connections"] > found["judged"] + 100


@pytest.mark.parametrize(("seconds", "concurrency"), [(0.02, 10), (1.0, 40)])
def test_a_version_that_answers_late_is_judged_like_one_that_does_not(
    tmp_path: Path, seconds: float, concurrency: int
) -> None:
    """By completion, forty of one come before the first of two: 80/20 would differ at once."""

    def behave(connection: socket.socket, number: int) -> None:
        if number % 5 == 4:
            pause(seconds, "a version that answers late")
        peers.prefixing(b"two" if number % 5 == 4 else b"one")(connection, number)

    with serving(behave) as port:
        words = ("--expect", "one=80,two=20", "--concurrency", concurrency)
        status, found = document(tmp_path, f"127.0.0.1:{port}", *words)
    assert status == 0
    # In the order of 1, 1, 1, 1, 2 it is 399; of neighbours either may be accepted first.
    assert found["stopped_at"] == pytest.approx(399, abs=2 * concurrency)


def test_what_began_before_the_time_was_over_is_judged(tmp_path: Path, clock: Clock) -> None:
    """However slow the version is that it went to."""
    counted: list[int] = []
    late = threading.Event()
    behave = with_a_slow_version(counted, late)

    with serving(behave) as port:
        words = ("--duration", 1000, "--timeout", NEVER, "--expect", "one=80,two=20", "--json")
        run = running(tmp_path, f"127.0.0.1:{port}", *words, by=clock.command)
        until(lambda: len(counted) >= 50)
        clock.move(1000)
        pause(0.3, "it must not end before the slow ones do")
        assert run.poll() is None
        late.set()
        output, _ = run.communicate(timeout=PATIENCE)
    found = json.loads(output)
    assert (found["judged"], seen(found)) == (50, {"one": 40, "two": 10})


def test_a_version_that_hangs_is_a_failure_and_not_one_that_was_counted_short(
    tmp_path: Path,
) -> None:
    """The judgement continues at the end of its duration; a verdict waits for no later samples."""

    hanging: list[int] = []

    def behave(connection: socket.socket, number: int) -> None:
        line = peers.line_of(connection)
        if number == 20:
            hanging.append(peers.sample_of(line))
            peers.silent(connection, number)
        else:
            connection.sendall(b"one " + line)
            peers.prefixing(b"one")(connection, number)

    with serving(behave) as port:
        words = (f"127.0.0.1:{port}", "--expect", "one=100,two=0", "--timeout", 5)
        status, found = document(tmp_path, *words)
        assert status == 3
        assert [found["stopped_at"]] == hanging
        assert found["failures"] == {"timeout": 1}
    with serving(behave) as port:
        words = (f"127.0.0.1:{port}", "--expect", "one=100,two=0", "--max-errors", 1)
        status, found = document(tmp_path, *words, "--timeout", 5)
        assert (status, found["stopped_at"], found["failures"]) == (0, 60, {"timeout": 1})


def test_only_so_many_begin_beyond_one_that_has_not_ended(tmp_path: Path) -> None:
    """A hundred for each concurrent connection."""
    counted, gone = [], threading.Event()

    def behave(connection: socket.socket, number: int) -> None:
        counted.append(number)
        if number == 0:
            gone.wait(PATIENCE)
        peers.prefixing(b"one")(connection, number)

    with serving(behave) as port:
        words = ("--concurrency", 2, "--timeout", NEVER, "-n", 1000, "--json")
        run = running(tmp_path, f"127.0.0.1:{port}", *words)
        until(lambda: len(counted) >= 200)
        pause(0.3, "it must not begin more")
        assert len(counted) <= 201
        gone.set()
        output, _ = run.communicate(timeout=PATIENCE)
    assert json.loads(output)["judged"] == 1000


def test_without_an_expectation_it_tallies(tmp_path: Path, split: str) -> None:
    """Names, counts, intervals and latencies, and nothing to judge."""
    begin = time.monotonic()
    status, found = document(tmp_path, split, "-n", 50)
    took = time.monotonic() - begin
    assert (status, seen(found)) == (0, {"one": 40, "two": 10})
    assert found["connections"] == 50
    for row in found["versions"]:
        assert row["interval"][0] < row["share"] < row["interval"][1]
        for times in (row["connect_seconds"], row["reply_seconds"]):
            assert 0 < times["p50"] <= times["p99"] < took
    result = probe(tmp_path, split, "-n", 5, "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_plan_is_what_a_run_takes(tmp_path: Path) -> None:
    """In words, as a number alone, and as JSON; without a connection."""
    plan = ("--plan", "--expect", "one=80,two=20")
    assert probe(tmp_path, *plan).stdout.startswith(
        "a pass takes 637 connections on average, 1,269 in 95 % of runs, 381 at least;\n"
    )
    assert probe(tmp_path, *plan, "--quiet").stdout == "6848\n"
    assert document(tmp_path, *plan) == (
        0,
        {"least": 381, "typical": 637, "p95": 1269, "cap": 6848},
    )
    within = probe(tmp_path, *plan, "--tolerance", 10)
    assert "a share off by more than 10 points passes in 1 run of 1,000 at most" in within.stdout


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_plan_can_be_interrupted(tmp_path: Path, number: int, status: int) -> None:
    """It judges nothing, so a signal ends it where it is: no result, no traceback."""
    many = ",".join(f"v{version}=1" for version in range(32))
    run = running(tmp_path, "--plan", "--expect", many, "--detect", "0.05")
    until(lambda: holds_back(run.pid, number))  # while it loads
    run.send_signal(number)
    assert run.communicate(timeout=PATIENCE) == ("", "")
    assert run.returncode == status


def test_a_prefix_may_be_anything(tmp_path: Path) -> None:
    """Spaces, other scripts, no UTF-8, control characters: told apart, and shown escaped."""
    names = [b"a b", "zwei \N{SNOWMAN}".encode(), b"\xff\x1b[31m\x00", b"", b"back\\slash"]
    shown = {"a b", "zwei \N{SNOWMAN}", r"\xff\x1b[31m\x00", "(empty)", r"back\\slash"}
    with serving(peers.prefixing(*names)) as port:
        status, found = document(tmp_path, f"localhost:{port}", "-n", 50, "--max-errors", 0)
        assert status == 0
        assert dict.fromkeys(shown, 10) == seen(found)
        report = tmp_path / "report.xml"
        result = probe(tmp_path, f"localhost:{port}", "-n", 50, "--junit", report)
    assert "\x1b" not in result.stdout
    ElementTree.parse(report)


def test_an_expected_name_may_hold_spaces_and_bytes(tmp_path: Path) -> None:
    """As the command line gives it."""
    with serving(peers.prefixing(b"a b", b"caf\xc3\xa9")) as port:
        words = [f"127.0.0.1:{port}", "--expect", "a b=1,caf\N{LATIN SMALL LETTER E WITH ACUTE}=1"]
        assert probe(tmp_path, *words, "-n", 40, "--detect", 45).returncode == 0


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (peers.saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "wrong reply"),
        (peers.saying(b"SSH-2.0-OpenSSH\r\n", first=True), "wrong reply"),
        (peers.saying(b"\x15\x03\x01\x00\x02\x02\x46"), "closed"),
        (peers.saying(b""), "closed"),
        (peers.endless, "wrong reply"),
        (peers.mixing_up, "wrong reply"),
        (peers.silent, "timeout"),
        (peers.dripping, "timeout"),
        (peers.resetting, "reset"),
    ],
)
def test_what_is_no_reply_has_its_own_kind(
    tmp_path: Path, behaviour: peers.Behaviour, kind: str
) -> None:
    """A clear line, status 3, and an end."""
    timeout = 0.5 if kind == "timeout" else PATIENCE
    with serving(behaviour) as port:
        words = (f"127.0.0.1:{port}", "--expect", "one=1", "--timeout", timeout)
        status, found = document(tmp_path, *words)
        assert (status, list(found["failures"])) == (3, [kind])
        result = probe(tmp_path, *words)
    assert f"failed: {kind} " in result.stdout
    assert re.search(r"^too many errors: .* 0 may \(--max-errors\)$", result.stdout, re.MULTILINE)
    assert result.stdout.isprintable() or all(c.isprintable() or c == "\n" for c in result.stdout)


def test_a_port_where_nobody_listens_is_refused(tmp_path: Path) -> None:
    """So is an unknown name; both end at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        _, found = document(tmp_path, f"127.0.0.1:{free.getsockname()[1]}", "-n", 100)
    assert list(found["failures"]) == ["refused"]
    status, found = document(tmp_path, "no-such-name.invalid:9000")
    assert (status, list(found["failures"])) == (3, ["name not found"])


def test_failures_are_counted_apart_and_never_dropped(tmp_path: Path) -> None:
    """One of ten is reset: allowed ones do not touch the split, others are the verdict."""

    with serving(peers.answering(lambda sample: sample % 10 > 0)) as port:
        target = f"127.0.0.1:{port}"
        status, found = document(tmp_path, target, "--expect", "one=1", "--max-errors", 50)
        assert (status, seen(found), found["judged"]) == (0, {"one": 59}, 65)
        assert found["failures"] == {"reset": 6}
        status, found = document(tmp_path, target, "--expect", "one=1", "--max-errors", 2)
        assert status == 3
        status, found = document(tmp_path, target, "-n", 1000)
        assert status == 3
        assert found["failures"]["reset"] < 40  # it has given up early
        status, found = document(tmp_path, target, "--expect", "one=90,error=10")
        assert status == 0
        assert found["failures"]["reset"] == pytest.approx(found["judged"] / 10, abs=2)


def test_this_sides_errors_stop_the_run(tmp_path: Path, split: str) -> None:
    """No descriptor, no local port, or a foreign source address: not failures of the target."""
    words = ["probe", split, "-n", "500", "--concurrency", "50"]
    result = call(tmp_path, with_open_files(12, *words, by=unmeasured))
    assert (result.returncode, result.stderr) == (3, "")
    assert "stopped: no free file descriptor (Too many open files)" in result.stdout
    assert "failed:" not in result.stdout
    result = probe(tmp_path, split, "--source", "192.0.2.1", "--quiet")
    assert result.returncode == 3
    assert result.stderr.startswith("echod: error: no free local port, or not an address of this")
    # An address of the other family is this side's mistake, whatever share errors have.
    result = probe(tmp_path, split, "--source", "::1", "--expect", "one=9,error=1")
    assert result.returncode == 3
    assert "stopped: cannot connect from ::1" in result.stdout


@pytest.mark.parametrize("words", [("--resolve", "each"), ("--hold", "50")])
def test_descriptors_that_run_out_in_a_look_up_stop_the_run(
    tmp_path: Path, split: str, words: tuple[str, ...]
) -> None:
    """The resolver then fails in its own way; the probe does not wait for an ended thread."""
    target = split.replace("127.0.0.1", "localhost")
    all_words = ["probe", target, *words]
    if words[0] != "--hold":
        all_words += ["--concurrency", "50", "-n", "500"]
    result = call(tmp_path, with_open_files(14, *all_words, by=unmeasured))
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    # Without a descriptor the resolver says now this, now that (EMFILE, EBUSY).
    assert re.search(r"no free file descriptor|this host failed", result.stdout + result.stderr)


@pytest.mark.parametrize("words", [("-n", "5000", "--concurrency", "1000"), ("--hold", "1000")])
def test_threads_that_this_host_has_no_room_for_stop_the_run(
    tmp_path: Path, split: str, words: tuple[str, ...]
) -> None:
    """One line, status 3."""
    script = 'ulimit -v 150000; exec "$0" "$@"'
    result = call(tmp_path, ["/bin/sh", "-c", script, *command("probe", split, *words)])
    assert (result.returncode, result.stdout) == (3, "")
    assert re.fullmatch(r"echod: error: cannot start thread \d+ of 1000: .+\n", result.stderr)


@pytest.mark.skipif(
    OWN_ALLOCATOR, reason="optional: without a GIL each thread reserves address space for its heap"
)
def test_a_thousand_threads_need_little_address_space(tmp_path: Path, split: str) -> None:
    """Small stacks, and one heap for all: by default they reserve more than 8 GiB."""
    script = 'ulimit -v 600000; exec "$0" "$@"'
    words = command("probe", split, "-n", "1000", "--concurrency", "1000", "--timeout", "60")
    result = call(tmp_path, ["/bin/sh", "-c", script, *words])
    assert (result.returncode, result.stderr) == (0, "")


def test_it_connects_from_where_it_is_told(tmp_path: Path) -> None:
    """Over the requested address family, too."""
    sources = []

    def behave(connection: socket.socket, number: int) -> None:
        sources.append(connection.getpeername()[0])
        peers.prefixing(b"one")(connection, number)

    with serving(behave) as port:
        for words in (["--source", "127.0.0.9", "-4"], ["--resolve", "each", "-4"]):
            assert probe(tmp_path, f"localhost:{port}", "-n", 5, *words).returncode == 0
        assert sources == ["127.0.0.9"] * 5 + ["127.0.0.1"] * 5
        words = ["--source", "127.0.0.0/30", "--source", "127.0.0.9", "--json"]
        found = json.loads(probe(tmp_path, f"127.0.0.1:{port}", "-n", 9, *words).stdout)
        assert sorted(sources[10:]) == [f"127.0.0.{one}" for one in (1, 1, 1, 2, 2, 2, 9, 9, 9)]
        assert found["sources"] == 3
        status, found = document(tmp_path, f"[::1]:{port}")
        assert (status, list(found["failures"])) == (3, ["refused"])
        result = probe(tmp_path, f"127.0.0.1:{port}", "-6", "--expect", "one=1,error=9")
        assert (result.returncode, "stopped: " in result.stdout) == (3, True)


def test_an_address_of_a_name_that_fails_is_seen(tmp_path: Path) -> None:
    """With each sample to the next address in turn; a name that is looked up once takes one."""
    with serving(peers.prefixing(b"one")) as port:
        words = ["probe", f"two.example:{port}", "--expect", "one=1", "--max-errors", "100"]
        words = two_addresses(*words)
        result = call(tmp_path, [*words, "--resolve", "each", "--json"])
        found = json.loads(result.stdout)
        assert (result.returncode, found["addresses"], found["address"]) == (0, 2, None)
        by_address = found["independence"]["by_address"]["addresses"]
        assert by_address["127.0.0.1"] == {"one": 59}
        assert by_address["127.0.0.2"]["error"] == pytest.approx(59, abs=1)
        said = call(tmp_path, [*words, "--resolve", "each"]).stdout
        assert re.search(r"^failed by address: 127\.0\.0\.2 \d+$", said, re.MULTILINE)
        assert "of those that answered" in said
        found = json.loads(call(tmp_path, [*words, "--json"]).stdout)
        assert (found["exit_status"], found["addresses"], found["address"]) == (0, 2, "127.0.0.1")
        assert found["failures"] == {}
        said = call(tmp_path, words).stdout
        assert "the name has 2 addresses: 127.0.0.1 was taken\n" in said


def test_a_failure_says_its_address_if_the_name_has_several(tmp_path: Path) -> None:
    """Also the first, which ends the run; and all of them, where none answers."""
    call_it = two_addresses("probe")
    with serving(peers.prefixing(b"one")) as port:
        words = [*call_it, f"two.example:{port}", "--expect", "one=1", "--resolve", "each"]
        said = call(tmp_path, words).stdout
        assert "failed: refused 1 (127.0.0.2: connection refused)\n" in said
        assert "failed by address: 127.0.0.2 1\n" in said
        found = json.loads(call(tmp_path, [*words, "--json"]).stdout)
        assert found["first_failures"] == {"refused": "127.0.0.2: connection refused"}
        assert found["independence"]["by_address"] == {
            "addresses": {"127.0.0.2": {"error": 1}},
            "homogeneity": None,
        }
    said = call(tmp_path, [*call_it, f"two.example:{port}", "--expect", "one=1"]).stdout
    assert "refused 1 (connection refused at 127.0.0.1, the last of 2 addresses)\n" in said
    said = call(tmp_path, [*call_it, f"127.0.0.1:{port}", "--expect", "one=1"]).stdout
    assert "failed: refused 1 (connection refused)\n" in said
    assert "by address" not in said


def test_a_black_hole_is_found_as_soon_as_that_is_sure(tmp_path: Path) -> None:
    """If failures have a share. A terminal shows the connections in progress."""
    with serving(peers.silent) as port:
        words = (f"127.0.0.1:{port}", "--expect", "one=80,error=20", "--timeout", "2")
        status, found = document(tmp_path, *words)
        assert (status, found["stopped_at"], found["failures"]) == (1, 7, {"timeout": 7})
        master, slave = os.openpty()
        environment = clean_environment(TERM="vt100")
        run = subprocess.Popen(
            command("probe", *words), stdout=slave, stderr=slave, cwd=tmp_path, env=environment
        )
        os.close(slave)
        shown = b""
        with open(master, "rb", buffering=0) as stream:
            while piece := _read(stream.fileno()):
                shown += piece
        assert run.wait(PATIENCE) == 1
    assert b" in 1 s, 10 under way" in shown


def test_rate_and_duration_are_kept(tmp_path: Path, split: str) -> None:
    """However fast the target would be."""
    begin = time.monotonic()
    _, found = document(tmp_path, split, "--rate", 2.5, "-n", 4)
    assert time.monotonic() - begin >= 3 / 2.5
    assert found["connections"] == 4
    _, found = document(tmp_path, split, "--rate", 5, "--duration", 0.9)
    assert found["connections"] <= 5


def test_time_ends_a_run_that_has_no_number(tmp_path: Path, clock: Clock) -> None:
    """Not before it is over."""
    counted = []

    def behave(connection: socket.socket, number: int) -> None:
        counted.append(number)
        peers.prefixing(b"one")(connection, number)

    with serving(behave) as port:
        run = running(
            tmp_path, f"127.0.0.1:{port}", "--duration", 1000, "--timeout", NEVER, by=clock.command
        )
        until(lambda: len(counted) > 100)
        clock.move(1000)
        output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0
    assert re.match(r"[\d,]+ connections to .* in 1\d\d\d\.\d s", output)


def test_many_connections_take_little_memory(tmp_path: Path, start: Start) -> None:
    """5,000 samples in as much as 200, but for what an interpreter wavers."""
    target = f"127.0.0.1:{start().port}"
    script = (
        "import re, sys; from echod.cli import run; run(sys.argv[1:], {});"
        "print(*re.findall(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read()))"
    )
    sizes = []
    for n in ("200", "5000"):
        words = [sys.executable, "-c", script, "probe", target, "-n", n, "--quiet"]
        sizes.append(int(call(tmp_path, words).stdout))
    assert sizes[1] < sizes[0] + 4096  # KiB


def test_the_servers_own_counts_are_compared(tmp_path: Path, start: Start) -> None:
    """They match, unless another client has used the server meanwhile."""
    one = start("--service-version", "v1")
    url = f"http://127.0.0.1:{one.metrics_port}/metrics"
    words = (f"127.0.0.1:{one.port}", "--expect", "one=1", "--metrics", url)
    result = probe(tmp_path, *words)
    assert result.returncode == 0
    assert result.stdout.startswith("59 connections to ")
    (counted,) = re.findall(
        r"servers counted (\d+) \(v1 \1\) requests on \1 connections, \1 were answered here: match",
        result.stdout,
    )
    assert int(counted) >= 59  # those too that were under way at the verdict
    two = start(prefix="two")
    wrong = f"http://127.0.0.1:{two.metrics_port}/metrics"
    status, found = document(tmp_path, *words[:-1], wrong)
    assert (status, found["servers"]["match"]) == (1, False)
    result = probe(tmp_path, *words[:-1], wrong)
    assert "does not hold: the servers' counts differ" in result.stdout
    assert "DO NOT MATCH" in result.stdout


def test_checks_amid_a_run_are_none_of_the_servers_connections(
    tmp_path: Path, start: Start
) -> None:
    """Nor those before it: a load balancer connects and goes, and sends nothing."""
    one = start("--service-version", "v1")
    url = f"http://127.0.0.1:{one.metrics_port}/metrics"

    def check(times: int, unused: int) -> None:
        for _ in range(times):
            connect(one.port).close()
        closed = "echod_connections_closed_total"
        until(lambda: one.metrics()(closed, reason="unused") == unused)

    check(7, 7)
    run = running(
        tmp_path, f"127.0.0.1:{one.port}", "-n", 60, "--rate", 20, "--metrics", url, "--json"
    )
    until(lambda: one.metrics()("echod_requests_total") > 5)
    check(9, 16)
    output, _ = run.communicate(timeout=PATIENCE)
    assert one.metrics()("echod_connections_opened_total") == 60 + 16
    found = json.loads(output)["servers"]
    assert found == {"match": True, "requests": 60, "connections": 60}


def test_metrics_that_cannot_be_read_stop_the_run(tmp_path: Path, start: Start) -> None:
    """With the address and the reason: before a connection is made."""
    one = start()
    target = f"127.0.0.1:{one.port}"
    result = probe(tmp_path, target, "--metrics", f"http://127.0.0.1:{one.port}/metrics")
    assert result.returncode == 3
    assert result.stderr.count("\n") == 1
    assert "cannot be read" in result.stderr
    result = probe(tmp_path, target, "--metrics", f"http://127.0.0.1:{one.metrics_port}/livez")
    assert "is not in Prometheus' text format" in result.stderr
    for value in (b"+Inf", b"NaN", b"1e400"):
        page = b"HTTP/1.0 200 OK\r\n\r\nechod_requests_total " + value + b"\n"
        with serving(peers.saying(page)) as port:
            result = probe(tmp_path, target, "--metrics", f"http://127.0.0.1:{port}/")
        assert "is not in Prometheus' text format" in result.stderr
    result = probe(tmp_path, target, "--metrics", "http://a..b/")
    assert "http://a..b/: cannot be read" in result.stderr
    with serving(peers.saying(b"HTTP/1.0 200 OK\r\n\r\nup 1\n")) as port:
        result = probe(tmp_path, target, "--metrics", f"http://127.0.0.1:{port}/")
    assert "has no echod_requests_total: is it an echod's?" in result.stderr
    assert one.metrics()("echod_connections_opened_total") == 1


@pytest.mark.parametrize("quiet", [False, True])
def test_waiting_ends_when_the_split_holds(tmp_path: Path, *, quiet: bool) -> None:
    """What came before the new weights does not count."""
    old = 1000

    def behave(connection: socket.socket, number: int) -> None:
        prefixes = (b"one", b"two") if number > old else (b"one",)
        peers.prefixing(*prefixes)(connection, number)

    with serving(behave) as port:
        words = (f"127.0.0.1:{port}", "--expect", "one=1,two=1", "--tolerance", 10, "--wait", NEVER)
        result = probe(tmp_path, *words, *["--quiet"] * quiet)
    assert result.returncode == 0
    if quiet:
        assert result.stdout == ""
        return
    assert re.match(r"[\d,]+ connections to .*, the last [\d,]+ judged\n", result.stdout)
    assert "holds: every share is within 10 points of one=50,two=50" in result.stdout


def test_waiting_ends_when_time_is_over(tmp_path: Path) -> None:
    """With what the last quarter of it came to; a slow machine needs more of it to be sure."""
    with serving(peers.prefixing(b"one")) as port:
        for seconds in (2, 8, 32):
            words = ("--expect", "one=1,two=1", "--tolerance", 10, "--wait", seconds)
            status, found = document(tmp_path, f"127.0.0.1:{port}", *words)
            if found["verdict"] != "inconclusive":
                break
    assert (status, found["verdict"]) == (1, "does not hold")
    assert found["stopped_at"] is None
    assert found["judged"] < found["connections"]


def test_waiting_for_nobody_does_not_hammer(tmp_path: Path) -> None:
    """Each of ten concurrent connections fails, and is retried a tenth of a second later."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        words = ("--expect", "one=1", "--tolerance", 10, "--wait", 1)
        status, found = document(tmp_path, f"127.0.0.1:{free.getsockname()[1]}", *words)
    assert (status, list(found["failures"])) == (3, ["refused"])
    assert found["connections"] <= 110


def running(
    directory: Path, *words: object, by: Callable[..., list[str]] = command
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        by("probe", *map(str, words)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=clean_environment(),
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_gives_its_verdict_marked_as_such(
    tmp_path: Path, number: signal.Signals
) -> None:
    """What was sampled is judged. Signals that come again until it has ended change nothing."""
    counted = []

    def behave(connection: socket.socket, number: int) -> None:
        counted.append(number)
        peers.prefixing(b"one")(connection, number)

    with serving(behave) as port:
        # Python 3.11 hangs if it is traced: a thread that resumes a generator waits for a pending
        # signal to be handled, by a main thread that waits for a lock of that thread.
        words = (f"127.0.0.1:{port}", "--detect", 0.01, "--expect", "one=1")
        run = running(tmp_path, *words, by=unmeasured)
        until(lambda: len(counted) > 300)
        repeat(run, number)
        output, errors = run.communicate(timeout=PATIENCE)
    assert (run.returncode, errors) == (4, "")
    assert re.search(r"^inconclusive \(interrupted\): \d+", output, re.MULTILINE)


def test_an_interrupted_wait_ends(tmp_path: Path) -> None:
    """With the verdict on what it has seen last."""
    counted = []

    def behave(connection: socket.socket, number: int) -> None:
        counted.append(number)
        peers.prefixing(b"one")(connection, number)

    with serving(behave) as port:
        words = ("--expect", "one=1,two=1", "--tolerance", 10, "--wait", 300)
        run = running(tmp_path, f"127.0.0.1:{port}", *words)
        until(lambda: len(counted) > 2000)  # its last quarter has to hold enough
        run.send_signal(signal.SIGINT)
        output, errors = run.communicate(timeout=PATIENCE)
    assert (run.returncode, errors) == (1, "")
    assert "does not hold (interrupted): one has 100.0 %" in output


def test_held_connections_show_where_they_stay_and_when_they_are_cut(
    tmp_path: Path, start: Start, clock: Clock
) -> None:
    """One line for the whole when it changes, one for each that ends."""
    one = start("--max-connection-age", "1000", "--idle-timeout", "none", command=clock.command)
    run = running(tmp_path, f"127.0.0.1:{one.port}", "--hold", 3, "--timeout", NEVER)
    assert run.stdout
    until(
        lambda: re.fullmatch(r" +\d+\.\d s  one 3\n", run.stdout.readline() if run.stdout else "")
    )
    clock.move(1200)
    output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 3
    assert len(re.findall(r"connection \d \(one\) ended after", output)) == 3
    assert output.splitlines()[-1] == (
        "0 of 3 connections were open at the end, 3 ended or never answered,"
        " 0 changed their version"
    )


def test_held_connections_can_be_let_go(tmp_path: Path, split: str, clock: Clock) -> None:
    """By time, by a signal; none of them was cut."""
    words = (split, "--hold", 5, "--timeout", NEVER)
    run = running(tmp_path, *words, "--duration", 1000, by=clock.command)
    assert run.stdout
    until(lambda: "one 4, two 1\n" in (run.stdout.readline() if run.stdout else ""))
    clock.move(1000)
    output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0
    (alone,) = re.findall(r"^two: connections (\d)$", output, re.MULTILINE)
    others = [number for number in range(1, 6) if number != int(alone)]
    (listed,) = re.findall(r"^one: connections ([\d, -]+)$", output, re.MULTILINE)
    spans = [part.split("-") for part in listed.split(", ")]
    assert others == [n for span in spans for n in range(int(span[0]), int(span[-1]) + 1)]
    assert "5 of 5 connections were open at the end, 0 ended" in output
    run = running(tmp_path, split, "--hold", 5)
    assert run.stdout
    until(lambda: "one 4, two 1\n" in (run.stdout.readline() if run.stdout else ""))
    run.send_signal(signal.SIGTERM)
    output, _ = run.communicate(timeout=PATIENCE)
    assert (run.returncode, output.count("ended after")) == (0, 0)
    assert probe(tmp_path, split, "--hold", 2, "--duration", 0.1, "--quiet").stdout == ""


def test_a_version_that_changes_on_an_open_connection_is_seen(tmp_path: Path) -> None:
    """It must not happen, and --hold reports it."""

    def behave(connection: socket.socket, _number: int) -> None:
        for prefix in (b"one", b"two"):
            connection.sendall(prefix + b" " + peers.line_of(connection))
        peers.line_of(connection)

    with serving(behave) as port:
        result = probe(tmp_path, f"127.0.0.1:{port}", "--hold", 1)
    assert "connection 1 (two) ended after" in result.stdout
    assert "1 ended or never answered, 1 changed their version" in result.stdout


@pytest.mark.parametrize(
    ("end", "detail"),
    [
        (socket.socket.close, "closed: by the server, with no reply pending"),
        (reset, "reset: connection reset"),
        (peers.line_of, "closed: closed before a reply"),
    ],
    ids=["graceful", "reset", "with a reply pending"],
)
def test_holding_says_how_a_connection_ended(
    tmp_path: Path, end: Callable[[socket.socket], object], detail: str
) -> None:
    """A server that drains ends a connection between two lines; one that fails leaves one open."""

    def behave(connection: socket.socket, _number: int) -> None:
        connection.sendall(b"one " + peers.line_of(connection))
        end(connection)

    with serving(behave) as port:
        result = probe(tmp_path, f"127.0.0.1:{port}", "--hold", 1)
    assert result.returncode == 3
    (found,) = re.findall(r"connection 1 \(one\) ended after \d+\.\d s: (.*)", result.stdout)
    assert found == detail


def test_holding_ends_where_this_side_fails(tmp_path: Path, split: str) -> None:
    """Status 3 and one line."""
    result = probe(tmp_path, split, "--hold", 2, "--source", "192.0.2.1")
    assert (result.returncode, result.stderr.count("\n")) == (3, 1)


def test_held_connections_to_nobody_end_at_once(tmp_path: Path) -> None:
    """Each with its reason."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        result = probe(tmp_path, f"127.0.0.1:{free.getsockname()[1]}", "--hold", 2)
    assert result.returncode == 3
    assert result.stdout.count("refused: connection refused") == 2


def test_junit_has_a_case_a_version_and_one_for_the_verdict(tmp_path: Path, split: str) -> None:
    """Failures carry their reason; the whole report stands below."""
    report = tmp_path / "report.xml"
    words = (split, "--expect", "one=60,two=40", "--junit", report)
    assert probe(tmp_path, *words).returncode == 1
    suite = ElementTree.parse(report).getroot()[0]
    cases = {case.get("name"): case.find("failure") for case in suite.iter("testcase")}
    assert list(cases) == ["share of one", "share of two", "errors", "verdict"]
    assert cases["errors"] is None
    assert suite.get("failures") == "3"
    output = suite.find("system-out")
    assert output is not None
    assert "does not hold" in (output.text or "")
    assert probe(tmp_path, split, "--expect", "one=80,two=20", "--junit", report).returncode == 0
    assert ElementTree.parse(report).getroot().get("failures") == "0"


def test_what_was_sampled_is_said_though_something_fails_at_the_end(
    tmp_path: Path, split: str, start: Start
) -> None:
    """Metrics that are gone, a report that cannot be written: the result is there, the status 3."""
    one, counted, gone = start(), [], threading.Event()

    def behave(connection: socket.socket, number: int) -> None:
        counted.append(number)
        if number:
            gone.wait(PATIENCE)
        peers.prefixing(b"one")(connection, number)

    url = f"http://127.0.0.1:{one.metrics_port}/metrics"
    with serving(behave) as port:
        words = ("-n", 300, "--timeout", NEVER, "--metrics", url, "--json")
        run = running(tmp_path, f"127.0.0.1:{port}", *words)
        until(lambda: counted)
        one.stop()
        gone.set()
        output, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode == 3
    found = json.loads(output)
    assert found["connections"] == 300
    assert "cannot be read" in found["stopped"]
    assert errors.count("\n") == 1
    result = probe(tmp_path, split, "-n", 5, "--json", "--junit", "/dev/full")
    assert (result.returncode, json.loads(result.stdout)["connections"]) == (3, 5)
    assert result.stderr.endswith(
        "--junit '/dev/full': cannot be written: No space left on device\n"
    )


def test_an_interrupted_run_is_not_held_against_the_servers(tmp_path: Path, start: Start) -> None:
    """They may have counted requests in flight. Without an expectation it is no success."""
    one = start()
    words = ["--duration", "60", "--metrics", f"http://127.0.0.1:{one.metrics_port}/metrics"]
    run = running(tmp_path, f"127.0.0.1:{one.port}", *words)
    until(lambda: one.metrics()("echod_requests_total") > 500)
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 4
    assert "answered here: match" in output
    assert "no expectation to judge by (interrupted)" in output


def test_held_connections_to_a_silent_server_can_be_interrupted(tmp_path: Path) -> None:
    """However long they would wait for an answer; those that never came count as failures."""
    asked = []

    def behave(connection: socket.socket, number: int) -> None:
        asked.append(number)
        peers.silent(connection, number)

    with serving(behave) as port:
        run = running(tmp_path, f"127.0.0.1:{port}", "--hold", 3, "--timeout", 3600)
        until(lambda: len(asked) == 3)
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 3
    assert "0 of 3 connections were open at the end, 3 ended or never answered" in output


@pytest.mark.parametrize("words", [(), ("--json",), ("--plan",), ("--hold", 1, "--duration", "2")])
def test_output_that_cannot_be_written_is_an_error(
    tmp_path: Path, split: str, words: tuple[object, ...]
) -> None:
    """In one line, with status 3; a report in a file is there. A reader that has left is none."""
    target = [] if "--plan" in words else [split]
    expect = [] if "--hold" in words else ["--expect", "one=60,two=40"]
    report = ["--junit", "report.xml"] if words in ((), ("--json",)) else []
    ending, beginning = os.pipe()
    os.close(ending)
    with open("/dev/full", "wb") as full, os.fdopen(beginning, "wb") as closed:
        ends = [
            subprocess.run(
                command("probe", *map(str, (*target, *expect, *words, *report))),
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                timeout=PATIENCE,
                cwd=tmp_path,
                check=False,
            )
            for output in (full, closed)
        ]
    assert ends[0].returncode == 3
    assert ends[0].stderr == (
        "echod: error: cannot write to standard output: No space left on device\n"
    )
    assert (ends[1].returncode, ends[1].stderr) == (1 if report else 0, "")
    assert (tmp_path / "report.xml").exists() is bool(report)


def test_a_report_that_cannot_be_written_is_refused_before_any_connection(tmp_path: Path) -> None:
    """In one line that names it, with status 2 like other arguments."""
    seen: list[int] = []
    (tmp_path / "link").symlink_to("nowhere/report.xml")
    with serving(lambda _, number: seen.append(number)) as port:
        for path, reason in (
            (tmp_path / "no" / "report.xml", "No such file or directory"),
            (tmp_path, "Is a directory"),
            (tmp_path / "link", "No such file or directory"),
            ("a" * 300, "File name too long"),
        ):
            result = probe(tmp_path, f"127.0.0.1:{port}", "-n", 5, "--junit", path)
            assert (result.returncode, result.stdout) == (2, "")
            assert result.stderr.endswith(f": cannot be written: {reason}\n")
            assert result.stderr.count("\n") == 1
    assert seen == []


def test_a_file_for_a_report_is_there_only_once_the_report_is(tmp_path: Path) -> None:
    """An earlier report stays until then, too; a FIFO's reader waits for it, or comes later."""
    new, old, fifo, link = (tmp_path / name for name in ("new", "old", "fifo", "link"))
    old.write_text("before")
    link.symlink_to("new")
    os.mkfifo(fifo)
    for path in (new, old, fifo, link):
        check_writable("--junit", str(path))
    assert (new.exists(), old.read_text()) == (False, "before")
    with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        check_writable("--junit", str(fifo))
        waiting = select.poll()
        waiting.register(reader)
        assert waiting.poll(0) == []  # a writer that has left would be POLLHUP


def test_a_file_that_may_not_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As root may write any, it is the answer of the system that counts."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match=r"cannot be written: Permission denied$"):
        check_writable("--junit", __file__)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["localhost"], "HOST:PORT 'localhost': must be a name or an address and a port"),
        (["::1:9000"], "HOST:PORT '::1:9000': must be a name or an address and a port"),
        (["x:0"], "HOST:PORT 'x:0': must have a port from 1 to 65535"),
        (["x:0655359"], "HOST:PORT 'x:0655359': must have a port"),
        (["x:1", "--junit", ""], "--junit '': must be the name of a file"),
        (["x:1", "--expect", "a=1e-310,b=1"], "must be 0 or at least a millionth of all"),
        (["x:1", "--alpha", "1e-10"], "--alpha '1e-10': must be a number from 0.000000001 to 0.5"),
        (["x:99999"], "HOST:PORT 'x:99999': must have a port"),
        (["--expect", "one=1"], "HOST:PORT is missing"),
        (["x:1", "-n", "0"], "-n '0': must be a whole number from 1"),
        (["x:1", "--rate", "-1"], "--rate"),
        (["x:1", "--rate", "0"], "--rate '0': must be a number of connections a second from"),
        (["x:1", "--timeout", "0"], "--timeout '0': must be a number of seconds over 0"),
        (["x:1", "--source", "here"], "--source 'here': must be an IPv4 or IPv6 address"),
        (["x:1", *["--source", "10.0.0.0/20"] * 2], "--source: must be 4,096 addresses at most"),
        (["x:1", "--alpha", "0.6"], "--alpha '0.6': must be a number from 0.000000001 to 0.5"),
        (["x:1", "--detect", "5"], "--detect: must be given together with --expect"),
        (["x:1", "--wait", "5", "--expect", "a=1"], "--wait: must be given together with"),
        (["x:1", "--plan", "--expect", "a=1"], "--plan: must be given without HOST:PORT"),
        (
            ["x:1", "--expect", "a=1,b=1", "--detect", "60"],
            "--detect 60: must be 50.0 % at most here",
        ),
        (
            ["x:1", "--expect", "a=1,error=1", "--max-errors", "1"],
            "--max-errors: must be given without a share for errors",
        ),
        (
            ["x:1", "--expect", "a=1", "--tolerance", "3", "--detect", "3"],
            "--tolerance: must be given without --detect",
        ),
        (["x:1", "--hold", "3", "-n", "5"], "--hold: must be given without -n"),
        (["x:1", "--metrics", "here"], "--metrics 'here': must be a URL"),
        (["x:1", "--metrics", "http://[x"], "--metrics 'http://[x': must be a URL"),
        (["x:1", "--metrics", "http://a", "--metrics", "http://a"], "must be given once"),
        (["x:1", "-4", "-6"], "not allowed with"),
        (["x:1", "--bogus"], "--bogus"),
        (["x:1", "--expect", "a"], "--expect 'a': must be NAME=SHARE"),
        (["--plan", "--expect", "a=1,b=1", "--detect", "0.001"], "10,000,000 connections"),
        (
            ["x:1", "--expect", "a=1,b=1", "--tolerance", "0.001", "--wait", "5"],
            "10,000,000 connections",
        ),
    ],
)
def test_a_wrong_call_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    """It names the thing, the value and what is allowed; status 2."""
    result = probe(tmp_path, *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_help_says_what_each_exit_status_means(tmp_path: Path) -> None:
    """Without an argument the usage is on the error output."""
    text = probe(tmp_path, "--help").stdout
    for number in range(5):
        assert re.search(rf"\b{number} \w", text.partition("exit status:")[2])
    result = probe(tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: echod probe HOST:PORT")


def test_help_needs_no_heavy_import(tmp_path: Path) -> None:
    """The probe imports neither the daemon nor another library."""
    script = (
        "import sys; from echod.cli import run\n"
        "try: run(['probe', '--help'], {})\n"
        "except SystemExit: pass\n"
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    result = call(tmp_path, [sys.executable, "-c", script])
    loaded = set(re.findall(r"'([\w.]+)'", result.stderr))
    assert "echod.probe.arguments" in loaded
    assert not loaded & {"prometheus_client", "structlog", "http.client", "echod.process.daemon"}
    assert "echod.probe.command" not in loaded


def test_the_probe_needs_nothing_of_the_daemon(tmp_path: Path) -> None:
    """Shared modules apart."""
    script = "import sys, echod.probe.command; print(sorted(sys.modules))"
    result = call(tmp_path, [sys.executable, "-c", script])
    loaded = set(re.findall(r"'(echod\.[\w.]+)'", result.stdout))
    assert {name for name in loaded if not name.startswith("echod.probe")} <= {
        "echod.config",
        "echod.config.options",
        "echod.config.parsers",
        "echod.errors",
        "echod.loop",
        "echod.loop.threads",
        "echod.texts",
    }


def test_a_terminal_sees_progress(tmp_path: Path, split: str) -> None:
    """A line that is written over, on the error output, and gone at the end; in no color."""
    shown, output = progress(tmp_path, split, "vt100")
    assert re.search(r"\r\d+ of 60 at most in \d+ s, one \d+.\d %", shown)
    screen = ""
    for line in shown.split("\r"):
        screen = line + screen[len(line) :]
    assert screen.strip() == ""
    assert shown.endswith(" \r")
    assert "\x1b" not in shown + output


def test_a_dumb_terminal_sees_no_progress(tmp_path: Path, split: str) -> None:
    """It can perhaps not write over a line."""
    assert progress(tmp_path, split, "dumb")[0] == ""


def progress(directory: Path, split: str, terminal: str) -> tuple[str, str]:
    """What a probe writes to a terminal on its error output, and to its standard output."""
    master, slave = os.openpty()
    run = subprocess.Popen(
        command("probe", split, "-n", "60", "--rate", "100"),
        stdout=subprocess.PIPE,
        stderr=slave,
        cwd=directory,
        env=clean_environment(TERM=terminal),
    )
    os.close(slave)
    output, _ = run.communicate(timeout=PATIENCE)
    shown = b""
    with open(master, "rb", buffering=0) as stream:
        while piece := _read(stream.fileno()):
            shown += piece
    assert run.returncode == 0
    return shown.decode(), output.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""


def test_open_files_fit_the_concurrency(tmp_path: Path, split: str) -> None:
    """The soft limit is raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard > 64
    script = 'ulimit -S -n 40; exec "$0" "$@"'
    words = command("probe", split, "-n", "200", "--concurrency", "60")
    assert call(tmp_path, ["/bin/sh", "-c", script, *words]).returncode == 0
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_the_readme_of_the_probe_is_there() -> None:
    """It has the exit statuses that the program has."""
    page = (ROOT / "docs/probe.md").read_text()
    for number in range(5):
        assert re.search(rf"^\| {number} \|", page, re.MULTILINE)
