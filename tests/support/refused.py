"""A socket whose next call the system refuses."""

from __future__ import annotations

import os
import socket
from typing import Any, ClassVar

import pytest


class Refusing(socket.socket):
    """``refuse`` sets the error that a call raises the next time."""

    to_refuse: ClassVar[dict[str, int]] = {}  # of all sockets made from now on

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._refused = dict(self.to_refuse)

    def refuse(self, call: str, number: int) -> None:
        self._refused[call] = number

    def _meet(self, call: str) -> None:
        if number := self._refused.pop(call, 0):
            raise OSError(number, os.strerror(number))

    def settimeout(self, value: float | None) -> None:
        self._meet("settimeout")
        super().settimeout(value)

    def getsockopt(self, *arguments: Any) -> Any:
        self._meet("getsockopt")
        return super().getsockopt(*arguments)

    def recv(self, *arguments: Any) -> bytes:
        self._meet("recv")
        return super().recv(*arguments)

    def close(self) -> None:
        super().close()
        self._meet("close")


def accept_refusing(monkeypatch: pytest.MonkeyPatch, **calls: int) -> None:
    """The next accepted socket of an echo port raises these errors."""

    def accepted(*kind: int) -> Refusing:
        made = Refusing(*kind)
        while calls:
            made.refuse(*calls.popitem())
        return made

    monkeypatch.setattr("echod.loop.sockets.SocketType", accepted)
