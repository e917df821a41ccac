"""Facts about the interpreter and the system underneath."""

import os
import resource
import sys


def gil_enabled() -> bool:
    """Whether this interpreter has a global lock, and has it switched on."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def usable_cpus() -> int:
    """The CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
