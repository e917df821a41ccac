"""Many clients at once, driven by one thread: none waits for another."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from support import connect

CHUNK_BYTES = 64 * 1024


class Senders:
    """Clients that all send the same data, as fast as the server takes it."""

    def __init__(self, port: int, count: int, data: bytes, **options: Any) -> None:
        """``options`` are those of ``connect``."""
        self._closing = ExitStack()
        self._unsent: dict[socket.socket, memoryview] = {}
        self._reset: set[socket.socket] = set()  # a socket tells it once only
        self.clients: list[socket.socket] = []
        for _ in range(count):
            client = self._closing.enter_context(connect(port, **options))
            client.setblocking(False)
            self.clients.append(client)
            self._unsent[client] = memoryview(data)

    def __enter__(self) -> Senders:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.close()

    def send(self) -> int:
        """A chunk of each client, as far as it fits; gives the bytes that went out.

        A client whose connection the server has ended sends no more.
        """
        total = 0
        for client, left in list(self._unsent.items()):
            try:
                sent = client.send(left[:CHUNK_BYTES])
            except BlockingIOError:
                continue
            except ConnectionError:
                self._reset.add(client)
                del self._unsent[client]
                continue
            total += sent
            if sent == len(left):
                del self._unsent[client]
            else:
                self._unsent[client] = left[sent:]
        return total

    def ends(self) -> list[str]:
        """How each connection ended, of those that have: ``eof`` or ``reset``.

        For clients that are owed nothing, or do not care: it reads.
        """
        ends = []
        for client in self.clients:
            try:
                while client.recv(CHUNK_BYTES):
                    pass
            except BlockingIOError:
                continue
            except ConnectionError:
                self._reset.add(client)
            ends.append("reset" if client in self._reset else "eof")
        return ends
