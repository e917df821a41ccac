"""Bound sockets, created here or inherited from the parent process."""

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from echod.errors import SystemRefused, UsageError
from echod.loop.sockets import close, close_at_once
from echod.loop.tuning import Tuning, serve_both_families
from echod.texts import joined

BACKLOG = 65535
"""More than any system's maximum (net.core.somaxconn, for example), which then applies."""

UNPRIVILEGED_PORT_START = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
"""Linux: the lowest port, for IPv4 and IPv6, that needs no capability to bind."""

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


class Listener:
    """A bound socket. An ``inherited`` one belongs to systemd and stays open.

    ``port`` is the real port, even if 0 was requested. ``host`` is the IP address alone, with its
    zone if it has one. ``address`` reads ``[::]:9000`` or ``0.0.0.0:9000``.
    """

    def __init__(self, bound: socket.socket, *, inherited: bool = False) -> None:
        """Make the socket non-blocking and try the tuning options. Raises OSError."""
        with _named("cannot be made non-blocking"):
            bound.setblocking(False)
        self.socket = bound
        self.inherited = inherited
        self.tuning = Tuning(bound)
        self.host, self.port, *more = bound.getsockname()
        if more and more[1]:
            self.host += f"%{_zone_name(more[1])}"
        self.address = joined(self.host, self.port)


def bind(option: str, address: str, port: int) -> Listener:
    """Bind a TCP port that ``option`` requested, without listening yet.

    ``::`` accepts IPv4 clients too; without IPv6 it means ``0.0.0.0``. Raises SystemRefused.
    """
    try:
        try:
            return _bound(address, port)
        except OSError as error:
            if address != "::" or error.errno not in _NO_IPV6:
                raise
            return _bound("0.0.0.0", port)  # noqa: S104  # "::" means all addresses
    except OSError as error:
        where = joined(address, port)
        raise SystemRefused(f"{option} {port}: cannot listen on {where}: {_why(error)}") from error


def inherit(descriptor: int) -> Listener:
    """The listening TCP socket that the process has inherited. Raises UsageError if the
    descriptor is something else, and SystemRefused if the system refuses its use.
    """
    try:
        inherited = socket.socket(fileno=descriptor)
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            raise _unfit(descriptor, error.errno) from error
        raise SystemRefused(f"inherited descriptor {descriptor}: {_why(error)}") from error
    try:
        if inherited.family not in (socket.AF_INET, socket.AF_INET6):
            raise _unfit(descriptor, errno.EAFNOSUPPORT)
        if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise _unfit(descriptor, errno.EINVAL)
        close_at_once(inherited)
        return Listener(inherited, inherited=True)
    except OSError as error:
        close(inherited)
        raise SystemRefused(f"inherited descriptor {descriptor}: {_why(error)}") from error


def listen(listener: Listener) -> None:
    """Listen on a bound socket. Raises SystemRefused."""
    try:
        listener.socket.listen(BACKLOG)
    except OSError as error:
        raise SystemRefused(f"cannot listen on {listener.address}: {_why(error)}") from error


def normalized(address: str) -> tuple[object, int]:
    """One form for all spellings of an address: the zone as a number, an IPv4-mapped IPv6 address
    as IPv4.
    """
    host, _, zone = address.partition("%")
    found = ipaddress.ip_address(host)
    if isinstance(found, ipaddress.IPv4Address):
        return found, 0
    return found.ipv4_mapped or found, _zone_number(zone)


def _unfit(descriptor: int, number: int) -> UsageError:
    message = f"inherited descriptor {descriptor}: must be a listening TCP socket"
    return UsageError(f"{message} ({os.strerror(number)})")


def _bound(address: str, port: int) -> Listener:
    family, kind, protocol, target = _resolved(address, port)
    made = socket.socket(family, kind, protocol)
    try:
        lost = serve_both_families(made) if family == socket.AF_INET6 else None
        with _named("SO_REUSEADDR"):
            # Connections that the server closed first stay in TIME_WAIT; a restart must still bind.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(made, target, port)
        listener = Listener(made)
    except OSError:
        close(made)
        raise
    if lost and address == "::":
        listener.tuning.refused.append(lost)
    return listener


def _resolved(address: str, port: int) -> tuple[int, int, int, tuple[object, ...]]:
    """Family, kind, protocol and target of an IP address."""
    flags = socket.AI_NUMERICHOST | socket.AI_PASSIVE
    try:
        # Bytes, because for text the interpreter loads a megabyte of character tables.
        found = socket.getaddrinfo(address.encode(), port, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror as error:
        _, _, zone = address.partition("%")
        if not zone:
            raise
        if _zone_number(zone) > 0:
            raise OSError(errno.EINVAL, "only a link-local address can have a zone") from error
        raise OSError(errno.ENODEV, f"no network interface {zone}") from error
    family, kind, protocol, _, target = found[0]
    return family, kind, protocol, target


def _bind(made: socket.socket, target: tuple[object, ...], port: int) -> None:
    try:
        made.bind(target)
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
        raise OSError(errno.EACCES, f"{_why(error)} ({_rule_for(port)})") from error


def _rule_for(port: int) -> str:
    """What binding a port requires: the reason why it was not permitted."""
    name, capability = "net.ipv4.ip_unprivileged_port_start", "CAP_NET_BIND_SERVICE"
    try:
        start = int(UNPRIVILEGED_PORT_START.read_text())
    except (OSError, ValueError):  # not Linux, or hidden in a sandbox
        return f"ports below {name}, 1024 by default, need the capability {capability}"
    if 0 < port < start:
        return f"ports below {start} ({name}) need the capability {capability}"
    return (
        f"not for lack of {capability}, since {name} is {start}:"
        " a security module or a sandbox forbids it"
    )


@contextmanager
def _named(step: str) -> Iterator[None]:
    """Add the failed step to the message of an OSError."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{step}: {_why(error)}") from error


def _zone_name(number: int) -> str:
    try:
        return socket.if_indextoname(number)
    except OSError:  # the interface has gone
        return str(number)


def _zone_number(zone: str) -> int:
    """The number of a zone: 0 without one, -1 if there is no such interface. As in the C library,
    an interface's name takes precedence over a number.
    """
    with suppress(OSError):
        return socket.if_nametoindex(zone)
    return int(zone or 0) if zone.isdigit() or not zone else -1


def _why(error: OSError) -> str:
    return error.strerror or str(error)
