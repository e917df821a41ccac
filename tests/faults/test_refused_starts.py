"""What the system refuses to a start is one line and exit status 1, before anything listens."""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from support import (
    PATIENCE,
    Start,
    altered,
    call,
    connect,
    converse,
    read_to_end,
    with_open_files,
)
from support.refusing import LISTENED, refusing, with_memory

MEGABYTE = 1024 * 1024
OPTIONS = ("0,0", "one", "--metrics-port", "0", "--handler-threads", "2")
BROKEN = {
    "socketpair": (4, ("EMFILE", "ENFILE")),
    "epoll_create1": (3, ("ENOMEM", "EMFILE")),
    "clone": (4, ("RuntimeError", "MemoryError")),
    "first frame": (4, ("MemoryError",)),
}
"""How often a start with these options makes each call, and how it may be refused."""


def assert_refused(result: CompletedProcess[str]) -> str:
    assert result.returncode == 1, result
    assert result.stderr.startswith("echod: error: "), result
    assert result.stderr.count("\n") == 1, result
    return result.stderr


@pytest.mark.parametrize("broken", BROKEN)
def test_each_thread_and_descriptor_is_there_before_anything_listens(
    tmp_path: Path, broken: str
) -> None:
    """Whichever of them is refused; how it is takes turns."""
    count, errors = BROKEN[broken]
    for number, error in zip(range(1, count + 1), cycle(errors), strict=False):
        result = call(tmp_path, refusing(broken, number, error, *OPTIONS))
        assert "cannot" in assert_refused(result)
        assert result.stdout == ""
    assert not (tmp_path / LISTENED).exists()


@pytest.mark.parametrize("broken", BROKEN)
def test_a_start_needs_no_thread_or_descriptor_once_it_listens(start: Start, broken: str) -> None:
    """The call that would be refused next is not made, whatever clients do."""
    count, errors = BROKEN[broken]
    echod = start(
        "--handler-threads",
        "2",
        command=lambda *all_: refusing(broken, count + 1, errors[0], *all_),
    )
    assert converse(echod.port, b"x\n") == b"one x\n"
    assert echod.metrics()("echod_threads") == 5  # main, log, exporter, and two handlers
    assert (echod.log_path.parent / LISTENED).exists()
    echod.stop()


@pytest.mark.parametrize("number", range(1, 7))
def test_a_socket_that_cannot_be_polled_ends_the_start_with_one_line(
    tmp_path: Path, number: int
) -> None:
    """Three pairs that wake threads, two echo ports, the metrics port: of these some listen
    already, and the threads are ended again.
    """
    result = call(tmp_path, refusing("epoll_ctl", number, "ENOSPC", *OPTIONS))
    assert "cannot" in assert_refused(result)
    assert '"ready"' not in result.stdout


def test_a_start_with_little_memory_works_or_ends_with_one_line(
    tmp_path: Path, start: Start
) -> None:
    """Nothing hangs, aborts, or ends in a traceback, wherever in the start memory runs out."""
    for size in (0, 1, 3, 6, 9, 13, 20, 31):
        assert_refused(call(tmp_path, with_memory(size * MEGABYTE, *OPTIONS)))
    assert not (tmp_path / LISTENED).exists()
    for size in (48, 150):  # of which glibc takes 64 for a thread's heap, if they are there
        echod = start(command=lambda *all_, size=size: with_memory(size * MEGABYTE, *all_))
        assert converse(echod.port, b"x\n") == b"one x\n"
        echod.stop()


def test_a_start_with_hardly_any_descriptor_ends_with_one_line(tmp_path: Path) -> None:
    """From where the interpreter itself has enough."""
    for limit in (6, 8, 12, 16, 20):
        assert_refused(call(tmp_path, with_open_files(limit, *OPTIONS)))


def test_more_ports_than_the_open_file_limit_has_room_for_name_the_limit(tmp_path: Path) -> None:
    """And how to raise it, before a single port is bound."""
    ports = ",".join(["0"] * 300)
    refused = assert_refused(call(tmp_path, with_open_files(256, ports, "one")))
    assert "the open-file limit of 256 leaves no connection: echod itself needs" in refused
    assert "(raise it: ulimit -Hn, or LimitNOFILE= of a unit)" in refused


RECURSING = """
import sys
from echod import cli
from echod.echo import handler

def recurse(depth):
    return list(map(recurse, [depth + 1]))  # by way of C, which takes of the stack

handler.LineHandler.handle = lambda self: recurse(0)
sys.exit(cli.main())
"""


def test_an_endless_recursion_closes_one_connection_and_not_the_process(start: Start) -> None:
    """Not the process: a thread's stack holds what the interpreter's own limit allows."""
    echod = start(command=lambda *all_: [sys.executable, "-c", RECURSING, *all_])
    with connect(echod.port) as client, suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(b"x\n")
        assert read_to_end(client) == b""
    event = echod.event("unhandled exception in connection handler")
    assert "RecursionError" in event["error"]
    assert echod.get("/livez")[0] == 200
    echod.stop()


def test_health_works_without_threads_and_with_little_memory(tmp_path: Path, start: Start) -> None:
    """A probe must not fail because the process beside it has used up what there is."""
    port = str(start().metrics_port)
    question = ("health", "--metrics-port", port)
    for words in (
        refusing("clone", 1, "RuntimeError", *question),
        refusing("socketpair", 1, "EMFILE", *question),
        refusing("epoll_create1", 1, "ENOMEM", *question),
        with_memory(4 * MEGABYTE, *question),
        with_open_files(
            8, *question, by=altered(process__health_check__TIMEOUT_SECONDS=PATIENCE / 2)
        ),
    ):
        result = call(tmp_path, words)
        assert (result.returncode, result.stdout, result.stderr) == (0, "ready\n", "")
