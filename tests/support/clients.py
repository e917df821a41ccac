"""Clients of an echo port and of the metrics port."""

from __future__ import annotations

import fcntl
import http.client
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from support.waiting import PATIENCE, until


def connect(port: int, host: str = "127.0.0.1", **options: int) -> socket.socket:
    """A connected client; ``receive_buffer`` bytes make it a slow reader's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM)
    client.settimeout(PATIENCE)
    if "receive_buffer" in options:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["receive_buffer"])
    try:
        client.connect((host, port))
    except OSError:
        client.close()
        raise
    return client


@contextmanager
def connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    try:
        for _ in range(count):
            clients.append(connect(port))  # noqa: PERF401  # closed even if one fails
        yield clients
    finally:
        for client in clients:
            client.close()


def read_to_end(client: socket.socket) -> bytes:
    """Everything up to the end of the stream; a reset raises ConnectionResetError."""
    pieces = []
    while piece := client.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def read_exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        assert piece, f"ended after {data!r}"
        data += piece
    return data


def ask(client: socket.socket, line: bytes, prefix: bytes = b"one") -> None:
    """One line and its reply, compared."""
    client.sendall(line)
    assert read_exactly(client, len(prefix) + 1 + len(line)) == prefix + b" " + line


def converse(port: int, data: bytes, host: str = "127.0.0.1") -> bytes:
    """Sends ``data``, half-closes, and gives everything that comes back."""
    with connect(port, host) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return read_to_end(client)


def take_nothing(client: socket.socket, metrics: Callable[[], Metrics]) -> None:
    """Has half a megabyte of pending replies, some of which echod buffers when this returns."""
    client.sendall(b"\n" * 100_000)
    until(lambda: metrics()("echod_buffered_bytes") > 0)


def unsent_bytes(client: socket.socket) -> int:
    """How much the other side has not yet acknowledged; the end of the stream counts for one."""
    return int(struct.unpack("i", fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)))[0])


def jam(stuck: socket.socket) -> None:
    """Sends, without reading, until replies are pending."""
    stuck.settimeout(0.3)
    with suppress(TimeoutError):
        while True:
            stuck.sendall(b"x" * 100_000 + b"\n")
    stuck.settimeout(PATIENCE)


def reset(client: socket.socket) -> None:
    """Closes with a true RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def expected(data: bytes, prefix: bytes = b"one") -> bytes:
    """The model: what a server has to answer to ``data``."""
    return b"".join(prefix + b" " + line + b"\n" for line in data.split(b"\n")[:-1])


def get(
    port: int, path: str, method: str = "GET", host: str = "127.0.0.1", **headers: str
) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: object) -> float:
        """The sum of a metric's samples that have these labels; there must be one."""
        wanted = {key: str(value) for key, value in labels.items()}.items()
        found = [
            value
            for (sample, having), value in self.samples.items()
            if sample == name and wanted <= dict(having).items()
        ]
        assert found, f"no sample of {name} with {labels}"
        return sum(found)
