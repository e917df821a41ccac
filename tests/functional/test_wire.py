from __future__ import annotations

import random
import socket

import pytest
from support import Echod, Start, ask, connect, converse, expected, read_exactly, read_to_end

CONVERSATIONS = {
    "a line": b"hello\n",
    "no line": b"",
    "only a tail": b"hello",
    "a tail behind lines": b"a\nb\nc",
    "empty lines": b"\n\n\n",
    "carriage returns": b"a\r\nb\r\n\r\n",
    "zero bytes": b"\0\n\0\0\n",
    "no utf-8": b"\xff\xfe\x80\n\xc3\n",
    "every byte": bytes(range(256)) + b"\n",
    "a long line": b"x" * 300_000 + b"\n",
    "the longest line": b"x" * (1 << 20) + b"\n",
    "many lines": b"".join(b"%d\n" % number for number in range(50_000)),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_every_complete_line_is_answered_and_nothing_else_is_said(
    shared_echod: Echod, name: str, host: str
) -> None:
    """On both families, and after the half-close the server closes too."""
    data = CONVERSATIONS[name]
    with connect(shared_echod.port, host) as client:
        client.sendall(b"first\n")
        assert read_exactly(client, 10) == b"one first\n"
    # Sent and read in turns, so that neither side waits for the other for ever.
    with connect(shared_echod.port, host) as client:
        received = b""
        for at in range(0, len(data), 40_000):
            client.sendall(data[at : at + 40_000])
            complete = expected(data[: at + 40_000])
            received += read_exactly(client, len(complete) - len(received))
        client.shutdown(socket.SHUT_WR)
        assert received + read_to_end(client) == expected(data)


def test_a_half_close_with_twenty_thousand_pipelined_lines_is_answered_to_the_last(
    shared_echod: Echod,
) -> None:
    """Pending replies at the half-close are sent before the end."""
    data = b"".join(b"line %d\n" % number for number in range(20_000))
    assert converse(shared_echod.port, data) == expected(data)


def test_lines_may_arrive_in_any_pieces(shared_echod: Echod) -> None:
    """One byte a segment, or cut anywhere, over a real connection."""
    chance = random.Random(7)
    data = b"".join(chance.randbytes(chance.randrange(30)) + b"\n" for _ in range(50))
    with connect(shared_echod.port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        at = 0
        while at < len(data):
            size = chance.choice([1, 1, 2, 7, 50])
            client.sendall(data[at : at + size])
            at += size
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == expected(data)


def test_the_server_never_speaks_first(shared_echod: Echod) -> None:
    """A banner would break protocol detection in a mesh."""
    with connect(shared_echod.port) as client:
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(20)
        ask(client, b"now I have\n")


def test_each_port_answers_alike(shared_echod: Echod) -> None:
    """Ports differ in the metrics alone."""
    for port in shared_echod.ports:
        assert converse(port, b"port\n") == b"one port\n"


def test_a_prefix_of_several_words_in_any_script_comes_back_as_it_is(start: Start) -> None:
    """Its bytes are UTF-8, with one space behind."""
    echod = start(prefix="größer 世界")
    assert converse(echod.port, b"x\n") == "größer 世界 x\n".encode()
