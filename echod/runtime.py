"""Facts about the interpreter and the system underneath."""

import os
import resource
import sys
from contextlib import suppress


def gil_enabled() -> bool:
    """Whether this interpreter has a global lock, and has it switched on."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def usable_cpus() -> int:
    """The CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_files() -> int:
    """How many descriptors are open now, as far as the system tells."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:  # a bare chroot
        return 3


def give_back_memory() -> None:
    """Has the C library return its free memory to the system, as far as it can be asked to.

    glibc keeps what was freed below a block that is still in use. musl and others do not.
    """
    _ask_libc("malloc_trim", 0)


def share_one_heap() -> None:
    """Has the threads of glibc share one heap. To be called before they start.

    A heap of its own reserves 64 MiB of address space for a thread, which ``ulimit -v`` counts.
    """
    _ask_libc("mallopt", -8, 1)  # M_ARENA_MAX


def _ask_libc(function: str, *arguments: int) -> None:
    try:
        import ctypes  # noqa: PLC0415  # a megabyte, which few processes ever need

        getattr(ctypes.CDLL(None), function)(*arguments)
    except (ImportError, OSError, AttributeError, MemoryError):  # a static build, no descriptor
        pass


def fill_standard_descriptors() -> None:
    """Puts /dev/null where standard input, output or error was closed.

    The next socket would take its number otherwise, and be written to as a log. Opened for
    reading: writing fails, as it does on a closed descriptor, and is counted.
    """
    with suppress(OSError):  # a bare chroot has none
        while (descriptor := os.open(os.devnull, os.O_RDONLY)) <= 2:
            pass
        os.close(descriptor)


def raise_open_file_limit() -> int:
    """Raises the soft open-file limit to the hard one, and gives what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # macOS does not allow "unlimited"
            pass
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
