"""The parts of a watch: its schedule, samples, file, health and log."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, until
from support.running import StandingClock
from support.splits import FAILED, outcome

from echod.errors import SystemRefused, UsageError
from echod.loop import threads
from echod.probe.expectation import Expectation, parse
from echod.probe.files import MOST_BYTES
from echod.probe.tally import Outcome
from echod.probe.target import Failed
from echod.probe.watch_options import at_a_time
from echod.watch import health, sampling
from echod.watch.following import Followed, from_text
from echod.watch.health import STALLED_SECONDS, Health
from echod.watch.sampling import MOST_WAITING, Sampling
from echod.watch.schedule import GRACE_SECONDS, Schedule
from echod.watch.troubles import Troubles


def begun(schedule: Schedule, now: float) -> int:
    """How many samples begin at this time."""
    number = 0
    while not schedule.wait_for(now):
        schedule.begin()
        number += 1
    return number


def test_samples_begin_at_their_rate() -> None:
    """One a second, from the start on; late by a little they all begin."""
    schedule = Schedule(1.0, 100.0)
    assert [begun(schedule, 100 + tenth / 10) for tenth in range(11)] == [1, *[0] * 9, 1]
    assert schedule.wait_for(101.25) == pytest.approx(0.75)
    assert begun(schedule, 102.9) == 1
    assert begun(schedule, 103.0) == 1
    fast = Schedule(1000.0, 0.0)
    assert sum(begun(fast, tick / 50) for tick in range(51)) == pytest.approx(1000, abs=2)
    assert fast.skipped == 0


@pytest.mark.parametrize("rate", [0.1, 1.0, 30.0, 1000.0])
def test_no_burst_follows_a_pause(rate: float) -> None:
    """After a suspension of the process, or a jump of the clock, missed samples are skipped."""
    schedule = Schedule(rate, 0.0)
    begun(schedule, 0.0)
    assert begun(schedule, 3600.0) <= 1 + rate * GRACE_SECONDS
    assert schedule.skipped == pytest.approx(3600 * rate, abs=2)
    assert begun(schedule, 3600.0 + 1 / rate) in (1, 2)


def test_as_many_at_a_time_as_keep_the_rate() -> None:
    """Where each takes all its time: at least ten, and no more than there may be."""
    assert at_a_time(1.0, 5.0, 1000) == 10
    assert at_a_time(20.0, 5.0, 1000) == 101
    assert at_a_time(1e6, 5.0, 1000) == 1000


class Scripted:
    """A target each of whose connections fails, when it may, as the script says."""

    timeout = PATIENCE

    def __init__(self, script: Callable[[int], Exception]) -> None:
        self.script = script
        self.chosen_again = 0
        self.renewed = 0
        self.problem: Exception | None = None

    def connect(self, number: int, _deadline: float) -> socket.socket:
        raise self.script(number)

    def choose_again(self) -> None:
        self.chosen_again += 1

    def renew(self) -> None:
        self.renewed += 1
        if self.problem:
            raise self.problem


def sampled(
    script: Callable[[int], Exception], *, rate: float = 1000.0, concurrency: int = 4
) -> tuple[Sampling, list[Outcome], Scripted]:
    taken: list[Outcome] = []
    target: Any = Scripted(script)
    made = Sampling(target, taken.append, lambda _: None, rate=rate, concurrency=concurrency)
    made.begin()
    return made, taken, target


def test_what_fails_on_this_host_is_a_failure_and_not_the_end() -> None:
    """No free port or descriptor now, and all of them an hour later."""
    made, taken, _ = sampled(lambda _: SystemRefused("no free file descriptor"))
    until(lambda: len(taken) >= 20)
    made.stop()
    assert {(one.failure, one.detail) for one in taken} == {
        ("this host", "no free file descriptor")
    }
    assert made.refused is None


def test_outcomes_are_taken_in_the_order_in_which_they_began() -> None:
    """The first one ends last, and holds the others back."""
    ended: list[int] = []
    go = threading.Event()

    def script(number: int) -> Exception:
        if number == 1:
            go.wait(PATIENCE)
        ended.append(number)
        return Failed("refused", str(number))

    made, taken, _ = sampled(script)
    until(lambda: len(ended) >= 20)
    assert taken == []
    go.set()
    until(lambda: len(taken) >= 20)
    made.stop()
    assert [int(one.detail) for one in taken] == list(range(1, len(taken) + 1))
    assert [one.began for one in taken] == sorted(one.began for one in taken)


def test_a_target_that_hangs_leaves_samples_out_and_none_is_caught_up() -> None:
    """At most this many are in progress; when they end, the schedule continues."""
    go = threading.Event()
    hanging: list[int] = []

    def script(number: int) -> Exception:
        hanging.append(number)
        go.wait(PATIENCE)
        return Failed("timeout", "no answer in time")

    made, taken, _ = sampled(script)
    until(lambda: len(hanging) == 4)
    before = made.skipped
    until(lambda: made.skipped > before + 50)
    assert len(hanging) == 4
    go.set()
    until(lambda: len(taken) > 100)
    made.stop()
    assert made.skipped > 50


def test_so_many_wait_for_an_earlier_one_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up that never returns costs no memory without end."""
    monkeypatch.setattr(sampling, "MOST_WAITING", 10)
    go = threading.Event()

    def script(number: int) -> Exception:
        if number == 1:
            go.wait(PATIENCE)
        return Failed("refused", "")

    made, taken, _ = sampled(script)
    until(lambda: made.skipped > 50)
    assert len(made._finished) <= 10 + 4
    go.set()
    until(lambda: len(taken) > 100)
    made.stop()
    assert MOST_WAITING > 100


def looking(monkeypatch: pytest.MonkeyPatch) -> tuple[Sampling, Any, list[str], StandingClock]:
    """A watch that samples nothing, its target, and what its look-ups said."""
    clock = StandingClock()
    monkeypatch.setattr(sampling, "monotonic", clock)
    target: Any = Scripted(lambda _: Failed("refused", ""))
    told: list[str] = []
    return (
        Sampling(target, lambda _: None, told.append, rate=1.0, concurrency=1),
        target,
        told,
        clock,
    )


def test_a_name_is_looked_up_again_after_a_failure_and_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once a second where all fail; what answers is asked where it is for half a minute."""
    made, target, told, clock = looking(monkeypatch)
    found = []
    for number, name in enumerate([FAILED] * 4 + ["one"] * 40, 1):
        clock.move(1)
        made._finish(number, outcome(name))
        made._look_up_if_due()
        found.append(target.renewed)
    assert found[:5] == [1, 2, 3, 4, 4]
    assert found[4:33] == [4] * 29
    assert found[33:] == [5] * 11
    assert (target.chosen_again, told) == (4, [""] * 5)


def test_a_look_up_that_fails_is_repeated_and_keeps_the_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is no failed sample; after it the name is looked up every second."""
    made, target, told, clock = looking(monkeypatch)
    target.problem = Failed("name not found", "try again")
    clock.move(29)
    for number in range(1, 5):
        made._finish(number, outcome("one"))
        clock.move(0.5)
        made._look_up_if_due()
    assert told == ["try again"] * 2
    target.problem = SystemRefused("no free file descriptor")
    clock.move(1)
    made._look_up_if_due()
    target.problem = None
    for _ in range(20):
        clock.move(1)
        made._look_up_if_due()
    assert told == ["try again", "try again", "no free file descriptor", ""]
    assert (target.chosen_again, made.ended) == (0, 4)
    made.stop()
    clock.move(60)
    made._look_up_if_due()  # was under way
    assert len(told) == 4


def test_names_are_looked_up_while_samples_go_on_and_not_after_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a thread of its own, which a bug ends like any other."""
    monkeypatch.setattr(sampling, "LEAST_LOOK_UP_SECONDS", 0.01)
    made, taken, target = sampled(lambda _: Failed("refused", ""))
    until(lambda: target.renewed > 2 and len(taken) > 20)
    target.problem = ValueError("odd")
    until(lambda: made.refused)
    made.stop()
    assert "ValueError('odd')" in str(made.refused)


def test_a_bug_in_a_sample_ends_the_watch_with_its_reason() -> None:
    """It is not waited for in silence."""
    made, _, _ = sampled(lambda _: ValueError("odd"))
    until(lambda: made.refused)
    made.stop()
    assert "ValueError('odd')" in str(made.refused)


def test_a_refused_thread_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the others with it."""

    def refuse_the_last(some: list[threading.Thread]) -> None:
        threads.start(some[:-1])
        raise SystemRefused("cannot start thread 5 of 5")

    before = set(threading.enumerate())
    monkeypatch.setattr(sampling, "start", refuse_the_last)
    with pytest.raises(SystemRefused, match="5 of 5"):
        sampled(lambda _: Failed("refused", ""))
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
    assert set(threading.enumerate()) <= before


def test_an_outcome_that_ends_after_the_stop_is_not_taken() -> None:
    """The last report is the last."""
    go = threading.Event()
    ended = threading.Event()

    def script(_number: int) -> Exception:
        go.wait(PATIENCE)
        ended.set()
        return Failed("refused", "")

    made, taken, _ = sampled(script, concurrency=1)
    until(lambda: made.skipped)
    made.stop()
    go.set()
    assert ended.wait(PATIENCE)
    until(lambda: made._under_way == 0)
    assert taken == []


def followed(path: Path) -> Followed:
    def check(expectation: Expectation) -> None:
        if "odd" in expectation.shares:
            raise UsageError("--detect 5: must be less here")

    return Followed("--expect-file", str(path), from_text, check)


def settled(one: Followed) -> bool:
    """What two looks find that see the same."""
    first, second = one.look(), one.look()
    assert not (first and second)
    return first or second


def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    """In place, or by another file that takes its name; a rewrite of the same is no change."""
    path = tmp_path / "expected"
    path.write_text("one=80,two=20\n")
    one = followed(path)
    assert one.expectation == parse(["one=80,two=20"])
    assert not settled(one)
    path.write_text("one=4,two=1")
    assert not settled(one)
    path.write_text("one=50,two=50\n")
    assert settled(one)
    assert one.expectation == parse(["one=1,two=1"])
    other = tmp_path / "other"
    other.write_text("one=100,two=0")
    other.rename(path)
    assert settled(one)
    assert one.expectation == parse(["one=1,two=0"])


def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    """Some editors begin a file with one."""
    assert from_text("x", b"\xef\xbb\xbfone=80,two=20\r\n") == parse(["one=80,two=20"])


def test_a_mounted_configmap_is_followed(tmp_path: Path) -> None:
    """A link to a link to a directory, which the kubelet renames."""
    for name, text in (("..1", "one=80,two=20"), ("..2", "one=20,two=80")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "expected").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "expected").symlink_to("..data/expected")
    one = followed(tmp_path / "expected")
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert settled(one)
    assert one.expectation == parse(["one=20,two=80"])


def test_what_is_still_being_written_is_not_taken(tmp_path: Path) -> None:
    """It counts when two looks see the same."""
    path = tmp_path / "expected"
    path.write_text("one=80,two=20")
    one = followed(path)
    for text in ("", "one=80,two=2", "one=80,two=25"):
        path.write_text(text)
        assert not one.look()
    assert one.problem == ""
    assert one.look()
    assert one.expectation == parse(["one=80,two=25"])


def spoil(path: Path, how: str) -> None:
    path.unlink()
    if how == "a directory":
        path.mkdir()
    elif how == "a pipe":
        os.mkfifo(path)
    elif how == "a device":
        path.symlink_to("/dev/zero")
    elif how != "missing":
        path.write_text(how)


SPOILT = {
    "missing": "cannot be read: No such file",
    "a directory": "must be a regular file",
    "a pipe": "must be a regular file",
    "a device": "must be a regular file",
    "": "must have one line",
    "one=80\ntwo=20": "must have one line",
    "one": "'one': must be NAME=SHARE",
    "one=0": "must have a share over 0",
    "x" * (MOST_BYTES + 1): "must have 65,536 bytes at most",
    "odd=1": "must be less here",
    "\0": "must be NAME=SHARE",
}


@pytest.mark.parametrize("how", SPOILT)
def test_an_invalid_content_keeps_the_one_before(tmp_path: Path, how: str) -> None:
    """The problem is reported once, and ends when the file is valid again."""
    path = tmp_path / "expected"
    path.write_text("one=80,two=20")
    one = followed(path)
    spoil(path, how)
    assert settled(one)
    assert SPOILT[how] in one.problem
    assert one.problem.isprintable()
    assert one.expectation == parse(["one=80,two=20"])
    assert not settled(one)
    with pytest.raises(UsageError, match=r"^--"):
        followed(path)
    (path.rmdir if path.is_dir() else lambda: path.unlink(missing_ok=True))()
    path.write_text("one=80,two=20")
    assert settled(one)
    assert one.problem == ""


def test_a_file_that_fails_to_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails, or a name with a zero byte in it."""
    with pytest.raises(UsageError, match=r"^--expect-file 'a\\x00': cannot be read: "):
        followed(Path("a\0"))
    path = tmp_path / "expected"
    path.write_text("one=1")

    def broken(_descriptor: int, _size: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("echod.probe.files.os.read", broken)
    with pytest.raises(UsageError, match="cannot be read: Input/output error"):
        followed(path)


class Standing:
    """A health whose clock and samples the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = StandingClock()
        self.ended = 0
        self.turns = 0
        self.turn: Callable[[], object] = lambda: None
        monkeypatch.setattr(health, "monotonic", self.clock)
        monkeypatch.setattr(health, "sleep", self._sleep)
        self.health = Health(lambda: self.ended, 6.0)

    def _sleep(self, _seconds: float) -> None:
        self.turns += 1
        self.turn()

    def look(self, seconds: float, *, ends: bool) -> None:
        for _ in range(int(seconds)):
            self.clock.move(1)
            self.ended += ends
            self.health.look()


def test_a_watch_whose_samples_end_is_alive_and_one_whose_do_not_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A minute beyond the time that a sample may take, and alive again with the next."""
    standing = Standing(monkeypatch)
    standing.look(600, ends=True)
    assert standing.health.liveness_problem() == ""
    standing.look(STALLED_SECONDS + 6, ends=False)
    assert standing.health.liveness_problem() == ""
    standing.look(1, ends=False)
    assert standing.health.liveness_problem() == "no sample has ended for 67 s"
    standing.look(1, ends=True)
    assert standing.health.liveness_problem() == ""


def test_a_suspended_process_is_alive_when_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics port may answer before the main thread has had its turn."""
    standing = Standing(monkeypatch)
    standing.turn = standing.health.look
    standing.clock.move(3600)
    assert standing.health.liveness_problem() == ""
    assert standing.turns == 1
    standing.turn = lambda: None
    standing.clock.move(61)
    assert standing.health.liveness_problem() == "stalled: main thread (61 s)"


class Log:
    """A logger that keeps its events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, **facts: Any) -> None:
        self.events.append(("info", event, facts))

    def warning(self, event: str, **facts: Any) -> None:
        self.events.append(("warning", event, facts))

    def error(self, event: str, **facts: Any) -> None:
        self.events.append(("error", event, facts))


def failing(kind: str, began: float) -> Outcome:
    address = "192.0.2.1" if kind == "refused" else ""
    return Outcome(None, kind, f"it was {kind}\n", began=began, address=address)


def test_failures_are_logged_by_kind_and_rarely() -> None:
    """One event a minute of each, with the number of those that had none."""
    log: Any = Log()
    troubles = Troubles(log)
    for second in range(130):
        troubles.add(outcome("one", second))
        troubles.add(failing("refused", second))
        if second % 2:
            troubles.add(failing("timeout", second))
    told = [(facts["kind"], facts["more"], facts["detail"]) for _, _, facts in log.events]
    assert [facts["address"] for _, _, facts in log.events[:2]] == ["192.0.2.1", None]
    assert told == [
        ("refused", None, "it was refused\\n"),
        ("timeout", None, "it was timeout\\n"),
        ("refused", 59, "it was refused\\n"),
        ("timeout", 29, "it was timeout\\n"),
        ("refused", 59, "it was refused\\n"),
        ("timeout", 29, "it was timeout\\n"),
    ]


def test_a_failure_shows_as_much_of_what_came_as_a_verdict() -> None:
    """200 characters."""
    log: Any = Log()
    Troubles(log).add(Outcome(None, "no match", "x" * 201))
    assert log.events[0][2]["detail"] == "x" * 200 + "..."


def test_a_target_that_is_gone_for_an_hour_has_two_events() -> None:
    """When it has been silent for ten seconds, and when it answers again."""
    log: Any = Log()
    troubles = Troubles(log)
    troubles.add(outcome("one", 5))
    for second in range(6, 3606):
        troubles.add(failing("name not found", second))
    troubles.add(outcome("one", 3606))
    troubles.add(outcome("one", 3607))
    told = [(event, facts) for _, event, facts in log.events if event != "sample failed"]
    assert told == [
        ("target does not answer", {"seconds": 10, "failures": 10}),
        ("target answers again", {"seconds": 3601, "failures": 3600}),
    ]
    assert len(log.events) == 2 + 60


def test_the_address_taken_is_logged_if_there_are_several_or_it_changes() -> None:
    """Once a minute at most, however often it changes."""
    log: Any = Log()
    for number in (1, 3):
        troubles = Troubles(log)
        for second in range(5):
            troubles.take_address("192.0.2.1", number, second)
    (first,) = log.events
    assert first == (
        "info",
        "address taken",
        {"address": "192.0.2.1", "addresses": 3, "before": None},
    )
    for second in range(1000, 1121):
        troubles.take_address(f"192.0.2.{second % 2 + 1}", 2, second)
    changes = [(facts["before"], facts["address"]) for _, _, facts in log.events[1:]]
    assert changes == [("192.0.2.1", "192.0.2.2"), ("192.0.2.2", "192.0.2.1")]


def test_look_ups_that_fail_are_logged_rarely_and_when_they_succeed_again() -> None:
    """Two events for an hour without a resolver, and one a minute at most if it comes and goes."""
    log: Any = Log()
    troubles = Troubles(log)
    for second in range(100, 3700):
        troubles.look_up("try again\n", second)
    for second in (3700, 3730):
        troubles.look_up("", second)
    lost = "look-up failed, keeping the known addresses"
    assert [event for _, event, _ in log.events] == [lost] * 60 + ["look-up succeeds again"]
    assert log.events[0] == ("warning", lost, {"detail": "try again\\n", "more": None})
    assert log.events[1][2]["more"] == 59
    assert log.events[-1] == ("info", "look-up succeeds again", {"failures": 3600})
    log.events.clear()
    for second in range(4000, 4120):
        troubles.look_up("try again" if second % 2 else "", second)
    assert len(log.events) <= 4
