"""How a connection closes: its states, its intent to close, and the reasons for errors."""

from __future__ import annotations

import errno
import random
from enum import Enum
from typing import NamedTuple

AGE_JITTER = 0.1
"""Maximum ages vary by this share, so that clients that connected together do not reconnect
together."""

AGE_GRACE_SECONDS = 1.0
"""How long a connection past its maximum age waits for one more line, to close after a reply."""
FRESH_SECONDS = 1.0
"""How long after its connect a client may send its first byte if a drain begins meanwhile."""


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

    @classmethod
    def drain(
        cls, arrived: int, unused_since: float | None, now: float, deadline: float
    ) -> CloseIntent:
        """A drain: close once the ``arrived`` bytes are answered. A connection that has no input
        since it was opened, at ``unused_since``, gets a moment for its first line, which is
        probably in flight. All times are monotonic seconds.
        """
        if unused_since is not None and now < unused_since + FRESH_SECONDS < deadline:
            return cls("drain", 1, unused_since + FRESH_SECONDS)
        return cls("drain", arrived)

    @classmethod
    def max_age(cls, arrived: int, now: float) -> CloseIntent:
        """A close for age. It costs a client least after a reply, so wait a little for one."""
        return cls("max_age", max(arrived, 1), now + AGE_GRACE_SECONDS)

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
