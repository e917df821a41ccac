"""Stops one thread of a process, and it alone, until it dies.

usage: freeze_thread.py PID INDEX; INDEX counts its threads in the order of their start
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000  # threads, too


def main(process: str, index: int) -> None:
    threads = sorted(int(task.name) for task in Path(f"/proc/{process}/task").iterdir())
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(ctypes.c_long(request), ctypes.c_long(threads[index]), None, None):
            sys.exit(f"ptrace {request:x}: error {ctypes.get_errno()}")
    # Its death has to be acknowledged, or its process would stay as well.
    while not os.WIFSIGNALED(os.waitpid(threads[index], WALL)[1]):
        pass


main(sys.argv[1], int(sys.argv[2]))
