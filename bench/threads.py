"""A peer as in the standard library's documentation, with a thread per connection.

python threads.py PORT PREFIX
"""

from __future__ import annotations

import socket
import sys
from socketserver import StreamRequestHandler, ThreadingTCPServer


class Handler(StreamRequestHandler):
    """Reads a line, answers it, waits for the next."""

    disable_nagle_algorithm = True
    prefix = sys.argv[2].encode() + b" " if len(sys.argv) > 2 else b""

    def handle(self) -> None:
        """Bytes after the last newline get no reply."""
        for line in self.rfile:
            if line.endswith(b"\n"):
                self.wfile.write(self.prefix + line)


class Server(ThreadingTCPServer):
    """A backlog large enough for this benchmark's clients."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = socket.SOMAXCONN


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
