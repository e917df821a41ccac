"""Bound sockets: made here, or handed over by whoever started the process."""

import errno
import os
import socket

from echod.config import SystemRefused, UsageError

BACKLOG = 65535
"""More than any system's maximum (net.core.somaxconn, for example), which then applies."""

UNSENT_BYTES = 128 * 1024
"""What the kernel takes of a client's replies while it cannot send them. Left to itself it takes
2.7 MB in 3.8 MB of its memory, which no limit of ours sees and a container's memory limit does."""

_KEEPALIVE = (  # a dead peer is found after 60 s + 6 * 10 s
    ("TCP_KEEPIDLE", 60),
    ("TCP_KEEPALIVE", 60),  # its name on macOS
    ("TCP_KEEPINTVL", 10),
    ("TCP_KEEPCNT", 6),
)
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


class Listener:
    """A bound socket. An ``inherited`` one is somebody else's to close: it stays open.

    ``port`` is the real one where the system was asked for any, ``host`` its address alone;
    ``address`` is written ``[::]:9000`` or ``0.0.0.0:9000``.
    """

    def __init__(self, bound: socket.socket, *, inherited: bool = False) -> None:
        self.socket = bound
        self.inherited = inherited
        self.host, self.port = bound.getsockname()[:2]
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.address = f"{host}:{self.port}"


def bind(option: str, address: str, port: int) -> Listener:
    """Binds a TCP port of an address, which ``option`` asks for, and does not listen yet.

    ``::`` takes IPv4 clients too, and stands for ``0.0.0.0`` where there is no IPv6.
    Raises SystemRefused.
    """
    try:
        try:
            return Listener(_bound_socket(address, port))
        except OSError as error:
            if address != "::" or error.errno not in _NO_IPV6:
                raise
            return Listener(_bound_socket("0.0.0.0", port))  # noqa: S104  # asked for by "::"
    except OSError as error:
        message = f"{option} {port}: cannot listen on it at address {address}: {_why(error)}"
        raise SystemRefused(message) from error


def inherit(descriptor: int) -> Listener:
    """The listening TCP socket that the process was started with. Raises UsageError."""
    try:
        inherited = socket.socket(fileno=descriptor)
        if inherited.family not in (socket.AF_INET, socket.AF_INET6):
            raise OSError(errno.EAFNOSUPPORT, "")
        if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(errno.EINVAL, "")
        prepare(inherited)
    except OSError as error:
        message = f"inherited descriptor {descriptor}: must be a listening TCP socket"
        raise UsageError(f"{message} ({_why(error)})") from error
    return Listener(inherited, inherited=True)


def listen(listener: Listener) -> None:
    """Listens on a bound socket. Raises SystemRefused."""
    try:
        listener.socket.listen(BACKLOG)
    except OSError as error:
        raise SystemRefused(f"cannot listen on {listener.address}: {_why(error)}") from error


def _bound_socket(address: str, port: int) -> socket.socket:
    info = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
    )
    family, kind, protocol, _, target = info[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # A server that closes first leaves TIME_WAIT behind; a restart must bind all the same.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
    except OSError:
        listener.close()
        raise
    prepare(listener)
    return listener


def prepare(listener: socket.socket) -> None:
    """Sets what accepted sockets inherit: no Nagle, keep-alive, little unsent in the kernel.

    The listener never blocks.
    """
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (*_KEEPALIVE, ("TCP_NOTSENT_LOWAT", UNSENT_BYTES)):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _why(error: OSError) -> str:
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    if error.errno == errno.EACCES:
        return f"{reason} (a port below 1024 needs the capability CAP_NET_BIND_SERVICE)"
    return reason
