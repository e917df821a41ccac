"""Two peers: a Protocol on asyncio's own event loop, and on uvloop's.

python loops.py asyncio|uvloop PORT PREFIX
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import cast


class Echo(asyncio.Protocol):
    """Answers all the lines that have come with one write. Both loops switch Nagle off."""

    prefix = sys.argv[3].encode() + b" " if len(sys.argv) > 3 else b""
    transport: asyncio.Transport
    tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """At the start of a connection."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """At the end of it, after half-close too, the loop sends what is due and closes."""
        lines, newline, tail = data.rpartition(b"\n")
        if newline:
            between = newline + self.prefix
            lines = self.tail + lines
            self.transport.write(self.prefix + lines.replace(newline, between) + newline)
            self.tail = tail
        else:
            self.tail += data

    def pause_writing(self) -> None:
        """Who does not take replies is not read."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The replies have left."""
        self.transport.resume_reading()


async def serve(port: int) -> None:
    """Until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", port, backlog=socket.SOMAXCONN)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        import uvloop

        uvloop.run(serve(int(sys.argv[2])))
    else:
        asyncio.run(serve(int(sys.argv[2])))
