"""The library that makes calls fail, and the file by which a process is told which one."""

from __future__ import annotations

import mmap
import struct
import subprocess
from collections import Counter
from pathlib import Path

SOURCE = Path(__file__).with_name("injector.c")
KINDS = (
    "any", "accept4", "recvfrom, TCP", "recvfrom, Unix", "sendto, TCP", "sendto, Unix", "sendmsg",
    "epoll_create1", "epoll_ctl, ADD", "epoll_ctl, MOD", "epoll_ctl, DEL", "epoll_wait",
    "close, socket", "close, file", "shutdown", "setsockopt", "getsockopt", "getsockname", "socket",
    "bind", "listen", "socketpair", "ioctl, FIONBIO", "ioctl, FIONREAD", "ioctl, others", "openat",
    "read", "write, Unix", "write, others", "fcntl", "prlimit64", "poll", "select", "mmap", "clone",
    "connect", "getaddrinfo", "dlopen", "wait4", "kill", "rename", "mkdir", "unlink", "dup",
    "getpeername", "fork", "pipe2", "clock_nanosleep", "read, TCP", "write, TCP",
)  # fmt: skip
"""As in injector.c: the calls by their names in the kernel, some in parts."""
NOTHING, FAIL, SIGNAL, DELAY = range(4)
FIELDS = ("owner", "kind", "number", "action", "value", "times", "done", "thread", "done_kind",
          "every", "seed")  # fmt: skip
COUNTS = struct.Struct("64I")


def compiled(directory: Path) -> Path:
    """The library, made anew: it takes a second."""
    library = directory / "injector.so"
    words = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]
    subprocess.run([*words, str(library), str(SOURCE), "-ldl"], check=True, timeout=120)
    return library


class Control:
    """What is to happen to one process, and what has."""

    def __init__(self, library: Path, path: Path) -> None:
        path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.variables = {"LD_PRELOAD": str(library), "INJECT_CONTROL": str(path)}

    def close(self) -> None:
        self._page.close()

    def __getitem__(self, field: str) -> int:
        return int(struct.unpack_from("I", self._page, 4 * FIELDS.index(field))[0])

    def __setitem__(self, field: str, value: int) -> None:
        struct.pack_into("I", self._page, 4 * FIELDS.index(field), value)

    def plan(
        self, kind: str, number: int, action: int, value: int, *, times: int = 1, **chance: int
    ) -> None:
        """Has the call of that kind and number fail (``value`` is the error), meet the signal
        ``value``, or wait ``value`` milliseconds first. By ``chance``: one call of ``every`` so
        many, chosen by ``seed``.
        """
        self["kind"], self["number"], self["value"] = KINDS.index(kind), number, value
        self["times"] = times
        for name in ("every", "seed"):
            self[name] = chance.get(name, 0)
        self["action"] = action

    @property
    def counts(self) -> Counter[str]:
        """The calls so far, by kind."""
        counts = COUNTS.unpack_from(self._page, 4 * len(FIELDS))
        return Counter(dict(zip(KINDS, counts, strict=False)))

    @property
    def done_in_main_thread(self) -> bool:
        return self["thread"] == self["owner"]

    @property
    def done_kind(self) -> str:
        return KINDS[self["done_kind"]]
