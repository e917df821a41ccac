"""Traffic of which everything is known: what the panels of the dashboard have to show."""

from __future__ import annotations

import socket
import time
from collections import Counter
from contextlib import ExitStack, suppress

from echod.lab.envoy import Envoy
from support import (
    Echod,
    Start,
    ask,
    connect,
    connections,
    converse,
    pause,
    read_exactly,
    read_to_end,
    reset,
    until,
    without_descriptors,
)

WEIGHTS = {"v1": 80, "v2": 20}
PREFIXES = {"v1": b"one", "v2": b"two"}
LIMIT = 200
LINE = b"a line of the load\n"
LINES = {"v1": 1, "v2": 4}
"""On each connection of the load: shares of requests differ from shares of connections."""
LOAD_SECONDS = 12.0
A_SECOND = 50
CHECKS = {"v1": 30, "v2": 60}
"""Connections past Envoy to each version without a byte, as load balancers check a port: if they
counted, the split would be another one."""
HELD = 8
UNFINISHED = b"half a line"
ODD_LIMIT = 10
ODD_OPTIONS = {
    "--service-version": "v3",
    "--max-connections": str(ODD_LIMIT),
    "--max-line-bytes": "50",
    "--max-buffered-bytes": "80",
    "--idle-timeout": "3",
}


class Tally:
    """What one version must have counted, by what its clients have sent and read."""

    def __init__(self) -> None:
        self.opened = self.closed = self.lines = self.received = self.sent = 0

    def saw(self, sent: bytes, reply: bytes) -> None:
        """A client has sent and received this, on a new connection."""
        self.opened += 1
        self.lines += sent.count(b"\n")
        self.received += len(sent)
        self.sent += len(reply)


class Split:
    """Two versions behind a real Envoy, and clients of it."""

    def __init__(self, start: Start, closing: ExitStack) -> None:
        self.closing = closing
        self.born = {name: time.time() for name in WEIGHTS}
        self.echods: dict[str, Echod] = {
            name: start("--service-version", name, "--max-connections", str(LIMIT),
                        prefix=PREFIXES[name].decode())
            for name in WEIGHTS
        }  # fmt: skip
        upstreams = {name: ("127.0.0.1", one.port) for name, one in self.echods.items()}
        self.envoy = Envoy(("127.0.0.1", 0), upstreams, WEIGHTS)
        closing.callback(self.envoy.stop)
        self.tallies = {name: Tally() for name in WEIGHTS}
        self.held: Counter[str] = Counter()
        self.unfinished = ""

    def _version(self, reply: bytes) -> str:
        (name,) = (name for name, prefix in PREFIXES.items() if reply.startswith(prefix + b" "))
        return name

    def hold(self) -> None:
        """Connections that stay open; on the last one a line that is not finished."""
        port = self.envoy.port
        for client in self.closing.enter_context(connections(port, HELD)):
            client.sendall(LINE)
            reply = read_exactly(client, 4 + len(LINE))
            name = self._version(reply)
            self.tallies[name].saw(LINE, reply)
            self.held[name] += 1
        client.sendall(UNFINISHED)
        self.tallies[name].received += len(UNFINISHED)
        self.unfinished = name

    def check(self) -> None:
        """What belongs to no split: an end and a reset by turns."""
        for name, count in CHECKS.items():
            for number in range(count):
                client = connect(self.echods[name].port)
                (reset if number % 2 else socket.socket.close)(client)

    def load(self) -> None:
        """Connections one after the other, for some seconds, each with the lines of its version."""
        port, began = self.envoy.port, time.monotonic()
        number = 0
        while (now := time.monotonic() - began) < LOAD_SECONDS:
            if now < number / A_SECOND:
                pause(number / A_SECOND - now, "connections at an even rate")
            number += 1
            with connect(port) as client:
                client.sendall(LINE)
                reply = read_exactly(client, 4 + len(LINE))
                name = self._version(reply)
                client.sendall(LINE * (LINES[name] - 1))
                client.shutdown(socket.SHUT_WR)
                reply += read_to_end(client)
            assert reply == (PREFIXES[name] + b" " + LINE) * LINES[name]
            self.tallies[name].saw(LINE * LINES[name], reply)
            self.tallies[name].closed += 1


class Odd:
    """A version that Envoy does not know, whose connections end in every way that is quick."""

    def __init__(self, start: Start) -> None:
        self.echod = start(*(word for option in ODD_OPTIONS.items() for word in option))
        self.closed: Counter[str] = Counter()
        self.rejected = 0
        self.errors = 0.0

    def cause(self) -> None:
        """All of it; the silent ones are waited for at the end."""
        port = self.echod.port
        with connections(port, 2) as silent:
            for client in silent:
                ask(client, b"x\n")
            self._reject(port, ODD_LIMIT - len(silent))
            self._starve(port)
            for _ in range(5):
                converse(port, b"x\n")
            for _ in range(4):
                client = connect(port)
                ask(client, b"x\n")
                reset(client)
            for _ in range(3):
                with connect(port) as client, suppress(ConnectionResetError):
                    client.sendall(b"x" * 60)
                    read_to_end(client)
            self._hoard(port)
            for client in silent:
                read_to_end(client)
        self.closed += Counter(eof=5, reset=4, line_too_long=3, idle=2)

    def _active(self) -> float:
        return self.echod.metrics()("echod_connections_active")

    def _reject(self, port: int, slots: int) -> None:
        """Takes all connection slots, and tries more connections."""
        with connections(port, slots):
            until(lambda: self._active() == ODD_LIMIT)
            for _ in range(6):
                with connect(port) as client, suppress(ConnectionResetError):
                    assert read_to_end(client) == b""
        until(lambda: self._active() == ODD_LIMIT - slots)
        self.closed["unused"] += slots
        self.rejected = 6

    def _starve(self, port: int) -> None:
        """No free descriptor for a moment; waiting clients are served afterwards."""
        with ExitStack() as waiting:
            with without_descriptors(self.echod):
                clients = waiting.enter_context(connections(port, 3))
                self.echod.event("cannot accept connections")
            for client in clients:
                ask(client, b"at last\n")
        self.closed["eof"] += 3
        self.errors = self.echod.metrics()("echod_accept_errors_total", reason="EMFILE")

    def _hoard(self, port: int) -> None:
        """Two unfinished lines, for which together there is no room."""
        with connect(port) as first:
            first.sendall(b"x" * 45)
            until(lambda: self.echod.metrics()("echod_buffered_bytes") == 45)
            with connect(port) as second, suppress(ConnectionResetError):
                second.sendall(b"x" * 45)
                read_to_end(second)
        self.closed += Counter(eof=1, buffer_limit=1)
