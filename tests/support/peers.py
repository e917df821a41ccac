"""Servers other than echod, for tests of the probe."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from support import PATIENCE, reset

Behaviour = Callable[[socket.socket, int], None]
"""What is done with a connection; its number counts from 0."""


@contextmanager
def serving(behaviour: Behaviour, host: str = "127.0.0.1") -> Iterator[int]:
    """A server with a thread for each connection; gives its port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family, backlog=512)

    def serve(connection: socket.socket, number: int) -> None:
        with suppress(OSError), connection:
            connection.settimeout(PATIENCE)
            behaviour(connection, number)

    def accept() -> None:
        number = 0
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                Thread(target=serve, args=(connection, number), daemon=True).start()
                number += 1

    thread = Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def line_of(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = connection.recv(4096)
        if not piece:
            return b""
        data += piece
    return data


def sample_of(line: bytes) -> int:
    """The number of the probe's sample that sends it: in the order in which samples begin."""
    return int(line.rsplit(b"-", 1)[1])


def answering(behaves: Callable[[int], bool]) -> Behaviour:
    """Answers ``one`` to the samples whose number passes, and resets the others."""

    def behave(connection: socket.socket, number: int) -> None:
        line = line_of(connection)
        if not line:  # it has connected, but its run is over
            return
        if behaves(sample_of(line)):
            connection.sendall(b"one " + line)
            prefixing(b"one")(connection, number)
        else:
            reset(connection)

    return behave


def prefixing(*prefixes: bytes) -> Behaviour:
    """Answers like the reference, each connection with the next prefix in turn."""

    def behave(connection: socket.socket, number: int) -> None:
        while line := line_of(connection):
            connection.sendall(prefixes[number % len(prefixes)] + b" " + line)

    return behave


def saying(data: bytes, *, first: bool = False) -> Behaviour:
    """Sends the same reply to everything; ``first``: without waiting for a request."""

    def behave(connection: socket.socket, _number: int) -> None:
        if first:
            connection.sendall(data)
        line_of(connection)
        if not first:
            connection.sendall(data)

    return behave


def endless(connection: socket.socket, _number: int) -> None:
    while True:
        connection.sendall(b"x" * 4096)


def silent(connection: socket.socket, _number: int) -> None:
    while connection.recv(4096):
        pass


def dripping(connection: socket.socket, _number: int) -> None:
    """A byte now and then, never a newline: each read succeeds."""
    line_of(connection)
    connection.settimeout(0.05)
    while True:
        connection.sendall(b"x")
        with suppress(TimeoutError):
            if not connection.recv(1):
                return


def resetting(connection: socket.socket, _number: int) -> None:
    line_of(connection)
    reset(connection)


def mixing_up(connection: socket.socket, _number: int) -> None:
    """Answers with another client's line."""
    line = line_of(connection)
    connection.sendall(b"one " + line.replace(b"-", b"+"))
