"""What is fuzzed of the daemon, and what must hold whatever comes."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import patch

from support.fakes import Connection, FakeServer

from echod.config.options import OPTIONS, load
from echod.echo import protocol
from echod.echo.protocol import LineFormat, LineProtocol
from echod.errors import UsageError, shown
from echod.process.health_check import _judged
from echod.telemetry.http import (
    MAX_HEAD_BYTES,
    Page,
    answer,
    health_page,
    landing_page,
    prefers_openmetrics,
)
from echod.telemetry.log_writer import LogWriter, make_logger, printable
from fuzz.data import Data

SMALL_STEPS: dict[str, Any] = {"STEP_BYTES": 200, "PIECE_BYTES": 16}
"""So that a few hundred bytes pass every border."""


def model(stream: bytes, prefix: bytes, limit: int) -> tuple[bytes, bool]:
    """The replies, and whether a line was too long: nothing after it counts."""
    replies: list[bytes] = []
    rest = stream
    while rest:
        line, newline, rest = rest.partition(b"\n")
        if len(line) > limit:
            return b"".join(replies), True
        if newline:
            replies.append(prefix + line + b"\n")
    return b"".join(replies), False


def line_protocol(data: bytes) -> None:
    """Any cuts, limits and steps give the bytes of the model."""
    choices = Data(data)
    prefix, limit = choices.take(choices.number(1, 40)) or b" ", choices.number(1, 100)
    said, heard, lines = b"", b"", 0
    with patch.multiple(protocol, **SMALL_STEPS):
        under_test = LineProtocol(LineFormat(prefix, limit))
        for piece in choices.pieces():
            said += piece
            reply, count = under_test.receive(piece)
            while under_test.waiting:
                heard, lines = heard + reply, lines + count
                assert len(reply) <= SMALL_STEPS["STEP_BYTES"] + len(prefix) + limit + 1
                reply, count = under_test.resume()
            heard, lines = heard + reply, lines + count
            replies, overlong = model(said, prefix, limit)
            assert (heard, under_test.overlong) == (replies, overlong)
            if overlong:
                return
            assert lines == said.count(b"\n")
            assert under_test.buffered == len(said) - (said.rfind(b"\n") + 1)
            assert under_test.clean == (not under_test.buffered)


def connection(data: bytes) -> None:
    """What a client hears is the beginning of the model, and all of it unless memory is short."""
    choices = Data(data)
    limit = choices.number(1, 100)
    server = FakeServer(
        max_line_bytes=str(limit),
        max_buffered_bytes=str(choices.number(200, 2000)),
        idle_timeout="60",
        write_timeout="30",
    )
    said = b""
    with patch.multiple(protocol, **SMALL_STEPS):
        client = Connection(server)
        for piece in choices.pieces():
            client.end.room = min(choices.number(0, 255) * 4, 600)
            if client.end.closed or not client.loop.registered:
                break
            said += piece
            client.receive(piece)
        client.end.room = 1 << 30
        client.end.ended = True
        client.loop.run()
        client.loop.pass_time(70)
    replies, _ = model(said, b"one ", limit)
    heard = bytes(client.end.taken)
    assert replies.startswith(heard)
    (reason, _), *others = server.closes
    assert (others, server.bugs, client.end.closed) == ([], 0, True)
    assert reason in ("eof", "unused", "line_too_long", "buffer_limit")
    assert heard == replies or reason == "buffer_limit"
    counters = server.counters[0]
    assert counters.sent == len(heard)
    assert server.budget.buffered == 0


PAGES: dict[str, Callable[[str], Page]] = {
    "/": landing_page,
    "/metrics": lambda accept: health_page("open" if prefers_openmetrics(accept) else ""),
    "/livez": lambda _: health_page(""),
    "/readyz": lambda _: health_page("draining"),
}
HEADER = re.compile(rb"[A-Za-z-]+: [\x20-\x7e]*")


def http(data: bytes) -> None:
    """One whole response to every head, well formed, with its length."""
    response = answer(data[: MAX_HEAD_BYTES + 1], PAGES)
    if not response:
        # An empty request line, or one of what Python takes for blanks.
        assert not data.split(b"\n")[0].decode("latin-1").split()
        return
    head, blank, body = response.partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    assert blank
    assert re.fullmatch(rb"HTTP/1\.1 (200|40[0-9]|414|431|50[035]) [A-Za-z -]+", status), status
    assert all(HEADER.fullmatch(header) for header in headers), headers
    (length,) = [int(one[16:]) for one in headers if one.startswith(b"Content-Length: ")]
    method = data.split(b"\n")[0].decode("latin-1").split()[:1]
    assert length == len(body) or (not body and method == ["HEAD"])
    assert b"Connection: close" in headers


def accept_header(data: bytes) -> None:
    """OpenMetrics only for those that ask for it by its name."""
    text = data.decode("latin-1")
    if prefers_openmetrics(text):
        assert "application/openmetrics-text" in text.lower()
    landing_page(text)


def options(data: bytes) -> None:
    """A setting is taken, or refused in one printable line that names it."""
    choices = Data(data)
    option = OPTIONS[choices.number(0, len(OPTIONS) - 1)]
    by_flag = choices.number(0, 1)
    text = choices.text()
    given = {"ports": "1", "prefix": "x"} | ({option.name: text} if by_flag else {})
    environ = {} if by_flag else {option.environment: text}
    if not by_flag:
        given.pop(option.name, None)
    try:
        config = load(given, environ)
    except UsageError as error:
        refused = str(error)
        assert refused.isprintable()
        assert len(refused) < 600
        assert option.environment in refused or option.flag in refused
        return
    assert text or not by_flag or getattr(config, option.name) in (b"", "", None)


def health(data: bytes) -> None:
    """A response of anything is judged, or more of it is waited for."""
    for ended in (False, True):
        judged = _judged(data, ended=ended)
        assert judged is None or isinstance(judged, str)
        if judged == "ready":
            assert re.match(rb"HTTP/1\.[01] 200\b", data)


def log(data: bytes) -> None:
    """An event is one line without control characters, in both formats."""
    for console in (False, True):
        lines: list[str] = []
        writer = LogWriter(-1)
        with patch.object(writer, "info", lines.append):
            logger = make_logger(writer, "info", console=console, colors=False)
            logger.info("line", line=printable(data), port=1)
        (line,) = lines
        assert line.isprintable(), line
        with suppress(UnicodeEncodeError):
            assert b"\n" not in line.encode()
    assert shown(data.decode("utf-8", "surrogateescape")).isprintable()
