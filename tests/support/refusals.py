"""A kernel that refuses socket options: in this process, or under a whole other one."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

ERRORS = ("ENOPROTOOPT", "EOPNOTSUPP", "EINVAL")
"""How kernels say that they do not have an option."""

TUNING = (
    "TCP_NODELAY",
    "SO_KEEPALIVE",
    "TCP_KEEPIDLE",
    "TCP_KEEPINTVL",
    "TCP_KEEPCNT",
    "TCP_NOTSENT_LOWAT",
)
"""What the service can do without, on Linux."""

_NUMBERS = {name: getattr(socket, name) for name in (*TUNING, "SO_REUSEADDR", "IPV6_V6ONLY")}
_NUMBERS["IP_BIND_ADDRESS_NO_PORT"] = 24
_LEVELS = {"TCP": "IPPROTO_TCP", "SO": "SOL_SOCKET", "IPV6": "IPPROTO_IPV6", "IP": "IPPROTO_IP"}


def _refused(names: tuple[str, ...]) -> set[tuple[int, int]]:
    return {(getattr(socket, _LEVELS[name.partition("_")[0]]), _NUMBERS[name]) for name in names}


def refuse(monkeypatch: pytest.MonkeyPatch, error: str, *names: str) -> None:
    """Has every socket of this process refuse options."""
    refused, number = _refused(names), getattr(errno, error)

    class Refusing(socket.socket):
        def setsockopt(self, level: int, option: int, *value: Any) -> None:
            if (level, option) in refused:
                raise OSError(number, os.strerror(number))
            super().setsockopt(level, option, *value)

    monkeypatch.setattr(socket, "socket", Refusing)


_SITE = """
import os, socket

original = socket.socket.setsockopt

def setsockopt(self, level, option, *value):
    if (level, option) in {refused}:
        raise OSError({number}, os.strerror({number}))
    original(self, level, option, *value)

socket.socket.setsockopt = setsockopt
"""


def refusing_process(directory: Path, error: str, *names: str) -> dict[str, str]:
    """Variables under which a Python process finds such a kernel."""
    text = _SITE.format(refused=sorted(_refused(names)), number=getattr(errno, error))
    (directory / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(directory)}
