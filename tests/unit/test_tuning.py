from __future__ import annotations

import errno
import os
import socket
from time import monotonic
from typing import Any

import pytest
from support.peers import saying, serving
from support.refusals import ERRORS, TUNING, refuse

from echod.errors import SystemRefused
from echod.loop.listeners import Listener, bind, inherit
from echod.loop.tuning import Option, Tuning, summed_up
from echod.probe.servers import read
from echod.probe.target import Target


def bound(address: str = "127.0.0.1") -> Listener:
    return bind("PORTS", address, 0)


def inherited() -> Listener:
    """One that listens already, as a service manager hands it over."""
    given = socket.create_server(("127.0.0.1", 0))
    return inherit(given.detach())


@pytest.mark.parametrize("make", [bound, inherited])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", TUNING)
def test_an_option_that_only_tunes_may_be_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, error: str, make: Any
) -> None:
    """The listener knows which and why; all others are set."""
    refuse(monkeypatch, error, name)
    listener = make()
    with listener.socket as made:
        (refusal,) = listener.tuning.refused
        assert (refusal.option, refusal.error) == (name, os.strerror(getattr(errno, error)))
        assert refusal.effect
        lacking = [one.name for one in listener.tuning.by_hand if not one.holds_on(made)]
        assert lacking == [name]
        assert not made.getblocking()


@pytest.mark.parametrize("error", ERRORS)
def test_a_listener_without_so_reuseaddr_is_refused(
    monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    """A start without it ends, and says what was refused."""
    refuse(monkeypatch, error, "SO_REUSEADDR")
    reason = os.strerror(getattr(errno, error))
    with pytest.raises(SystemRefused, match=f"PORTS 0: .*127.0.0.1:0: SO_REUSEADDR: {reason}$"):
        bound()


def test_a_socket_that_cannot_be_non_blocking_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the true one, for an inherited socket too: it is a listening one."""

    class Blocking(socket.socket):
        def setblocking(self, _: bool) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

    given = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(socket, "socket", Blocking)
    reason = "cannot be made non-blocking: Operation not permitted"
    with pytest.raises(SystemRefused, match=f"PORTS 0: .*: {reason}"):
        bound()
    number = given.detach()
    with pytest.raises(SystemRefused, match=f"inherited descriptor {number}: {reason}"):
        inherit(number)


class Families(socket.socket):
    """IPV6_V6ONLY is as ``only``, whatever is asked for."""

    only: int | None

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        if (level, option) == (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        super().setsockopt(level, option, *value)

    def getsockopt(self, level: int, option: int, *size: int) -> Any:
        if (level, option) == (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            if self.only is None:
                raise OSError(errno.ENOPROTOOPT, "Protocol not available")
            return self.only
        return super().getsockopt(level, option, *size)


@pytest.mark.parametrize(
    ("only", "effect"),
    [
        (0, ":: still serves IPv4 clients"),
        (1, ":: serves IPv6 clients alone (0.0.0.0 serves IPv4)"),
        (None, ":: serves IPv6 clients alone (0.0.0.0 serves IPv4)"),
    ],
)
def test_a_refused_ipv6_v6only_is_reported_by_what_holds(
    monkeypatch: pytest.MonkeyPatch, only: int | None, effect: str
) -> None:
    """At :: alone: elsewhere it means nothing."""
    monkeypatch.setattr(Families, "only", only, raising=False)
    monkeypatch.setattr(socket, "socket", Families)
    listener = bound("::")
    with listener.socket:
        (refusal,) = listener.tuning.refused
    assert (refusal.option, refusal.effect) == ("IPV6_V6ONLY", effect)
    other = bound("::1")
    with other.socket:
        assert other.tuning.refused == []


def test_refused_options_of_many_sockets_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option, reason and effect once, in the order in which they came."""
    refuse(monkeypatch, "EINVAL", "TCP_KEEPIDLE", "TCP_KEEPCNT", "TCP_NODELAY")
    refusals = []
    for _ in range(3):
        listener = bound()
        refusals += listener.tuning.refused
        listener.socket.close()
    assert summed_up(refusals) == {
        "options": "TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPCNT",
        "error": "Invalid argument",
        "effect": "Nagle's algorithm may delay replies;"
        " clients that vanish are detected late, at the latest by --idle-timeout",
    }
    assert summed_up([]) == {}


class Accepted:
    """A socket that keeps what it is given, if it takes it; and counts how often it is asked."""

    def __init__(self, *has: str, takes: bool = True) -> None:
        self.has = {getattr(socket, name) for name in has}
        self.takes = takes
        self.asked = 0

    def setsockopt(self, _level: int, option: int, _value: int) -> None:
        if not self.takes:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        self.has.add(option)

    def getsockopt(self, level: int, option: int) -> int:
        self.asked += 1
        if (level, option) == (socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            return 8 if option in self.has else 0  # as on BSD
        wanted = {getattr(socket, one.name): one.value for one in OPTIONS}
        return wanted[option] if option in self.has else -1


with socket.socket() as _one:
    OPTIONS: tuple[Option, ...] = Tuning(_one).by_hand


def test_accepted_sockets_are_checked_once_if_they_inherit_every_option() -> None:
    """Which costs every other connection nothing."""
    with socket.socket() as listener:
        tuning = Tuning(listener)
        first: Any = Accepted(*TUNING)
        tuning.pass_on(first)
        assert first.asked == len(TUNING)
        assert tuning.by_hand == ()


@pytest.mark.parametrize("takes", [True, False])
def test_accepted_sockets_are_given_what_they_do_not_inherit(takes: bool) -> None:
    """Each of them is, as far as it takes it; what the first one has is not asked for again."""
    with socket.socket() as listener:
        tuning = Tuning(listener)
        for _ in range(3):
            accepted: Any = Accepted("TCP_NODELAY", "SO_KEEPALIVE", takes=takes)
            tuning.pass_on(accepted)
            assert len(accepted.has) == (len(TUNING) if takes else 2)
            assert [one.name for one in tuning.by_hand] == [*TUNING[2:]]


def test_accepted_sockets_that_differ_are_all_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a listener for MPTCP some are plain TCP, and inherit less."""
    with socket.socket() as listener:
        monkeypatch.delattr(socket, "SO_PROTOCOL")  # then the socket itself has to know
        assert listener.proto != socket.IPPROTO_TCP
        tuning = Tuning(listener)
    for has in (TUNING, TUNING[:2], TUNING):
        accepted: Any = Accepted(*has)
        tuning.pass_on(accepted)
        assert len(accepted.has) == len(TUNING)


def test_a_probe_needs_no_option_for_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the port is chosen earlier, of fewer."""
    refuse(monkeypatch, "ENOPROTOOPT", "IP_BIND_ADDRESS_NO_PORT")
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = Target("127.0.0.1", server.getsockname()[1], 20.0, sources=["127.0.0.1"])
        target.connect(1, monotonic() + 20.0).close()


@pytest.mark.parametrize("error", ERRORS)
def test_the_probe_reads_metrics_without_socket_options(
    monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    """A server that is not there is missed as ever."""
    page = b"HTTP/1.0 200 OK\r\n\r\nechod_requests_total 7\nechod_connections_opened_total 3\n"
    refuse(monkeypatch, error, "TCP_NODELAY")
    with serving(saying(page)) as port:
        assert read([f"http://127.0.0.1:{port}/metrics"]).connections == 3
    with pytest.raises(SystemRefused, match="Connection refused"):
        read([f"http://127.0.0.1:{port}/metrics"])
