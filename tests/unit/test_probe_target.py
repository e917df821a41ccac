"""Where samples go: names with several addresses, sources, and what may fail."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from time import monotonic

import pytest
from support import PATIENCE, call
from support.running import StandingClock

from echod.errors import SystemRefused, UsageError
from echod.probe import target as target_module
from echod.probe.arguments import _sources
from echod.probe.independence import Addresses
from echod.probe.target import Failed, Target, failure, peer


def named(monkeypatch: pytest.MonkeyPatch, *places: tuple[str, int]) -> list[int]:
    """Gives every name these addresses; counts the look-ups."""
    looked: list[int] = []
    real = socket.getaddrinfo

    def look_up(host: str, *words: int, **flags: int) -> object:
        if "flags" in flags:
            return real(host, *words, **flags)
        looked.append(len(looked))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return looked


def test_a_name_is_looked_up_again_when_it_is_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a run of weeks, in which a service moves to another address."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.2", 0)) as two,
    ):
        target = Target("x", 1, PATIENCE)

        def ask() -> str:
            with target.connect(1, monotonic() + PATIENCE) as made:
                return peer(made)

        looked = named(monkeypatch, one.getsockname())
        target.renew()
        assert (looked, target.found) == ([], 0)
        assert [ask(), ask()] == ["127.0.0.1"] * 2
        target.renew()
        assert (ask(), len(looked), target.found) == ("127.0.0.1", 2, 1)
        # The same address has come second: it stays.
        named(monkeypatch, two.getsockname(), one.getsockname())
        target.renew()
        assert (ask(), target.found) == ("127.0.0.1", 2)
        target.choose_again()
        assert ask() == "127.0.0.2"
        # Moved.
        named(monkeypatch, one.getsockname())
        target.renew()
        assert (ask(), target.found) == ("127.0.0.1", 1)


def test_a_look_up_that_fails_later_keeps_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver is gone, and the target is not."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        named(monkeypatch, server.getsockname())
        target = Target("x", 1, PATIENCE)
        target.connect(1, monotonic() + PATIENCE).close()
        monkeypatch.setattr(socket, "getaddrinfo", failing(socket.EAI_AGAIN, []))
        with pytest.raises(Failed, match="name not found"):
            target.renew()
        target.connect(2, monotonic() + PATIENCE).close()
        target.choose_again()
        target.connect(3, monotonic() + PATIENCE).close()
        assert target.found == 1


def failing(number: int, looked: list[int]) -> Callable[..., object]:
    """A resolver that fails; it counts the look-ups."""

    def look_up(*_: object, **__: object) -> object:
        looked.append(len(looked))
        raise socket.gaierror(number, "no such name")

    return look_up


@pytest.mark.parametrize(
    ("number", "raised"), [(socket.EAI_NONAME, Failed), (socket.EAI_MEMORY, SystemRefused)]
)
def test_a_name_that_is_not_found_is_looked_up_once_a_second(
    monkeypatch: pytest.MonkeyPatch, number: int, raised: type[Exception]
) -> None:
    """However many samples of a watch ask for it; each of them fails. Others look it up again."""
    clock, looked = StandingClock(), list[int]()
    monkeypatch.setattr(target_module, "monotonic", clock)
    monkeypatch.setattr(socket, "getaddrinfo", failing(number, looked))
    target = Target("x", 1, PATIENCE, rest=1.0)
    for _ in range(30):
        with pytest.raises(raised):
            target.connect(1, clock() + PATIENCE)
        clock.move(0.1)
    assert len(looked) in (3, 4)
    for again in (Target("x", 1, PATIENCE, afresh=True, rest=1.0), Target("x", 1, PATIENCE)):
        looked.clear()
        for _ in range(5):
            with pytest.raises(raised):
                again.connect(1, clock() + PATIENCE)
        assert len(looked) == 5


def test_a_name_is_looked_up_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first address that answers is used for all samples; one without a listener is not."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        places = [free.getsockname(), server.getsockname(), ("127.0.0.3", 9)]
        looked = named(monkeypatch, *places)
        target = Target("x", 1, PATIENCE)
        made: list[socket.socket] = []

        def connect(number: int) -> None:
            made.append(target.connect(number, monotonic() + PATIENCE))

        threads = [Thread(target=connect, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert [peer(one) for one in made] == ["127.0.0.1"] * 10
        for one in made:
            one.close()
    assert (len(looked), target.found, target.taken) == (1, 3, (socket.AF_INET, places[1]))
    assert not peer(made[0])


def test_each_sample_tries_one_address_the_next_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is dead fails its samples, and no other is tried in its place."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        looked = named(monkeypatch, ("127.0.0.2", port), ("127.0.0.1", port), ("127.0.0.1", port))
        target, ends = Target("x", 1, PATIENCE, afresh=True), []
        for number in range(1, 7):
            try:
                with target.connect(number, monotonic() + PATIENCE) as made:
                    ends.append(peer(made))
            except Failed as failed:
                ends.append(f"{failed.kind} {failed.address}")
    assert ends == ["refused 127.0.0.2", "127.0.0.1"] * 3
    assert (len(looked), target.found, target.taken) == (6, 2, None)


def test_sources_take_turns_with_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the pairs, not each source with an address of its own."""
    with socket.create_server(("0.0.0.0", 0)) as server:  # for a moment
        port = server.getsockname()[1]
        named(monkeypatch, ("127.0.0.1", port), ("127.0.0.2", port))
        target = Target("x", 1, PATIENCE, sources=["127.0.0.8", "127.0.0.9"], afresh=True)
        pairs = set()
        for number in range(4):
            with target.connect(number, monotonic() + PATIENCE) as made:
                pairs.add((made.getsockname()[0], peer(made)))
    assert len(pairs) == 4


def test_all_addresses_that_fail_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next sample tries them again, without another look-up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        looked = named(monkeypatch, free.getsockname(), free.getsockname())
        target = Target("x", 1, PATIENCE)
        for number in range(3):
            with pytest.raises(Failed, match="refused"):
                target.connect(number, monotonic() + PATIENCE)
    assert (len(looked), target.found) == (1, 1)


def test_a_sample_does_not_wait_for_an_address_beyond_its_time() -> None:
    """While another one looks for it."""
    target = Target("x", 1, PATIENCE)
    with target._choosing, pytest.raises(Failed, match="timeout"):
        target.connect(1, monotonic())


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("127.0.0.9", ["127.0.0.9"]),
        ("192.0.2.8/30", ["192.0.2.9", "192.0.2.10"]),
        ("192.0.2.8/31", ["192.0.2.8", "192.0.2.9"]),
        ("192.0.2.8/32", ["192.0.2.8"]),
        ("2001:db8::/126", ["2001:db8::1", "2001:db8::2", "2001:db8::3"]),
    ],
)
def test_a_source_is_an_address_or_the_hosts_of_a_network(text: str, known: list[str]) -> None:
    """In their order."""
    assert _sources(text) == known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("192.0.2.1/28", "must be an address, or a network without host bits"),
        ("10.0.0.0/8", "must be 4,096 addresses at most"),
        ("x/28", "must be an address, or a network"),
    ],
)
def test_wrong_sources_are_named(text: str, message: str) -> None:
    """With what is allowed."""
    with pytest.raises(UsageError, match=message):
        _sources(text)


def test_addresses_that_differ_are_seen() -> None:
    """In bounded room; those with a few samples say nothing."""
    addresses = Addresses()
    for number in range(400):
        addresses.add(f"10.0.0.{number % 2}", "one" if number % 2 or number % 8 else "two")
    addresses.add("10.0.0.9", "two")
    found = addresses.homogeneity()
    assert found
    assert (found.parts, found.p < 1e-6) == (2, True)
    for number in range(1000):
        addresses.add(f"10.1.0.{number}", "one")
    assert len(addresses.counts) == 257


def test_what_fails_on_this_host_outweighs_what_fails_at_the_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever address of a name it was: one without a free port here, one that is refused."""
    errors: list[Exception] = [SystemRefused("no free local port"), Failed("refused", "")]

    def fail(*_: object) -> None:
        raise errors.pop(0)

    named(monkeypatch, ("127.0.0.1", 1), ("127.0.0.2", 1))
    monkeypatch.setattr(Target, "_connect", fail)
    with pytest.raises(SystemRefused, match="no free local port"):
        Target("x", 1, 5.0).connect(1, monotonic() + 5)


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
        Target("x", 1, 1.0).connect(1, 0.0)


def test_a_name_that_cannot_be_one_is_not_found() -> None:
    """A label of over 63 characters."""
    with pytest.raises(Failed) as caught:
        Target("x" * 70, 1, 1.0).connect(1, 0.0)
    assert caught.value.kind == "name not found"


def test_no_time_left_is_a_timeout() -> None:
    """Before a connection is begun."""
    with pytest.raises(Failed) as caught:
        Target("127.0.0.1", 1, 1.0).connect(1, 0.0)
    assert caught.value.kind == "timeout"


def test_host_names_can_be_encoded_whatever_can_be_loaded_later(tmp_path: Path) -> None:
    """Python looks for the codec once: without a file descriptor then, it would stay unknown."""
    script = (
        "import socket, sys; import echod.probe.command; sys.meta_path.clear();"
        "socket.getaddrinfo('127.0.0.1', 1)"
    )
    result = call(tmp_path, [sys.executable, "-c", script])
    assert (result.returncode, result.stderr) == (0, "")
