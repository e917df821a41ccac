"""``echod probe`` and services that are no echo: what is sent, matched, encrypted, and may fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import zipapp
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support import NEVER, PATIENCE, altered, call, clean_environment, command, pause, until
from support.encrypted import CA, certified, digest
from support.peers import Behaviour, line_of, prefixing, saying, serving, silent

import echod

Run = subprocess.CompletedProcess[str]


def probe(directory: Path, port: int, *words: object, host: str = "127.0.0.1") -> Run:
    result = call(directory, command("probe", f"{host}:{port}", *map(str, words)))
    assert "Traceback" not in result.stderr
    return result


def document(directory: Path, port: int, *words: object) -> tuple[int, Any]:
    result = probe(directory, port, *words, "--json")
    return result.returncode, json.loads(result.stdout)


def seen(document: Any) -> dict[str, int]:
    return {row["name"]: row["seen"] for row in document["versions"]}


def banner(*texts: bytes) -> Behaviour:
    """Says the next of these at once, and waits for the client to leave."""

    def behave(connection: socket.socket, number: int) -> None:
        connection.sendall(texts[number % len(texts)])
        silent(connection, number)

    return behave


def test_a_banner_is_matched_and_its_versions_are_judged(tmp_path: Path) -> None:
    """By the names that they are given; nothing is sent."""
    texts = [b"SSH-2.0-new\r\n" if number == 2 else b"SSH-2.0-old\r\n" for number in range(5)]
    names = ("--name", "old=one", "--name", "new=two")
    with serving(banner(*texts)) as port:
        words = ("--match", r"SSH-2\.0-(\w+)\r", *names, "--expect")
        assert probe(tmp_path, port, *words, "one=80,two=20").returncode == 0
        assert probe(tmp_path, port, *words, "one=20,two=80").returncode == 1


def test_a_program_in_a_zip_file_matches_as_well(tmp_path: Path) -> None:
    """A file within it is none to the process that searches."""
    package = Path(echod.__file__).parent
    shutil.copytree(package, tmp_path / "program/echod")
    program = tmp_path / "echod.pyz"
    zipapp.create_archive(tmp_path / "program", program, main="echod.__main__:main")
    with serving(banner(b"version one;")) as port:
        words = ("probe", f"127.0.0.1:{port}", "--match", "version (.*);", "-n", "3", "--json")
        # Not measured: it is a copy, and gone when coverage looks for its source.
        unmeasured = ["env", "-u", "COVERAGE_PROCESS_CONFIG", sys.executable]
        result = call(tmp_path, [*unmeasured, str(program), *words])
    assert result.returncode == 0, result.stderr
    assert seen(json.loads(result.stdout)) == {"one": 3}


def test_bytes_are_sent_as_c_writes_them(tmp_path: Path) -> None:
    """Then the service answers."""

    def behave(connection: socket.socket, _number: int) -> None:
        said = b""
        while len(said) < 5:
            said += connection.recv(9)
        connection.sendall(b"got " + said.hex().encode() + b";")

    with serving(behave) as port:
        words = ("--send", r"\x00a\n\0\377", "--match", "got (.*?);", "-n", 5)
        assert seen(document(tmp_path, port, *words)[1]) == {"00610a00ff": 5}


def test_a_match_waits_for_the_rest_of_what_it_has_found(tmp_path: Path) -> None:
    """It could be longer when it reaches the end of what has come; at the end of all it cannot."""

    def in_pieces(connection: socket.socket, _number: int) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (b"po", b"rt:63", b"79\r\n"):
            connection.sendall(piece)
            pause(0.1, "a segment of its own")
        silent(connection, 0)

    patient = altered(probe__dialogue__SETTLE_SECONDS=NEVER)
    with serving(in_pieces) as port:
        words = (f"127.0.0.1:{port}", "--match", r"port:(\d+)", "--timeout", str(NEVER), "-n", "5")
        result = call(tmp_path, patient("probe", *words, "--json"))
        assert seen(json.loads(result.stdout)) == {"6379": 5}
    with serving(banner(b"one")) as port:
        assert seen(document(tmp_path, port, "--match", r"(\w+)", "-n", 5)[1]) == {"one": 5}
    with serving(lambda connection, _: connection.sendall(b"one")) as port:
        assert seen(document(tmp_path, port, "--match", r"(\w+)", "-n", 5)[1]) == {"one": 5}


def test_a_farewell_is_sent_before_leaving(tmp_path: Path) -> None:
    """And the service has a moment to close first."""
    heard: list[bytes] = []

    def behave(connection: socket.socket, _number: int) -> None:
        connection.sendall(b"one\r\n")
        said = line_of(connection)
        connection.sendall(b"bye\r\n" * 10)
        connection.shutdown(socket.SHUT_WR)
        heard.append(said + connection.recv(9))

    with serving(behave) as port:
        words = ["--match", r"(\w+)\r", "--bye", r"QUIT\r\n", "--timeout", str(NEVER), "-n", "5"]
        patient = altered(probe__conversation__LEAVE_SECONDS=NEVER)
        result = call(tmp_path, patient("probe", f"127.0.0.1:{port}", *words, "--json"))
        assert seen(json.loads(result.stdout)) == {"one": 5}
        until(lambda: len(heard) == 5)
    assert set(heard) == {b"QUIT\r\n"}


@pytest.mark.parametrize("say", [b"one\r\n", b"one\r\n" + b"x" * 100_000])
def test_a_service_that_does_not_part_is_left(tmp_path: Path, say: bytes) -> None:
    """Whatever else it sends: it has answered."""

    def behave(connection: socket.socket, _number: int) -> None:
        connection.sendall(say)
        silent(connection, 0)

    with serving(behave) as port:
        words = ("--match", r"^(\w+)\r", "--bye", r"QUIT\r\n", "-n", 2)
        assert seen(document(tmp_path, port, *words)[1]) == {"one": 2}


ODD = b"220 \x1b[31m\x00one"


@pytest.mark.parametrize(
    ("behave", "kind", "detail"),
    [
        (lambda connection, _: connection.sendall(ODD), "no match", "closed after 13 bytes: 220 "),
        (banner(ODD), "no match", r"silent after 13 bytes: 220 \x1b[31m\x00one"),
        (banner(b"y" * 20_000), "no match", f"in the first 16,384 bytes: {'y' * 172}"),
        (banner(b"version 1"), "no match", "silent after 9 bytes: version 1"),
        (lambda _, __: None, "closed", "closed before a reply"),
        (silent, "timeout", "no answer in time"),
    ],
)
def test_what_does_not_match_is_shown_escaped(
    tmp_path: Path, behave: Behaviour, kind: str, detail: str
) -> None:
    """In the table, in JSON and in JUnit."""
    report = tmp_path / "report.xml"
    with serving(behave) as port:
        timeout = 3 if detail.startswith(("silent", "no answer")) else NEVER
        words = ("--match", "version (.*);|version", "--timeout", timeout, "-n", 1)
        status, found = document(tmp_path, port, *words, "--junit", report)
    assert (status, found["failures"]) == (3, {kind: 1})
    assert found["first_failures"][kind].startswith(detail)
    suite = ElementTree.parse(report)
    table = suite.findtext(".//system-out") or ""
    assert f"failed: {kind} 1 ({detail}" in table
    message = next(suite.iter("failure")).get("message") or ""
    assert message.startswith(f"{kind} 1 ({detail}")
    for text in (table, json.dumps(found), message):
        assert not re.search(r"[\x00\x1b]", text)


def test_a_reset_says_what_had_come_before(tmp_path: Path) -> None:
    """As far as the kernel has kept it."""

    def behave(connection: socket.socket, _number: int) -> None:
        connection.sendall(b"half a gree")
        line_of(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with serving(behave) as port:
        words = ("--send", r"x\n", "--match", "(greeting)", "-n", 1)
        _, found = document(tmp_path, port, *words)
    assert found["first_failures"]["reset"].startswith("connection reset")


def test_a_pattern_that_takes_too_long_costs_its_sample(tmp_path: Path) -> None:
    """Not the run: the others are judged, and the processor time is bounded."""
    hostile = b"a" * 10_000
    with serving(banner(hostile, *[b"aab one;"] * 9)) as port:
        words = ("--match", "(?:a+)+b (one|two);", "--timeout", NEVER, "-n", 40)
        status, found = document(tmp_path, port, *words, "--max-errors", 4)
    assert (status, seen(found)) == (0, {"one": 36})
    assert found["failures"] == {"slow match": 4}
    assert found["first_failures"]["slow match"].startswith(
        "the pattern took over 0.25 s in 10,000 bytes: aaa"
    )


def test_bytes_that_come_one_by_one_do_not_keep_the_pattern_busy_for_ever(tmp_path: Path) -> None:
    """All the searches of one sample share its time."""

    def behave(connection: socket.socket, _number: int) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            connection.sendall(b"a")

    with serving(behave) as port:
        words = ("--match", "(a)+(a+)+b", "--timeout", NEVER, "-n", 1)
        assert document(tmp_path, port, *words)[1]["failures"] == {"slow match": 1}


def test_a_matcher_that_was_killed_costs_a_sample_and_says_so(tmp_path: Path) -> None:
    """The run goes on with another one."""

    def behave(connection: socket.socket, number: int) -> None:
        connection.sendall(b"version one;")
        silent(connection, number)

    script = (
        "import os, signal, sys\n"
        "from echod.cli import main\n"
        "from echod.probe.matcher import Matcher\n"
        "search = Matcher.search\n"
        "def killing(self, *words):\n"
        "    killing.count += 1\n"
        "    if killing.count == 5:\n"
        "        os.kill(self._process.pid, signal.SIGKILL)\n"
        "    return search(self, *words)\n"
        "killing.count = 0\n"
        "Matcher.search = killing\n"
        "sys.exit(main())\n"
    )
    with serving(behave) as port:
        words = ["--match", "version (one|two);", "-n", "20", "--max-errors", "1", "--json"]
        words = ["probe", f"127.0.0.1:{port}", *words, "--concurrency", "1"]
        result = call(tmp_path, [sys.executable, "-c", script, *words])
    found = json.loads(result.stdout)
    assert (result.returncode, result.stderr, seen(found)) == (0, "", {"one": 19})
    assert found["failures"] == {"this host": 1}
    assert found["first_failures"] == {"this host": "the process for --match was killed (signal 9)"}


def test_an_interrupted_run_does_not_wait_for_the_pattern(tmp_path: Path) -> None:
    """Signals to the whole group end the probe, not what it searches with."""
    counted: list[int] = []

    def behave(connection: socket.socket, number: int) -> None:
        counted.append(number)
        banner(b"v one;")(connection, number)

    with serving(behave) as port:
        words = command("probe", f"127.0.0.1:{port}", "--match", "v (.*);", "--duration", "60")
        run = subprocess.Popen(
            [*words, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=clean_environment(),
            start_new_session=True,
        )
        until(lambda: len(counted) > 50)
        os.killpg(run.pid, signal.SIGTERM)
        output, errors = run.communicate(timeout=PATIENCE)
    found = json.loads(output)
    assert (errors, found["failures"], found["interrupted"]) == ("", {}, True)


def test_an_echo_is_asked_through_tls(tmp_path: Path) -> None:
    """Its certificate is verified for the address, or for the name that is given."""
    with serving(certified("one", then=prefixing(b"v1"))) as port:
        for words in (["--ca", CA], ["--ca", CA, "--sni", "service.test."], ["--insecure"]):
            made = ("--tls", *words, "--name", "v1=one", "-n", 5)
            status, found = document(tmp_path, port, *made)
            assert (status, seen(found)) == (0, {"one": 5}), found


@pytest.mark.parametrize(
    ("name", "words", "reason"),
    [
        ("one", [], "certificate verify failed: unable to get local issuer certificate"),
        ("expired", ["--ca", str(CA)], "certificate verify failed: certificate has expired"),
        (
            "one",
            ["--ca", str(CA), "--sni", "other.test"],
            "certificate verify failed: Hostname mismatch, certificate is not valid for"
            " 'other.test'",
        ),
    ],
)
def test_a_certificate_that_does_not_verify_is_a_failure_of_tls(
    tmp_path: Path, name: str, words: list[str], reason: str
) -> None:
    """In OpenSSL's words."""
    with serving(certified(name, then=prefixing(b"one"))) as port:
        status, found = document(tmp_path, port, "--tls", *words, "-n", 1)
    assert (status, found["failures"]) == (3, {"tls": 1})
    assert found["first_failures"] == {"tls": reason}


def test_an_address_that_a_certificate_does_not_have_is_a_failure_of_tls(tmp_path: Path) -> None:
    """It is compared with the addresses of the certificate."""
    with serving(certified("one", then=prefixing(b"one")), host="127.0.0.2") as port:
        words = ("--tls", "--ca", CA, "-n", 1, "--json")
        found = json.loads(probe(tmp_path, port, *words, host="127.0.0.2").stdout)
    assert "IP address mismatch" in found["first_failures"]["tls"]


def hello_of(connection: socket.socket, _number: int) -> None:
    connection.recv(4096)


def reset_in_the_handshake(connection: socket.socket, number: int) -> None:
    hello_of(connection, number)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def garbage(connection: socket.socket, number: int) -> None:
    hello_of(connection, number)
    connection.sendall(b"\x16\x03\x03\x40\x00" + b"\x00" * 20_000)
    silent(connection, number)


@pytest.mark.parametrize(
    ("behave", "kind", "detail"),
    [
        (hello_of, "tls", "closed in the TLS handshake"),
        (reset_in_the_handshake, "reset", "connection reset in the TLS handshake"),
        (silent, "timeout", "no answer in time in the TLS handshake"),
        (saying(b"220 one\r\n", first=True), "tls", "wrong version number"),
        (garbage, "tls", ""),
    ],
)
def test_a_handshake_that_fails_says_how(
    tmp_path: Path, behave: Behaviour, kind: str, detail: str
) -> None:
    """What is no TLS has its reason; a reset and a timeout stay what they are."""
    with serving(behave) as port:
        words = ("--tls", "--insecure", "--timeout", 1 if kind == "timeout" else NEVER, "-n", 1)
        status, found = document(tmp_path, port, *words)
    assert (status, found["failures"]) == (3, {kind: 1})
    assert found["first_failures"][kind].startswith(detail)


def test_garbage_within_tls_is_a_failure_of_tls(tmp_path: Path) -> None:
    """After a handshake that was right, whether an echo or a match is read."""

    def behave(channel: socket.socket, _number: int) -> None:
        line_of(channel)
        socket.socket.send(channel, b"\x17\x03\x03\x00\x20" + b"\x00" * 32)
        hello_of(channel, 0)

    with serving(certified("one", then=behave)) as port:
        for words in ([], ["--send", r"x\n", "--match", "(.*)"]):
            made = ("--tls", "--insecure", "-n", 1, *words)
            assert document(tmp_path, port, *made)[1]["failures"] == {"tls": 1}


def test_a_certificate_is_the_version(tmp_path: Path) -> None:
    """By its SHA-256 or its name in --name and --expect; no request is sent."""
    one, two = digest("one"), digest("two")
    words = ("--tls", "--insecure", "--by", "certificate")
    behave = certified(*["one"] * 4, "two", then=silent)
    with serving(behave) as port:
        assert seen(document(tmp_path, port, *words, "-n", 5)[1]) == {one: 4, two: 1}
        colons = ":".join(two[i : i + 2] for i in range(0, 64, 2)).upper()
        names = ("--name", "CN=one,O=Example=v1", "--name", f"{colons}=v2", "--bye", "x")
        assert seen(document(tmp_path, port, *words, *names, "-n", 5)[1]) == {"v1": 4, "v2": 1}
        verified = ("--tls", "--ca", CA, "--by", "certificate", "-n", 5)
        found = document(tmp_path, port, *verified, "--expect", f"one=80,{two}=20")[1]
        assert seen(found) == {"one": 4, two: 1}


def test_held_connections_stay_on_a_version_within_tls(tmp_path: Path) -> None:
    """Under its name."""
    with serving(certified("one", then=prefixing(b"v1"))) as port:
        words = ("--hold", 2, "--tls", "--insecure", "--name", "v1=one", "--duration", 1.2)
        result = probe(tmp_path, port, *words)
    assert result.returncode == 0
    assert "one: connections 1-2\n2 of 2 connections were open at the end" in result.stdout


def header_of(connection: socket.socket, version: int) -> list[str]:
    """The addresses of a PROXY header, as the PROXY protocol has them."""

    def read(size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += connection.recv(size - len(data))
        return data

    if version == 1:
        line = b""
        while not line.endswith(b"\r\n"):
            line += read(1)
        return line.decode().split()[1:]
    head = read(16)
    assert head[:14] == b"\r\n\r\n\x00\r\nQUIT\n\x21" + bytes([0x11 if head[13] == 0x11 else 0x21])
    body = read(int.from_bytes(head[14:], "big"))
    size = 4 if head[13] == 0x11 else 16
    family = socket.AF_INET if size == 4 else socket.AF_INET6
    ends = [socket.inet_ntop(family, body[at : at + size]) for at in (0, size)]
    ports = struct.unpack("!HH", body[2 * size :])
    return ["TCP4" if size == 4 else "TCP6", *ends, *map(str, ports)]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("tls", [False, True])
def test_a_proxy_header_comes_before_all_else(
    tmp_path: Path, version: int, host: str, tls: bool
) -> None:
    """With the addresses of the connection, outside TLS."""
    told: list[bool] = []

    def behave(connection: socket.socket, number: int) -> None:
        source, target = connection.getpeername(), connection.getsockname()
        known = [source[0], target[0], str(source[1]), str(target[1])]
        kind = "TCP6" if ":" in host else "TCP4"
        told.append(header_of(connection, version) == [kind, *known])
        answer = prefixing(b"one")
        (certified("one", then=answer) if tls else answer)(connection, number)

    with serving(behave, host) as port:
        words = ("--proxy-protocol", version, "-n", 3, *(["--tls", "--insecure"] if tls else []))
        where = f"[{host}]" if ":" in host else host
        assert probe(tmp_path, port, *words, host=where).returncode == 0
    assert told == [True] * 3


def test_a_wrong_call_is_one_line(tmp_path: Path) -> None:
    """It names the option, the value and what is allowed; status 2."""
    result = probe(tmp_path, 1, "--match", "(x")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "echod: error: --match '(x': must be a regular expression of Python, whose first group is"
        " the version: missing ), unterminated subpattern at position 0\n"
    )
    result = probe(tmp_path, 1, "--tls", "--ca", "/dev/null")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
