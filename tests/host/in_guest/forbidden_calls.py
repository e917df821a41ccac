"""Tries what an echo server has no business with, as the service's own interpreter would.

Prints, as JSON, what was allowed: of what follows, nothing but making a TCP socket should be.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    if getattr(LIBC, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def listed(path: str) -> None:
    if not list(Path(path).iterdir()):
        raise OSError("empty")


def another_process() -> None:
    Path("/proc/1/cmdline").read_bytes()


def setuid_bit() -> None:
    file = Path("/tmp/file")
    file.write_text("")
    file.chmod(0o4755)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "tcp": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "ptrace": lambda: call("ptrace", 0, 0, 0, 0),
    "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "setuid": lambda: os.setuid(0),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, 5),
    "personality": lambda: call("personality", 0x0040000),
    "reboot": lambda: call("reboot", 0),
    "bpf": lambda: call("syscall", 321, 0, None, 0),
    "executable memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    "write to /usr": lambda: Path("/usr/written").write_text(""),
    "write to /opt": lambda: Path("/opt/echod/written").write_text(""),
    "write to /var": lambda: Path("/var/tmp/../lib/written").write_text(""),
    "home": lambda: listed("/root"),
    "devices": lambda: Path("/dev/kmsg").read_bytes(),
    "another process": another_process,
    "setuid bit": setuid_bit,
    # What changes this process comes last.
    "user namespace": lambda: call("unshare", 0x10000000),
    "chroot": lambda: os.chroot("/tmp"),
}


def main() -> None:
    allowed = []
    for name, attempt in ATTEMPTS.items():
        with contextlib.suppress(OSError, ValueError):
            attempt()
            allowed.append(name)
    sys.stdout.write(json.dumps(allowed) + "\n")


main()
