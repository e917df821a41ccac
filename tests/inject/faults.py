"""Which errors a correct program can meet at which call, and the faults that follow."""

from __future__ import annotations

import errno
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from typing import NamedTuple

from inject.injector import DELAY, FAIL, SIGNAL, Control

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
        "getpeername": "ENOTCONN ENOBUFS",
        "fork": "EAGAIN ENOMEM",
        "pipe2": "EMFILE ENFILE",
        "clock_nanosleep": "EINTR",
        "read, TCP": f"EAGAIN EINTR ENOMEM {NETWORK}",  # OpenSSL's
        "write, TCP": f"EAGAIN EINTR ENOMEM ENOBUFS EPIPE {NETWORK}",
    }.items()
}
"""Not EBADF, EFAULT and the like, which only a bug brings; nor an error of epoll_ctl's DEL, whose
only ones they are."""
EVERY = 20
DELAYS = (50, 120, 200, 350, 500)
"""Milliseconds."""
SEEDS = 60
OF_IMPORTS = ("openat", "read", "close, file", "mmap")
"""Calls that imports make by the hundred, one like another: the errors take turns there, and each
call meets one of them. All others meet every error of theirs."""


STOPS = ("SIGTERM", "SIGINT", "SIGHUP")
"""Signals that begin a drain."""
OTHERS = ("SIGCHLD", "SIGWINCH")
"""Signals that change nothing."""


class Fault(NamedTuple):
    """The call of a kind that fails, and how: ``error`` is an error's name. Or a signal's, which
    comes at the call; or a time that it takes, ``50 ms``. ``50 ms at one of 40``: at calls that
    chance chooses, with ``number`` as its seed.
    """

    kind: str
    number: int
    error: str

    @property
    def fails(self) -> bool:
        """Whether a call fails by it."""
        return self.error.startswith("E")

    def __str__(self) -> str:
        return f"{self.kind} {self.number} {self.error}"

    def tell(self, control: Control) -> None:
        """Has it happen."""
        word, *more = self.error.split()
        if word.startswith("SIG"):
            control.plan(self.kind, self.number, SIGNAL, signal.Signals[word])
        elif word.startswith("EAI_"):
            control.plan(self.kind, self.number, FAIL, -getattr(socket, word))
        elif word.startswith("E"):
            control.plan(self.kind, self.number, FAIL, getattr(errno, word))
        elif len(more) > 1:
            control.plan(self.kind, 0, DELAY, int(word), every=int(more[-1]), seed=self.number)
        else:
            control.plan(self.kind, self.number, DELAY, int(word))


def every_fault(counts: Counter[str], most: int = 0) -> Iterator[Fault]:
    """All faults of a life that made so many calls; ``most``: of the calls of a kind that are not
    made by imports so many, spread over the life.
    """
    for kind, errors in ERRORS.items():
        in_turn = cycle(errors)
        if kind in OF_IMPORTS:
            yield from (Fault(kind, one, next(in_turn)) for one in range(1, counts[kind] + 1))
            continue
        for number in spread(counts[kind], most or counts[kind]):
            yield from (Fault(kind, number, error) for error in errors)


def spread(count: int, most: int) -> list[int]:
    """Numbers from 1 to ``count``, so many of them at most, the first and the last among them."""
    if count <= max(most, 1):
        return list(range(1, count + 1))
    return sorted({1 + part * (count - 1) // (most - 1) for part in range(most)})


def every_stop(counts: Counter[str]) -> Iterator[Fault]:
    """SIGTERM at each call of a life, the others that begin a drain at each twentieth."""
    for number in range(1, counts["any"] + 1):
        yield Fault("any", number, "SIGTERM")
    for number in range(1, counts["any"] + 1, EVERY):
        for name in STOPS[1:]:
            yield Fault("any", number, name)


def every_other_signal(counts: Counter[str]) -> Iterator[Fault]:
    """Signals that stop nothing, at each twentieth call."""
    for number in range(1, counts["any"] + 1, EVERY):
        for name in OTHERS:
            yield Fault("any", number, name)


def every_kill(counts: Counter[str]) -> Iterator[Fault]:
    """A kill at each call."""
    for number in range(1, counts["any"] + 1):
        yield Fault("any", number, "SIGKILL")


def every_delay(counts: Counter[str]) -> Iterator[Fault]:
    """A few calls of each kind, spread over the life; and lives with delays by chance."""
    times = cycle(DELAYS)
    for kind, count in counts.items():
        if kind == "any" or not count:
            continue
        for number in spread(count, 8):
            yield Fault(kind, number, f"{next(times)} ms")
    for seed in range(1, SEEDS + 1):
        yield Fault("any", seed, f"{next(times)} ms at one of {150 + 10 * (seed % 10)}")
