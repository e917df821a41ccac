"""How a connection closes: its states, its intent to close, and the reasons for errors."""

from __future__ import annotations

import errno
import random
from enum import Enum
from typing import NamedTuple

AGE_JITTER = 0.1
"""Maximum ages vary by this share, so that clients that connected together do not reconnect
together."""


class State(Enum):
    """The state of a connection."""

    OPEN = "open"
    CLOSING = "closing"  # until its intent is fulfilled
    CLOSED = "closed"


# Reading a member from its class calls a method of the metaclass in Python 3.11.
OPEN, CLOSING, CLOSED = State


class CloseIntent(NamedTuple):
    """How a connection closes once it has no pending reply.

    ``after_bytes`` of input are read and answered first. Until ``until`` (monotonic seconds) the
    connection waits for them, and for the end of an unfinished line. If ``until`` is 0, it waits
    for nothing that has not arrived.
    """

    reason: str
    after_bytes: int = 0
    until: float = 0.0

    def is_fulfilled(self, in_line: bool) -> bool:
        """Whether a connection without a pending reply may close. ``in_line``: it has an unfinished
        line.
        """
        return self.after_bytes <= 0 and not (self.until and in_line)


ORDERLY = frozenset({"idle", "max_age", "line_too_long", "buffer_limit", "drain"})
"""Reasons for which echod closes a connection that may have more input on its way."""


_PEER_GONE = {
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timeout",
    # The kernel reports these instead of ETIMEDOUT if an ICMP error has told it the cause.
    errno.EHOSTUNREACH: "timeout",  # from a router, or no neighbour has the address
    errno.EHOSTDOWN: "timeout",
    errno.ENETUNREACH: "timeout",
    errno.ECONNREFUSED: "timeout",  # a firewall's ICMP: port unreachable
    errno.ENOPROTOOPT: "timeout",  # a firewall's ICMP: protocol unreachable
    errno.EACCES: "timeout",  # a firewall's ICMP, or a route of this host: prohibited (IPv6)
    errno.EINVAL: "timeout",  # a route of this host: black hole (IPv6)
}


def reason_of(error: OSError) -> str:
    """The close reason of a connection whose socket reported ``error``."""
    return _PEER_GONE.get(error.errno or 0, "error")


def jittered(age: float) -> float:
    """The maximum age of one connection in seconds: the configured one, varied at random."""
    return age * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)  # noqa: S311  # no secret
