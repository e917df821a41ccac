"""Two peers: a Protocol on asyncio's own event loop, and on uvloop's.

python loops.py asyncio|uvloop PORT PREFIX
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import cast


class Echo(asyncio.Protocol):
    """Answers all arrived lines with one write. Both loops switch Nagle's algorithm off."""

    prefix = sys.argv[3].encode() + b" " if len(sys.argv) > 3 else b""
    transport: asyncio.Transport
    tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called at the start of a connection."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called at the end of a connection, also after a half-close: the loop sends pending data
        and closes.
        """
        lines, newline, tail = data.rpartition(b"\n")
        if newline:
            between = newline + self.prefix
            lines = self.tail + lines
            self.transport.write(self.prefix + lines.replace(newline, between) + newline)
            self.tail = tail
        else:
            self.tail += data

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read its replies."""
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Resume reading: the replies have been sent."""
        self.transport.resume_reading()


async def serve(port: int) -> None:
    """Serve until the process is terminated."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", port, backlog=socket.SOMAXCONN)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "uvloop":
        import uvloop

        uvloop.run(serve(int(sys.argv[2])))
    else:
        asyncio.run(serve(int(sys.argv[2])))
