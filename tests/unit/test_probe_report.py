from __future__ import annotations

import errno
import json
import socket
from collections import Counter
from dataclasses import replace
from time import monotonic
from xml.etree import ElementTree

import pytest

from echod.errors import SystemRefused
from echod.probe.command import Look, decide
from echod.probe.expectation import parse
from echod.probe.formats import as_json, as_junit
from echod.probe.report import Result, printable, text
from echod.probe.servers import Counts
from echod.probe.tally import Outcome, Tally
from echod.probe.target import Failed, Target, failure
from echod.probe.verdict import Rules, Status, judge


def result(expect: str, failures: int = 0, tolerance: float | None = None, **seen: int) -> Result:
    tally = Tally()
    tally.versions.update(seen)
    for _ in range(failures):
        tally.add(Outcome(None, "reset", "by \x00 peer"))
    rules = Rules(
        expectation=parse([expect]) if expect else None,
        alpha=0.001,
        detect=0.05,
        tolerance=tolerance,
        max_errors=0,
    )
    return Result(
        target="x:1",
        rules=rules,
        tally=tally,
        judgement=judge(tally, rules),
        seconds=1.0,
        needed=1712,
    )


def last_lines(one: Result) -> str:
    return text(one).partition("verdict")[2]


def test_what_must_not_be_there_is_named() -> None:
    """With how often it was."""
    said = last_lines(result("one=1,two=0", one=100, two=2, three=1))
    assert "; two is forbidden, and was seen 2 times; three is unexpected" in said


def test_a_tolerance_that_is_not_shown_says_what_it_takes() -> None:
    """The shares are close, the connections too few."""
    said = last_lines(result("one=80,two=20", tolerance=0.03, one=80, two=20))
    assert "inconclusive: not every share is shown to be within 3 points of one=80,two=20" in said
    assert "but it takes 1,712 to say more" in said


def test_failures_with_a_share_stand_in_the_expectation() -> None:
    """As the last of its names."""
    said = text(result("one=90,error=10", failures=150, one=1350))
    assert "holds: 1,500 connections do not contradict one=90,error=10" in said
    assert r"failed: reset 150 (by \x00 peer)" in said


def test_failures_are_said_without_an_expectation() -> None:
    """There is nothing else to judge."""
    said = text(result("", failures=3, one=7))
    assert said.endswith("too many errors: 3 of 10 connections failed, 0 may (--max-errors)\n")


def test_a_run_that_this_host_ended_says_why() -> None:
    """In place of a verdict."""
    stopped = Result(**(vars(result("one=1", one=5)) | {"refused": "no free file descriptor"}))
    assert stopped.status is Status.ERRORS
    assert text(stopped).endswith("stopped: no free file descriptor\n")
    assert json.loads(as_json(stopped))["stopped"] == "no free file descriptor"


@pytest.mark.parametrize(
    ("requests", "match"),
    [({"": 100}, True), ({"": 102}, True), ({"": 103}, False), ({"": 99}, False), ({}, False)],
)
def test_servers_may_have_answered_what_failed_here(requests: dict[str, int], match: bool) -> None:
    """But neither less than was answered, nor more than was asked."""
    counts = Counts(Counter(requests), 100)
    assert counts.match(100, 2) is match


def test_counters_that_fell_do_not_match() -> None:
    """A server that was restarted in between has lost its count."""
    before, after = Counts(Counter(v1=50, v2=10), 60), Counts(Counter(v1=5, v2=160), 165)
    assert not after.since(before).match(105, 0)


def test_a_check_that_was_open_before_makes_no_negative_number_of_connections() -> None:
    """It was one until it ended unused."""
    before, after = Counts(Counter(v1=50), 51), Counts(Counter(v1=50), 50)
    assert after.since(before) == Counts(Counter(v1=0), 0)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("one", "one"),
        ("", "(empty)"),
        ("a\x00\x1b[0m\n", r"a\x00\x1b[0m\n"),
        ("\udcff", r"\xff"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}", r"\u202e"),
        ("￾\U0001ffff", r"\ufffe\U0001ffff"),
        ("x" * 100, "x" * 60 + "..."),
    ],
)
def test_names_are_shown_so_that_they_harm_nobody(name: str, shown: str) -> None:
    """On one line, in any format, not too long."""
    assert printable(name) == shown
    one = result("one=1")
    one.tally.versions[name] = 1
    again = Result(**(vars(one) | {"judgement": judge(one.tally, one.rules)}))
    assert ElementTree.fromstring(as_junit(again)) is not None
    assert shown in {row["name"] for row in json.loads(as_json(again))["versions"]}


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ECONNREFUSED, "refused"),
        (errno.ECONNRESET, "reset"),
        (errno.EPIPE, "reset"),
        (errno.ETIMEDOUT, "timeout"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.ENETUNREACH, "unreachable"),
    ],
)
def test_the_targets_errors_have_kinds(number: int, kind: str) -> None:
    """Each is counted under its own."""
    made = failure(OSError(number, "what it was"))
    assert isinstance(made, Failed)
    assert made.kind == kind


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS])
def test_this_hosts_errors_end_the_run_and_have_no_kind(number: int) -> None:
    """They end the run."""
    assert isinstance(failure(OSError(number, "what it was")), SystemRefused)


def test_a_resolver_that_fails_on_this_host_is_not_a_missing_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without memory, say."""

    def fail(*_: object) -> None:
        raise socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(SystemRefused, match="Memory allocation failure"):
        Target("x", 1, 1.0).connect(0.0)


def test_a_name_that_cannot_be_one_is_not_found() -> None:
    """A label of over 63 characters."""
    with pytest.raises(Failed) as caught:
        Target("x" * 70, 1, 1.0).connect(0.0)
    assert caught.value.kind == "name not found"


def test_no_time_left_is_a_timeout() -> None:
    """Before a connection is begun."""
    with pytest.raises(Failed) as caught:
        Target("127.0.0.1", 1, 1.0).connect(0.0)
    assert caught.value.kind == "timeout"


def test_the_next_address_of_a_name_is_tried_and_kept() -> None:
    """As nc does for a name with an address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        addresses = [(socket.AF_INET, one.getsockname()) for one in (free, server)]
        target = Target("x", 1, 5.0, known=list(addresses))
        target.connect(monotonic() + 5).close()
    assert target.known == addresses[1:]


def test_what_fails_on_this_host_outweighs_what_fails_at_the_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever address of a name it was: one without a free port here, one that is refused."""
    errors: list[Exception] = [SystemRefused("no free local port"), Failed("refused", "")]

    def fail(*_: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(Target, "_connect", fail)
    address = (socket.AF_INET, ("127.0.0.1", 1))
    with pytest.raises(SystemRefused, match="no free local port"):
        Target("x", 1, 5.0, known=[address, address]).connect(monotonic() + 5)


WRONG = result("one=1,two=1", tolerance=0.03, one=1600, two=400)
UNSURE = result("one=1,two=1", tolerance=0.03, one=20, two=20)
RIGHT = result("one=1,two=1", tolerance=0.03, one=40_000, two=40_000)


@pytest.mark.parametrize(
    ("look", "before", "last"),
    [
        (Look(RIGHT, 1712, 10.0, more=True), None, RIGHT),
        (Look(WRONG, 1712, 10.0, more=True), None, None),
        (Look(WRONG, 1712, 10.0, more=False), None, WRONG),
        (Look(WRONG, 1712, 0.0, more=True), UNSURE, WRONG),
        (Look(UNSURE, 1712, 0.0, more=True), None, UNSURE),
        (Look(UNSURE, 1712, 0.0, more=True), WRONG, WRONG),
        (Look(UNSURE, 40, 0.0, more=True), WRONG, UNSURE),
        (Look(UNSURE, 1712, 10.0, more=True), WRONG, None),
    ],
)
def test_a_wait_ends_with_a_split_that_holds_or_with_its_time(
    look: Look, before: Result | None, last: Result | None
) -> None:
    """A last look that was cut short says less than the one before."""
    assert decide(look, before) is last


def test_a_wait_ends_when_it_is_interrupted_or_refused() -> None:
    """Whatever there is still time for."""
    for ended in (replace(WRONG, interrupted=True), replace(UNSURE, refused="no more files")):
        assert decide(Look(ended, 1712, 10.0, more=True), WRONG) is ended
