"""Facts about the interpreter and the operating system."""

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

from echod.errors import UsageError, shown
from echod.texts import decoded

COMMAND_LINE = Path("/proc/self/cmdline")
EXACT_ENCODINGS = ("utf-8", "ascii")
"""Encodings of a locale with which ``os.fsencode`` returns an argument's bytes unchanged."""


def gil_enabled() -> bool:
    """Whether this interpreter has a global lock that is switched on."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def usable_cpus() -> int:
    """The CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_files() -> int:
    """The number of open file descriptors, or 3 if the system does not show it."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:  # a bare chroot
        return 3


def arguments() -> list[str]:
    """The command line's arguments byte for byte, as text by ``texts.decoded``.

    The C library decodes arguments by the locale, and ``os.fsencode`` encodes them by a Python
    codec. For Big5, GB18030, CP1255 and others the two differ: bytes change, or are lost. So this
    reads the kernel's copy. If the system hides it, arguments must be ASCII. Raises UsageError.
    """
    words = sys.argv[1:]
    encoding = sys.getfilesystemencoding()
    if encoding in EXACT_ENCODINGS:
        return [decoded(os.fsencode(word)) for word in words]
    others = len(sys.orig_argv) - len(words)
    try:
        given = COMMAND_LINE.read_bytes().split(b"\0")[:-1]
    except OSError:
        given = []
    if len(given) == len(sys.orig_argv) and words == sys.orig_argv[others:]:
        return [decoded(word) for word in given[others:]]
    for word in words:
        if not word.isascii():
            raise UsageError(
                f"argument {shown(word)}: must be ASCII if {COMMAND_LINE} cannot be read and the"
                f" locale's encoding is {encoding}; set its environment variable, or PYTHONUTF8=1"
            )
    return words


def give_back_memory() -> None:
    """Have the C library return free memory to the system, if it has a function for that.

    glibc keeps freed memory that lies below a block still in use. musl and others do not.
    """
    _ask_libc("malloc_trim", 0)


def share_one_heap() -> None:
    """Have glibc use one heap for all threads. Call it before they start.

    A heap for each thread reserves 64 MiB of address space, which ``ulimit -v`` counts.
    """
    _ask_libc("mallopt", -8, 1)  # M_ARENA_MAX


def _ask_libc(function: str, *arguments: int) -> None:
    try:
        import ctypes  # noqa: PLC0415  # takes a megabyte, and few processes need it

        getattr(ctypes.CDLL(None), function)(*arguments)
    except (ImportError, OSError, AttributeError, MemoryError):  # a static build, no descriptor
        pass


def fill_standard_descriptors() -> None:
    """Open /dev/null in place of a closed standard input, output or error.

    Otherwise the next socket would get that number, and log lines would go to it. /dev/null is
    opened for reading, so that writes fail as on a closed descriptor, and are counted.
    """
    with suppress(OSError):  # a bare chroot has no /dev/null
        while (descriptor := os.open(os.devnull, os.O_RDONLY)) <= 2:
            pass
        os.close(descriptor)


def raise_open_file_limit() -> int:
    """Raise the soft open-file limit to the hard one; return the limit now in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # macOS does not allow "unlimited"
            pass
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
