"""The conversation that every peer must answer correctly before it is timed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable

PATIENCE = 5.0
"""Seconds within which a reply must arrive."""

SILENCE = 0.05
"""Seconds without data that count as no reply."""

LINES = b"alpha\nbeta\r\n\n\x00\xff\xfe\x80\n  spaces \n\r\n"


class Wrong(Exception):
    """What the server did wrong, in one line."""


def expected(data: bytes, prefix: bytes) -> bytes:
    """The replies to these bytes; bytes after the last newline get none."""
    return b"".join(prefix + b" " + line + b"\n" for line in data.split(b"\n")[:-1])


class Client:
    """One connection that talks to a server."""

    def __init__(self, port: int, prefix: bytes) -> None:
        self.prefix = prefix
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, pieces: Iterable[bytes], pause: float = 0.0) -> None:
        """Send the pieces one by one."""
        for piece in pieces:
            self.socket.sendall(piece)
            if pause:
                time.sleep(pause)

    def hear(self, due: bytes) -> None:
        """Expect exactly these bytes."""
        heard = bytearray()
        while len(heard) < len(due):
            piece = self.socket.recv(1 << 16)
            if not piece:
                raise Wrong(f"the end came after {len(heard)} of {len(due)} bytes")
            heard += piece
            if not due.startswith(heard):
                raise Wrong(difference(bytes(heard), due))

    def silence(self) -> None:
        """Expect no data."""
        self.socket.settimeout(SILENCE)
        try:
            heard = self.socket.recv(1 << 16)
        except TimeoutError:
            self.socket.settimeout(PATIENCE)
        else:
            raise Wrong(f"{heard[:40]!r} came where nothing was due")

    def end(self, due: bytes = b"") -> None:
        """After a half-close, expect exactly these bytes and then the end of the stream."""
        self.socket.shutdown(socket.SHUT_WR)
        self.hear(due)
        heard = self.socket.recv(1 << 16)
        if heard:
            raise Wrong(f"{heard[:40]!r} came after the last reply")


def difference(heard: bytes, due: bytes) -> str:
    """The first difference between the two."""
    at = next((i for i, (a, b) in enumerate(zip(heard, due, strict=False)) if a != b), len(due))
    return f"{heard[at : at + 40]!r} came in the place of {due[at : at + 40]!r}"


def cut_anywhere(client: Client) -> None:
    """Byte by byte, then in threes."""
    for size in (1, 3):
        pieces = [LINES[at : at + size] for at in range(0, len(LINES), size)]
        client.say(pieces, pause=0.001)
        client.hear(expected(LINES, client.prefix))
    client.end()


def pipelined(client: Client) -> None:
    """Many lines in one piece."""
    data = b"".join(b"line %d\n" % number for number in range(2000))
    client.say([data])
    client.hear(expected(data, client.prefix))
    client.end()


def server_waits(client: Client) -> None:
    """No greeting, and no answer to half a line."""
    client.silence()
    client.say([b"half"])
    client.silence()
    client.say([b" and half\nmore"])
    client.hear(expected(b"half and half\n", client.prefix))
    client.silence()
    client.end()


def tail(client: Client) -> None:
    """Bytes after the last newline are dropped."""
    client.say([b"a\nb"])
    client.end(expected(b"a\n", client.prefix))


def long_line(client: Client) -> None:
    """64 KiB, in pieces."""
    data = bytes(range(11, 256)) * 268 + b"\n"
    client.say([data[:1000], data[1000:40000], data[40000:]], pause=0.002)
    client.hear(expected(data, client.prefix))
    client.end()


def half_close(client: Client) -> None:
    """The client closes its side first, and reads late: every reply must still arrive."""
    data = b"".join(b"%d %s\n" % (number, b"x" * 150) for number in range(20_000))
    sender = threading.Thread(target=_send_and_shut, args=(client.socket, data))
    sender.start()
    try:
        time.sleep(0.1)
        client.hear(expected(data, client.prefix))
        if client.socket.recv(1):
            raise Wrong("more came than was due")
    finally:
        client.socket.close()
        sender.join()


def _send_and_shut(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other side finds out


CASES: dict[str, Callable[[Client], None]] = {
    "lines cut anywhere": cut_anywhere,
    "a pipeline": pipelined,
    "half a line": server_waits,
    "a tail": tail,
    "a long line": long_line,
    "half-close with replies due": half_close,
}


def fault(port: int, prefix: str) -> str:
    """The first error of a server, or an empty string."""
    try:
        one, other = Client(port, prefix.encode()), Client(port, prefix.encode())
        with one.socket, other.socket:
            one.say([b"o"])
            other.say([b"other\n"])
            other.hear(expected(b"other\n", other.prefix))
            one.say([b"ne\n"])
            one.end(expected(b"one\n", one.prefix))
    except (Wrong, OSError) as error:
        return f"two clients: {error or type(error).__name__}"
    for name, case in CASES.items():
        try:
            client = Client(port, prefix.encode())
            with client.socket:
                case(client)
        except (Wrong, OSError) as error:
            return f"{name}: {error or type(error).__name__}"
    return ""
