from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import NamedTuple

import pytest
from support import (
    NEVER,
    PATIENCE,
    Clock,
    Echod,
    Metrics,
    Start,
    command,
    expected,
    insist,
    stopwatch,
)
from support.crowd import MIX_SECONDS, MUTE, PREFIX, Client, Crowd, crowd

PROMISED_SECONDS = 1.0
"""What a stop may take on top of the drain timeout."""


class Repetition(NamedTuple):
    """A signal that follows the stop after so many seconds."""

    number: int
    seconds: float


class Quiet:
    """The times of a stop as they are promised, on a quiet machine."""

    delay, drain_timeout = 0.3, 3.0
    command = staticmethod(command)

    def run_to_the_end(self, echod: Echod, mixed: Crowd, delay: float, stopped: float) -> None:
        """Sees to it that the stop, which began at ``stopped``, ends in its time."""
        with stopwatch(echod, stopped) as seconds:
            mixed.run_to_the_end(delay)
        assert seconds() < delay + self.drain_timeout + PROMISED_SECONDS
        if mixed.mutes:
            assert seconds() >= delay + self.drain_timeout


class Busy:
    """The same on a machine that may be busy: by a clock that is moved when it is time."""

    delay = drain_timeout = NEVER

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # A client that had no CPU for a second is not reset for what it goes on to say; and what is
        # left when the clock has moved is still waited for on a busy machine.
        self.command = clock.altered(
            loop__lingering_close__LINGER_SECONDS=PATIENCE, process__shutdown__LATE_LOOKS=1000
        )

    def run_to_the_end(self, echod: Echod, mixed: Crowd, delay: float, stopped: float) -> None:
        """Sees to it that the stop ends when its time is over, and that only mutes wait for it."""
        if delay:
            mixed.run(Quiet.delay)
            self._clock.move(delay)
        mixed.run_to_the_end(0)
        if mixed.mutes:
            assert echod.process.poll() is None
            self._clock.move(self.drain_timeout)
        echod.wait()


def stop_amid_everything(
    start: Start, pace: Quiet | Busy, number: int, size: int, again: Repetition | None = None
) -> None:
    """A round; its number decides all that is left to chance."""
    chance = random.Random(number)
    mutes, delay = number % 5 == 1, pace.delay * (number % 5 == 3)
    echod = start(
        "--drain-timeout", str(pace.drain_timeout), "--drain-delay", str(delay),
        "--handler-threads", str(1 + number % 2),
        "--write-timeout", "none", "--idle-timeout", "none",
        ports="0,0", prefix=PREFIX, command=pace.command,
    )  # fmt: skip
    with crowd(echod, chance, size, mutes=mutes) as mixed:
        mixed.run(chance.uniform(0.2, MIX_SECONDS))
        before = echod.metrics()
        if number % 4 < 3:  # a machine that is busy elsewhere: much has arrived and waits
            echod.freeze()
        mixed.run(0.05)
        for client in mixed.clients:
            client.note_what_has_arrived()
        stopped = time.monotonic()
        echod.terminate()
        echod.thaw()
        with repeated(echod, again):
            pace.run_to_the_end(echod, mixed, delay, stopped)
        for client in mixed.mutes:
            client.hear_out()
    assert echod.wait() == 0
    for client in mixed.clients:
        judge(client)
    check_last_event(echod, mixed)
    check_scrape(before, echod)
    if mutes:
        assert echod.event("stopped")["cut"] > 0


@contextmanager
def repeated(echod: Echod, again: Repetition | None) -> Iterator[None]:
    """Delivers the stop signal again while the clients continue."""
    if again is None:
        yield
        return
    repetition = Timer(again.seconds, echod.process.send_signal, [again.number])
    repetition.start()
    yield
    repetition.join()


def judge(client: Client) -> None:
    """What one client may say of the stop."""
    replies = bytes(client.replies)
    # Replies are longer than lines: so many bytes of them are due for as many bytes at most.
    assert expected(client.sent[: len(replies) + 1], PREFIX.encode()).startswith(replies)
    if client.habit is MUTE:
        return
    assert replies[-1:] in (b"\n", b"")
    if client.arrived is not None:
        assert client.end == "eof"
        assert replies.startswith(expected(client.arrived, PREFIX.encode()))
    elif client.end == "reset":  # the port closed before it was accepted
        assert not replies


def check_last_event(echod: Echod, mixed: Crowd) -> None:
    """Against what the clients know."""
    last = echod.events()[-1]
    assert last["event"] == "stopped"
    assert last["cut"] <= len(mixed.mutes)
    for total in last["totals"]:
        clients = [client for client in mixed.clients if client.port == total["port"]]
        assert total["opened"] == total["closed"]
        assert sum(client.end == "eof" for client in clients) <= total["opened"] <= len(clients)
        taken = sum(len(client.replies) for client in clients)
        lines = sum(client.replies.count(b"\n") for client in clients)
        assert total["requests"] >= lines
        assert total["sent_bytes"] >= taken
        if not mixed.mutes:
            assert (total["requests"], total["sent_bytes"]) == (lines, taken)
        assert total["received_bytes"] <= sum(len(client.sent) for client in clients)
    assert {event["level"] for event in echod.events()} == {"info"}
    assert echod.error_path.read_text() == ""


def check_scrape(before: Metrics, echod: Echod) -> None:
    """The last one before the signal: no counter has fallen."""
    for total in echod.events()[-1]["totals"]:
        port = total["port"]
        for name in ("opened", "closed", "rejected"):
            assert before(f"echod_connections_{name}_total", port=port) <= total[name]
        for name in ("requests", "received_bytes", "sent_bytes"):
            assert before(f"echod_{name}_total", port=port) <= total[name]


@pytest.mark.parametrize("number", [1, 3])
def test_a_stop_under_mixed_load_keeps_every_promise(
    start: Start, clock: Clock, number: int
) -> None:
    """What a client gets, when the process ends, what it has counted, what it says."""
    stop_amid_everything(start, Busy(clock), number, 100)


@pytest.mark.long
@pytest.mark.parametrize("number", range(20))
def test_twenty_stops_under_mixed_load_keep_every_promise(start: Start, number: int) -> None:
    """The same with more clients, and with everything that chance may bring."""
    stop_amid_everything(start, Quiet(), number, 300)


@pytest.mark.long
@pytest.mark.parametrize("number", range(50))
def test_fifty_stops_that_are_delivered_twice_keep_every_promise(start: Start, number: int) -> None:
    """A repetition within milliseconds, or amid the drain, changes nothing for any client."""
    again = random.Random(number).choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    stop_amid_everything(
        start, Quiet(), number, 300, Repetition(again, (0.0, 0.001, 0.01, 0.2)[number % 4])
    )


def test_a_second_sigint_forces_the_end_of_a_drain_under_mixed_load(start: Start) -> None:
    """Sending everything would take minutes, so the rest is cut off."""
    echod = start("--drain-timeout", "600", "--write-timeout", "none", ports="0,0", prefix=PREFIX)
    with crowd(echod, random.Random(1), 60, mutes=True) as mixed:
        mixed.run(MIX_SECONDS)
        echod.process.send_signal(signal.SIGINT)
        echod.event("draining")
        mixed.run(0.1)
        insist(echod)
    assert echod.wait() == 128 + signal.SIGINT
    last = echod.events()[-1]
    assert last["forced_by"] == "SIGINT"
    assert last["cut"] > 0
