"""The caller's bytes, in the locales that every system has: tests/host has the others."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support import PATIENCE, Start, clean_environment, command, converse, peers, start_with_prefix
from support.peers import serving

from echod.config import runtime
from echod.errors import UsageError

LOCALES = {
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "C": {"LC_ALL": "C"},
    "POSIX, coerced": {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
    "UTF-8 mode": {"LC_ALL": "C", "PYTHONUTF8": "1", "PYTHONCOERCECLOCALE": "0"},
}
HIGH = bytes(range(0x80, 0x100))
PREFIXES = {
    "every byte over 0x7f": HIGH + b"".join(b"<%c>" % byte for byte in HIGH),
    "UTF-8, with a C1 control": b"gr\xc3\xb6\xc3\x9fer \xe4\xb8\x96\xe7\x95\x8c a\xc2\x85b",
    "almost UTF-8": b"\xed\xb2\x80\xf4\x90\x80\x80\xc0\xaf\xef\xbf\xbe, and cut: \xe4\xb8",
}


@pytest.fixture(params=LOCALES)
def locale(request: pytest.FixtureRequest) -> dict[str, str]:
    return clean_environment(**LOCALES[request.param])


@pytest.mark.parametrize("given", ["argument", "variable"])
@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_the_prefix_is_the_bytes_that_were_given(
    start: Start, locale: dict[str, str], prefix: bytes, given: str
) -> None:
    """Whatever the locale takes them for. The log shows them escaped, in one line of UTF-8."""
    echod = start_with_prefix(start, locale, prefix, given)
    assert converse(echod.port, b"x\n") == prefix + b" x\n"
    event = echod.event("listening on")["event"]
    assert event == f"listening on [::]:{echod.port}, prefix: {shown(prefix)}"
    assert event.isprintable()
    echod.stop()


def shown(prefix: bytes) -> str:
    """The model of what the log shows: text as it is, bytes that are none and controls escaped."""
    pieces = []
    for one in prefix.decode("utf-8", "surrogateescape"):
        if "\udc80" <= one <= "\udcff":
            pieces.append(f"\\x{ord(one) - 0xDC00:02x}")
        else:
            pieces.append(one if one.isprintable() else f"\\u{ord(one):04x}")
    return "".join(pieces)


def test_a_version_in_utf8_arrives_as_that_text(start: Start, locale: dict[str, str]) -> None:
    """In the metrics and in the log, which keeps letters as they are."""
    words: list[Any] = command("0", "x", "--metrics-port", "0", "--service-version")
    echod = start(command=lambda *_: [*words, "größer 世界".encode()], env=locale)
    assert echod.metrics()("echod_ready", version="größer 世界") == 1
    assert "größer 世界".encode() in echod.log_path.read_bytes()
    echod.stop()


@pytest.mark.parametrize(
    ("words", "variables", "error"),
    [
        ([b"0", b"x", b"--service-version", b"caf\xe9"], {}, rb"--service-version 'caf\xe9': must"),
        ([b"0", b"x"], {b"ECHOD_SERVICE_VERSION": b"\xff"}, rb"ECHOD_SERVICE_VERSION '\xff': must"),
        ([b"0", b"\xe9\x01"], {}, rb"PREFIX '\xe9\x01': must be 1 to 1024 bytes without control"),
        ([b"0", b"\xe9" * 1025], {}, rb"PREFIX '\xe9\xe9\xe9\xe9\xe9\xe9"),
        ([b"0"], {b"ECHOD_PREFIX": b"\x7f"}, rb"ECHOD_PREFIX '\x7f': must be 1 to 1024 bytes"),
        ([b"0", b"x", b"--\xe9"], {}, rb"unrecognized arguments: --\xe9 (see"),
        ([b"\xc3\xa9", b"x"], {}, rb"PORTS '\xe9': must be a port"),
    ],
)
def test_what_is_refused_is_shown_escaped(
    tmp_path: Path,
    locale: dict[str, str],
    words: list[bytes],
    variables: dict[bytes, bytes],
    error: bytes,
) -> None:
    """By name, in one line of printable ASCII."""
    run = subprocess.run(
        [*map(os.fsencode, command()), *words],
        capture_output=True,
        cwd=tmp_path,
        env={
            **{os.fsencode(key): os.fsencode(value) for key, value in locale.items()},
            **variables,
        },
        timeout=PATIENCE,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, b"")
    assert run.stderr.startswith(b"echod: error: " + error)
    assert re.fullmatch(rb"[ -~]+\n", run.stderr)


def test_the_service_manager_is_found_at_a_path_that_is_not_ascii(
    start: Start, locale: dict[str, str], tmp_path: Path
) -> None:
    """Its address is bytes as well."""
    address = os.fsencode(tmp_path) + b"/caf\xc3\xa9\xff"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(PATIENCE)
        variables: dict[Any, Any] = {**locale, b"NOTIFY_SOCKET": address}
        echod = start(env=variables)
        assert b"READY=1" in manager.recv(1000)
        echod.stop()


def test_the_probe_expects_bytes_and_writes_to_a_path_of_bytes(
    tmp_path: Path, locale: dict[str, str]
) -> None:
    """A version's name is a prefix; the report's name is the system's."""
    report = os.fsencode(tmp_path) + b"/caf\xc3\xa9\xff.xml"
    with serving(peers.prefixing(b"caf\xe9", "größer".encode())) as port:
        words = [b"--expect", b"caf\xe9=1", b"--expect", "größer=1".encode(), b"--junit", report]
        words += [b"-n", b"40", b"--detect", b"45"]
        run = subprocess.run(
            [*map(os.fsencode, command("probe", f"127.0.0.1:{port}")), *words],
            capture_output=True,
            cwd=tmp_path,
            env=locale,
            timeout=PATIENCE,
            check=False,
        )
    assert (run.returncode, run.stderr) == (0, b"")
    assert rb"caf\xe9 " in run.stdout
    assert "größer ".encode() in run.stdout
    with open(report, "rb") as file:
        ElementTree.parse(file)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A process in another locale, started as ``python -m echod 0 caf\\xe9``."""
    line = tmp_path / "cmdline"
    line.write_bytes(b"python\0-m\0echod\x000\0caf\xe9\0\0")
    monkeypatch.setattr(runtime, "COMMAND_LINE", line)
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "big5")
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "echod", "0", "caf?", ""])
    monkeypatch.setattr("sys.argv", ["echod/__main__.py", "0", "caf?", ""])
    return monkeypatch


def test_arguments_in_every_encoding_are_the_bytes_that_the_kernel_has(
    elsewhere: pytest.MonkeyPatch,
) -> None:
    """Python's text may have lost something."""
    assert runtime.arguments() == ["0", "caf\udce9", ""]
    elsewhere.setattr("sys.orig_argv", ["python", "-m", "echod"])
    elsewhere.setattr("sys.argv", ["echod/__main__.py"])
    runtime.COMMAND_LINE.write_bytes(b"python\0-m\0echod\0")
    assert runtime.arguments() == []


def test_without_proc_arguments_must_be_ascii(
    elsewhere: pytest.MonkeyPatch,
) -> None:
    """A chroot without /proc, or a program that calls ``main`` with other arguments."""
    elsewhere.setattr("sys.argv", ["echod", "0", "own"])
    assert runtime.arguments() == ["0", "own"]
    elsewhere.setattr(runtime, "COMMAND_LINE", runtime.COMMAND_LINE.parent / "missing")
    assert runtime.arguments() == ["0", "own"]
    elsewhere.setattr("sys.argv", ["echod", "0", "é"])
    with pytest.raises(UsageError, match=r"^argument '\\xe9': must be ASCII if .*PYTHONUTF8=1"):
        runtime.arguments()
