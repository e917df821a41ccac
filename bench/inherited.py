"""echod processes on one listening socket, inherited as from systemd.

python inherited.py COUNT PORT PREFIX [echod's options]
"""

from __future__ import annotations

import os
import signal
import socket
import sys

FIRST_DESCRIPTOR = 3  # as in sd_listen_fds(3)


def become_echod(listener: socket.socket, words: list[str]) -> None:
    """Replace this process by an echod."""
    os.dup2(listener.fileno(), FIRST_DESCRIPTOR)  # the copy is inherited
    os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="echo", LISTEN_PID=str(os.getpid()))
    os.execv(sys.executable, [sys.executable, "-m", "echod", *words])  # noqa: S606


def main(count: int, port: int, words: list[str]) -> None:
    """Start the processes, and end them when this one is terminated."""
    listener = socket.create_server(("127.0.0.1", port), backlog=socket.SOMAXCONN)
    if listener.fileno() == FIRST_DESCRIPTOR:
        listener.set_inheritable(True)
    children: list[int] = []

    def end(*_: object) -> None:
        for child in children:
            os.kill(child, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    for _ in range(count):
        child = os.fork()
        if not child:
            become_echod(listener, words)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[2:])
