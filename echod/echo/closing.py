"""How a connection closes: its states, what it intends, and the reasons that errors give."""

from __future__ import annotations

import errno
import random
from enum import Enum
from typing import NamedTuple

AGE_JITTER = 0.1
"""Ages are spread by this share, so that connections made together do not return together."""


class State(Enum):
    """Of a connection."""

    OPEN = "open"
    CLOSING = "closing"  # it closes when its intent is fulfilled
    CLOSED = "closed"


class CloseIntent(NamedTuple):
    """How a connection is to close, as soon as it has no pending reply.

    ``after_bytes`` of input are read and answered first. Until the time ``until`` (monotonic
    seconds) they are waited for, and the end of an unfinished line is, too; 0: nothing is waited
    for but what has arrived.
    """

    reason: str
    after_bytes: int = 0
    until: float = 0.0


_PEER_GONE = {
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timeout",
    # What the kernel reports instead of ETIMEDOUT if an ICMP error has given a reason.
    errno.EHOSTUNREACH: "timeout",  # by a router, or because no neighbour has the address
    errno.EHOSTDOWN: "timeout",
    errno.ENETUNREACH: "timeout",
    errno.ECONNREFUSED: "timeout",  # by a firewall's ICMP: port unreachable,
    errno.ENOPROTOOPT: "timeout",  # protocol unreachable,
    errno.EACCES: "timeout",  # prohibited (IPv6); or the route of this host is,
    errno.EINVAL: "timeout",  # or is a black hole (IPv6)
}


def reason_of(error: OSError) -> str:
    """Why the connection has closed whose socket has met ``error``."""
    return _PEER_GONE.get(error.errno or 0, "error")


def jittered(age: float) -> float:
    """The age of one connection, in seconds: the configured one, spread."""
    return age * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)  # noqa: S311  # no secret
