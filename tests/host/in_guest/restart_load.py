"""Clients that come RATE a second, served or not, until a file is removed.

usage: restart_load.py PORT PREFIX FILE. It prints, as JSON, the number of connections, the time in
seconds, the bytes sent and received, and the outcomes.
"""

from __future__ import annotations

import asyncio
import errno
import json
import resource
import socket
import sys
import time
from collections import Counter
from pathlib import Path

RATE = 250
MOST_SECONDS = 300
MOST_AT_ONCE = 1000
"""A machine that cannot keep up is not asked for more and more."""
PATIENCE = 60  # seconds for one conversation
HESITATION = 0.2  # seconds
LATE = 0.5
"""A process that stops may close a client that has sent nothing for about a second. A client that
the machine has kept from sending for so long is owed no answer."""
LINES = 4


class Client:
    """One connection and what has passed on it."""

    def __init__(self, number: int, port: int, head: bytes) -> None:
        self.number = number
        self.address = ("127.0.0.1", port)
        self.head = head
        self.connected = False
        self.silence = 0.0
        self.due = self.sent = self.received = b""

    async def converse(self) -> str:
        """How it ended, in words."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self.connect()
        except TimeoutError:
            end = "nothing more"
        except OSError as error:
            end = errno.errorcode.get(error.errno or 0, "error")
        else:
            end = "the end"
        if self.received == self.due and end == "the end":
            return "answered"
        if not self.received and self.silence > LATE:
            return "asked too late"
        whole = self.received.endswith(b"\n") and self.due.startswith(self.received)
        if whole and end == "the end":
            return "ended between lines"
        return f"{end} after {self.received[-100:]!r} of {self.due[-100:]!r}"

    async def connect(self) -> None:
        with socket.socket() as self.socket:
            # At once, as long as the queue is not full: then the line follows without delay.
            self.began = time.monotonic()
            self.socket.connect(self.address)
            self.connected = True
            self.socket.setblocking(False)
            await (self.ask, self.hesitate, self.hold, self.half_close)[self.number % 4]()

    @property
    def replies(self) -> int:
        return self.received.count(b"\n")

    async def ask(self) -> None:
        """A line, its reply, and away."""
        await self.send(0)
        while not self.replies and await self.receive():
            pass

    async def half_close(self) -> None:
        await self.send(0)
        self.socket.shutdown(socket.SHUT_WR)
        while await self.receive():
            pass

    async def hesitate(self) -> None:
        """Connects, and has nothing to say yet."""
        await asyncio.sleep(HESITATION)
        await self.half_close()

    async def hold(self) -> None:
        """Several lines, with time between them in which the end may come."""
        self.due = b"".join(self.head + self.line(index) for index in range(LINES))
        for index in range(LINES):
            await self.send(index)
            while self.replies <= index:
                if not await self.receive():
                    return
            await asyncio.sleep(HESITATION)
            if self.ended():
                return

    def line(self, index: int) -> bytes:
        return b"%d of %d\n" % (index, self.number)

    async def send(self, index: int) -> None:
        line = self.line(index)
        self.due = self.due or self.head + line
        self.sent += line
        await asyncio.get_running_loop().sock_sendall(self.socket, line)
        self.silence = self.silence or time.monotonic() - self.began

    async def receive(self) -> bool:
        """False at the end of the stream."""
        piece = await asyncio.get_running_loop().sock_recv(self.socket, 4096)
        self.received += piece
        return bool(piece)

    def ended(self) -> bool:
        """Whether the other side has closed meanwhile."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False


async def load(port: int, head: bytes, running: Path) -> dict[str, object]:
    clients: list[Client] = []
    conversations: list[asyncio.Task[str]] = []
    busy = asyncio.Semaphore(MOST_AT_ONCE)
    began = time.monotonic()
    while running.exists() and (seconds := time.monotonic() - began) < MOST_SECONDS:
        await asyncio.sleep(0.01)
        while len(clients) < seconds * RATE and not busy.locked():
            await busy.acquire()
            clients.append(Client(len(clients), port, head))
            conversations.append(asyncio.create_task(clients[-1].converse()))
            conversations[-1].add_done_callback(lambda _: busy.release())
    seconds = time.monotonic() - began
    outcomes = Counter(await asyncio.gather(*conversations))
    return {
        "seconds": seconds,
        "connections": sum(client.connected for client in clients),
        "replies": sum(client.replies for client in clients),
        "sent_bytes": sum(len(client.sent) for client in clients),
        "received_bytes": sum(len(client.received) for client in clients),
        "outcomes": outcomes,
    }


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port, prefix, running = sys.argv[1:]
    report = asyncio.run(load(int(port), prefix.encode() + b" ", Path(running)))
    sys.stdout.write(json.dumps(report))
