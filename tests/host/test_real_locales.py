"""The caller's bytes in locales of other encodings, made by ``localedef`` from the system's maps.

Where Python's codec and the C library's differ, or the codec cannot give back what was decoded,
``os.fsencode`` fails or gives other bytes: so it does for EUC-JP, Big5, CP1255 and GB18030.
"""

from __future__ import annotations

import codecs
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, Start, clean_environment, command, converse, start_with_prefix

HIGH = range(0x80, 0x100)
CHARMAPS = {
    "UTF-8": "de_DE",
    "ISO-8859-1": "de_DE",
    "ISO-8859-15": "de_DE",
    "KOI8-R": "ru_RU",
    "GB18030": "zh_CN",
    "EUC-JP": "ja_JP",
    "BIG5": "zh_TW",
    "CP1255": "he_IL",
}
CHILD = """
import json, sys
from echod.config.runtime import arguments
words = [word.encode("utf-8", "surrogateescape").hex() for word in arguments()]
print(json.dumps([sys.getfilesystemencoding(), words]))
"""
PREFIXES = [
    b"caf\xc3\xa9",
    b"\xa1\xfe \xa2\x40 \xd6\xc7 \x8e\xa1",
    b"".join(b"%c>" % byte for byte in HIGH),
]


@pytest.fixture(scope="module", params=CHARMAPS)
def locale(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A clean environment in a locale of this encoding."""
    name = f"{CHARMAPS[request.param]}.{request.param}"
    directory = tmp_path_factory.mktemp("locales")
    words = ["localedef", "-c", "-i", CHARMAPS[request.param], "-f", request.param]
    made = subprocess.run(
        [*words, str(directory / name)], capture_output=True, text=True, check=False
    )
    assert (directory / name).is_dir(), made.stderr
    others = clean_environment(LOCPATH=str(directory), LC_ALL=name, PYTHONUTF8="0")
    return others, request.param


def test_every_byte_and_pair_of_bytes_arrives(locale: Any, tmp_path: Path) -> None:
    """As the kernel passes it, not as the locale reads it."""
    environment, charmap = locale
    pairs = [bytes((high, low)) for high in HIGH for low in (*b"!0@Aaz~", *HIGH)]
    if charmap == "GB18030":  # CPython itself aborts on half a character
        pairs = [pair for pair in pairs if pair[1] not in b"0123456789"]
    given = [*(bytes((one,)) for one in HIGH), *pairs]
    words = [os.fsencode(sys.executable), b"-c", CHILD.encode(), *given]
    run = subprocess.run(
        words, capture_output=True, cwd=tmp_path, env=environment, timeout=PATIENCE, check=False
    )
    assert (run.returncode, run.stderr) == (0, b"")
    encoding, arrived = json.loads(run.stdout)
    assert codecs.lookup(encoding).name == codecs.lookup(charmap).name
    assert arrived == [one.hex() for one in given]


@pytest.mark.parametrize("given", ["argument", "variable"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_replies_begin_with_the_bytes_of_the_prefix(
    start: Start, locale: Any, prefix: bytes, given: str
) -> None:
    """In whatever encoding a shell has written them."""
    echod = start_with_prefix(start, locale[0], prefix, given)
    assert converse(echod.port, b"x\n") == prefix + b" x\n"
    echod.stop()


@pytest.mark.parametrize("cure", ["ECHOD_PREFIX", "PYTHONUTF8"])
def test_a_prefix_may_be_half_a_character(start: Start, locale: Any, cure: str) -> None:
    """CPython aborts on this argument in GB18030. There are two other ways."""
    prefix = b"\x81\x30"
    words: list[Any] = command("0")
    variables: dict[Any, Any] = {**locale[0], "ECHOD_METRICS_PORT": "none"}
    if cure == "ECHOD_PREFIX":
        variables[b"ECHOD_PREFIX"] = prefix
    else:
        variables["PYTHONUTF8"] = "1"
        words.append(prefix)
    echod = start(command=lambda *_: words, env=variables)
    assert converse(echod.port, b"x\n") == prefix + b" x\n"
    echod.stop()


def test_a_version_and_a_prefix_in_utf8_are_that_text(start: Start, locale: Any) -> None:
    """In the metrics, the log, and the errors' escapes: the locale has no say."""
    words: list[Any] = command("0", "größer", "--metrics-port", "0", "--service-version", "größer")
    words = [word.encode() for word in words]
    echod = start(command=lambda *_: words, env=locale[0])
    assert converse(echod.port, b"x\n") == "größer x\n".encode()
    assert echod.metrics()("echod_requests_total", version="größer") == 1
    assert echod.event("listening on")["event"].endswith("prefix: größer")
    assert "größer".encode() in echod.log_path.read_bytes()
    echod.stop()


def test_a_version_in_another_encoding_is_refused_by_name(locale: Any, tmp_path: Path) -> None:
    """Prometheus takes label values in UTF-8 alone."""
    words = [*map(os.fsencode, command("0", "x", "--service-version")), b"caf\xe9"]
    run = subprocess.run(
        words, capture_output=True, cwd=tmp_path, env=locale[0], timeout=PATIENCE, check=False
    )
    assert run.returncode == 2
    assert run.stderr.startswith(
        rb"echod: error: --service-version 'caf\xe9': must be empty, or 1 to 128 bytes of UTF-8"
    )


def test_files_are_found_by_the_bytes_of_their_names(locale: Any, tmp_path: Path) -> None:
    """The report's name is the system's: echod's own text would be another one."""
    report = os.fsencode(tmp_path) + b"/caf\xc3\xa9.xml"
    words = [*map(os.fsencode, command("probe", "127.0.0.1:1", "-n", "1", "--junit")), report]
    run = subprocess.run(
        words, capture_output=True, cwd=tmp_path, env=locale[0], timeout=PATIENCE, check=False
    )
    assert run.returncode in (0, 3)
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xc3\xa9.xml"]
