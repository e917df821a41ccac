"""Which errors a correct program can meet at which call, and the faults that follow."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from typing import NamedTuple

NETWORK = "ECONNRESET ETIMEDOUT EHOSTUNREACH ENETUNREACH ECONNREFUSED EACCES"
ERRORS = {
    kind: names.split()
    for kind, names in {
        # accept(2) passes on what the network has reported of the connection that is next
        "accept4": "EAGAIN ECONNABORTED EINTR EMFILE ENFILE ENOBUFS ENOMEM EPERM EPROTO ENETDOWN"
        " EHOSTUNREACH",
        "recvfrom, TCP": f"EAGAIN EINTR ENOMEM {NETWORK}",
        "recvfrom, Unix": "EINTR ENOMEM EAGAIN",
        "sendto, TCP": f"EAGAIN EINTR ENOMEM ENOBUFS EPIPE {NETWORK}",
        "sendto, Unix": "EAGAIN EINTR ENOMEM ENOBUFS EPIPE ECONNREFUSED EACCES ENOENT",
        "sendmsg": "EAGAIN EINTR ENOMEM ENOBUFS EPIPE",
        "epoll_create1": "EMFILE ENFILE ENOMEM",
        "epoll_ctl, ADD": "ENOMEM ENOSPC",
        "epoll_ctl, MOD": "ENOMEM",
        "epoll_wait": "EINTR",
        "close, socket": "EINTR EIO",
        "close, file": "EINTR EIO",
        "shutdown": "ENOTCONN ENOBUFS",
        "setsockopt": "ENOPROTOOPT EINVAL ENOMEM ENOBUFS EPERM",
        "getsockopt": "ENOPROTOOPT EINVAL ENOMEM ENOBUFS EPERM",
        "getsockname": "ENOBUFS ENOMEM",
        "socket": "EMFILE ENFILE ENOBUFS ENOMEM EACCES EAFNOSUPPORT",
        "bind": "EADDRINUSE EACCES EADDRNOTAVAIL ENOMEM",
        "listen": "EADDRINUSE EOPNOTSUPP ENOMEM EACCES",
        "socketpair": "EMFILE ENFILE ENOMEM",
        "ioctl, FIONBIO": "ENOTTY ENOMEM EPERM",
        "ioctl, FIONREAD": "ENOTTY ENOMEM EPERM",
        "ioctl, others": "ENOTTY EINVAL EIO EPERM",
        "openat": "EACCES EINTR EIO EMFILE ENFILE ENOENT ENOMEM",
        "read": "EINTR EIO ENOMEM",
        "write, Unix": "EAGAIN ENOBUFS ENOMEM",
        "write, others": "EAGAIN EINTR EIO ENOSPC EPIPE EDQUOT",
        "fcntl": "EMFILE ENOMEM EPERM EINVAL",
        "prlimit64": "EPERM EINVAL",
        "poll": "EINTR ENOMEM",
        "select": "EINTR ENOMEM",
        "mmap": "ENOMEM EPERM",
        "clone": "EAGAIN EPERM",
        "connect": "ECONNREFUSED ETIMEDOUT EHOSTUNREACH ENETUNREACH EADDRNOTAVAIL EINTR EACCES",
        "getaddrinfo": "EAI_MEMORY EAI_AGAIN EAI_FAIL",
        "dlopen": "EMFILE ENOMEM",
        "wait4": "EINTR",
        "kill": "EPERM ESRCH",
        "rename": "ENOSPC EACCES EIO",
        "mkdir": "ENOSPC EACCES EROFS",
        "unlink": "EACCES EROFS",
        "dup": "EMFILE",
    }.items()
}
"""Not EBADF, EFAULT and the like, which only a bug brings; nor an error of epoll_ctl's DEL, whose
only ones they are."""
OF_IMPORTS = ("openat", "read", "close, file", "mmap")
"""Calls that imports make by the hundred, one like another: the errors take turns there, and each
call meets one of them. All others meet every error of theirs."""


class Fault(NamedTuple):
    """The call of a kind that fails, and how."""

    kind: str
    number: int
    error: str

    @property
    def value(self) -> int:
        if self.error.startswith("EAI_"):
            return -int(getattr(socket, self.error))
        return int(getattr(errno, self.error))

    def __str__(self) -> str:
        return f"{self.kind} {self.number} {self.error}"


def every_fault(counts: Counter[str]) -> Iterator[Fault]:
    """All faults of a life that made so many calls."""
    for kind, errors in ERRORS.items():
        in_turn = cycle(errors)
        for number in range(1, counts[kind] + 1):
            for error in [next(in_turn)] if kind in OF_IMPORTS else errors:
                yield Fault(kind, number, error)
