from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from echod.config.options import load
from echod.errors import SystemRefused, UsageError
from echod.loop import listeners
from echod.loop.listeners import bind, inherit, normalized
from echod.probe.target import Target
from echod.process.systemd import InheritedSockets


class Forbidden(socket.socket):
    def bind(self, _: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize(
    ("start", "port", "reason"),
    [
        ("1024\n", 80, "ports below 1024 (net.ipv4.ip_unprivileged_port_start) need"),
        ("2000\n", 1500, "ports below 2000 (net.ipv4.ip_unprivileged_port_start) need"),
        ("2000\n", 2000, "since net.ipv4.ip_unprivileged_port_start is 2000: a security"),
        ("0\n", 80, "since net.ipv4.ip_unprivileged_port_start is 0: a security"),
        ("1024\n", 0, "since net.ipv4.ip_unprivileged_port_start is 1024: a security"),
        (None, 1500, "ports below net.ipv4.ip_unprivileged_port_start, 1024 by default, need"),
    ],
)
def test_a_port_that_is_not_allowed_names_the_rule_and_what_it_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: str | None, port: int, reason: str
) -> None:
    """The rule of this very system, and what else it can be when the rule allows the port."""
    rule = tmp_path / "rule"
    if start is not None:
        rule.write_text(start)
    monkeypatch.setattr(listeners, "UNPRIVILEGED_PORT_START", rule)
    monkeypatch.setattr(socket, "socket", Forbidden)
    with pytest.raises(SystemRefused) as caught:
        bind("PORTS", "127.0.0.1", port)
    message = str(caught.value)
    assert message.startswith(f"PORTS {port}: cannot listen on 127.0.0.1:{port}: Permission")
    assert reason in message
    assert "CAP_NET_BIND_SERVICE" in message


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_refusal_of_anything_else_does_not_speak_of_ports(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """No socket at all, say, in a sandbox."""

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(number, os.strerror(number))

    monkeypatch.setattr(socket, "socket", refused)
    with pytest.raises(SystemRefused, match=rf"\[::\]:0: {os.strerror(number)}$"):
        bind("PORTS", "::", 0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("::ffff:127.0.0.1", "::ffff:7f00:1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("fe80::1%lo", f"fe80::1%{socket.if_nametoindex('lo')}"),
    ],
)
def test_an_address_is_the_same_however_it_is_written(one: str, other: str) -> None:
    """Its zone by name or by number, too."""
    assert normalized(one) == normalized(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("::", "0.0.0.0"),  # compared, not bound
        ("::1", "127.0.0.1"),
        ("fe80::1%lo", "fe80::1%4000"),
        ("fe80::1%lo", "fe80::1%nowhere0"),
        ("fe80::1%lo", "fe80::1"),
        ("::ffff:127.0.0.1", "::127.0.0.1"),
    ],
)
def test_addresses_that_differ_are_different(one: str, other: str) -> None:
    """In their zone alone, too."""
    assert normalized(one) != normalized(other)


FREEBIND = 15
"""IP_FREEBIND: binds an address that no interface has."""


def link_local(number: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6)
    made.setsockopt(socket.IPPROTO_IP, FREEBIND, 1)
    made.bind(("fe80::1", 0, 0, number))
    made.listen()
    return made


@pytest.mark.parametrize("written", ["fe80::1%lo", "fe80:0::1%lo", "fe80::1%{}"])
def test_an_inherited_socket_has_its_address_however_it_is_written(written: str) -> None:
    """With its zone, which its events name too; another zone is another address."""
    number = socket.if_nametoindex("lo")
    listener = inherit(link_local(number).detach())
    with listener.socket:
        assert listener.address == f"[fe80::1%lo]:{listener.port}"
        sockets = InheritedSockets(echo=[listener])
        flags = {"ports": str(listener.port), "prefix": "x", "metrics_port": "none"}
        sockets.check(load(flags | {"address": written.format(number)}, {}))
        with pytest.raises(UsageError, match=r"match the inherited sockets \(fe80::1%lo\)"):
            sockets.check(load(flags | {"address": "fe80::1%4000"}, {}))


def test_an_interface_that_has_gone_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket still has it."""

    def gone(_: int) -> str:
        raise OSError(errno.ENXIO, "no index with this name")

    number = socket.if_nametoindex("lo")
    monkeypatch.setattr(socket, "if_indextoname", gone)
    listener = inherit(link_local(number).detach())
    with listener.socket:
        assert listener.host == f"fe80::1%{number}"


def test_an_address_that_does_not_resolve_gives_the_reason_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """getaddrinfo's own errors have numbers that mean nothing elsewhere."""
    with pytest.raises(SystemRefused, match=r"%nowhere0\]:0: no network interface nowhere0$"):
        bind("PORTS", "fe80::1%nowhere0", 0)
    with pytest.raises(
        SystemRefused, match=r"::1%lo\]:0: only a link-local address can have a zone$"
    ):
        bind("PORTS", "::1%lo", 0)

    def failing(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure")

    monkeypatch.setattr(socket, "getaddrinfo", failing)
    with pytest.raises(SystemRefused, match=r"127.0.0.1:0: Memory allocation failure$"):
        bind("PORTS", "127.0.0.1", 0)


def test_a_source_keeps_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link-local address without it cannot be bound."""
    bound_to: list[Any] = []

    class Recording(socket.socket):
        def bind(self, target: Any) -> None:
            bound_to.append(target)

    monkeypatch.setattr(socket, "socket", Recording)
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        bound_to.clear()
        port = server.getsockname()[1]
        target = Target("::1", port, 20.0, sources=["fe80::1%lo"])
        target.connect(1, monotonic() + 20.0).close()
    assert bound_to == [("fe80::1", 0, 0, socket.if_nametoindex("lo"))]
