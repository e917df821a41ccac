"""What is fuzzed of the probe and the lab."""

from __future__ import annotations

import math
import os
import tempfile
from argparse import ArgumentError
from collections import Counter
from contextlib import suppress
from typing import Any, cast
from unittest.mock import patch

from echod.cli import Parser
from echod.errors import SystemRefused, UsageError
from echod.lab import route, weights
from echod.probe import arguments, expectation, servers
from echod.probe.route import from_manifest
from echod.probe.target import Failed, ask
from fuzz.data import Data

PAYLOAD = b"echod-probe-00000000-1"


class Scripted:
    """A connection whose other side says what it is told to, piece by piece."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def sendall(self, data: bytes) -> None:
        assert data == PAYLOAD + b"\n"

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def recv(self, size: int) -> bytes:
        return self._pieces.pop(0)[:size] if self._pieces else b""


def reply(data: bytes) -> None:
    """A prefix only of a reply that ends with the line that was sent."""
    pieces = list(Data(data.replace(b"PAYLOAD", PAYLOAD)).pieces())
    said = b"".join(pieces)
    try:
        prefix = ask(cast("Any", Scripted(pieces)), PAYLOAD, math.inf)
    except Failed as failed:
        kind, detail = failed.args
        assert kind in ("wrong reply", "closed")
        assert detail.isprintable()
        return
    assert said.startswith(prefix + b" " + PAYLOAD + b"\n")
    assert b"\n" not in prefix


def expected_split(data: bytes) -> None:
    """Shares add up to 1, or the text is refused in one line."""
    try:
        split = expectation.parse(data.decode("utf-8", "surrogateescape").split("\0"))
    except UsageError as error:
        refused = str(error)
        assert refused.isprintable()
        return
    assert math.isclose(math.fsum(split.cells.values()), 1.0)
    assert all(0 <= share <= 1 for share in split.cells.values())
    assert all(split.tested.values())


def probe_arguments(data: bytes) -> None:
    """A call is taken, or refused in one line."""
    words = data.decode("utf-8", "surrogateescape").split("\0")
    parser = Parser(prog="echod probe", allow_abbrev=False, add_help=False)
    arguments.add_to(parser)
    try:
        settings = arguments.settings(parser.parse_args(words))
    except UsageError as error:
        refused = str(error)
        assert refused.isprintable()
        return
    except ArgumentError as error:
        raise AssertionError("not told as a wrong call") from error
    assert settings.plan or 1 <= settings.port <= 65535
    assert settings.host.isprintable()
    with suppress(UsageError):
        expectation.parse(settings.expect)
    with suppress(UsageError):
        servers.check(settings.metrics)


def counted(data: bytes) -> None:
    """The metrics of a server, whatever it answers: counts, or one line."""
    with patch.object(servers, "_fetch_in_time", lambda _: data.decode("utf-8", "replace")):
        try:
            counts = servers.read(["http://localhost/metrics"])
        except SystemRefused as refused:
            told = str(refused)
            assert told.isprintable()
            return
    assert isinstance(counts.requests, Counter)
    counts.since(counts).match(0, 0)


def manifest(data: bytes) -> None:
    """Weights of the two versions, or of any, or one line that says what is wrong."""
    try:
        shares = from_manifest("route.yaml", data).shares
    except UsageError as error:
        refused = str(error)
        assert refused.isprintable()
    else:
        assert math.isclose(math.fsum(shares.values()), 1.0)
    with tempfile.NamedTemporaryFile(dir=_directory()) as file:
        file.write(data)
        file.flush()
        try:
            found = route.read(file.name)
        except UsageError as error:
            refused = str(error)
            assert refused.isprintable()
            return
    assert set(found) == set(weights.VERSIONS)
    assert all(0 <= weight <= weights.MOST for weight in found.values())
    assert any(found.values())


def _directory() -> str | None:
    """In memory, where there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def lab_weights(data: bytes) -> None:
    """As ``--weights`` and the lab's file have them."""
    try:
        found = weights.parse("weights", data.decode("utf-8", "surrogateescape"))
    except UsageError as error:
        refused = str(error)
        assert refused.isprintable()
        return
    assert any(found.values())
