"""The parts by which ``echod probe`` speaks to any service, one by one."""

from __future__ import annotations

import errno
import math
import os
import runpy
import signal
import socket
import ssl
import sys
from collections.abc import Iterator

import pytest
from support.encrypted import CERTIFICATES, digest

from echod.cli import Parser
from echod.errors import SystemRefused, UsageError
from echod.probe import arguments, match_child, matcher
from echod.probe.certificate import identities
from echod.probe.conversation import Conversation, Names
from echod.probe.match_child import ANSWER, FOUND, FOUND_AT_THE_END, NOT_YET, REQUEST, TOO_SLOW
from echod.probe.matcher import GaveUp, Lost, Matcher
from echod.probe.service_arguments import ServiceSettings, escapes, server_name
from echod.probe.target import Failed
from echod.probe.tls import Tls, words


def given(*words: str) -> ServiceSettings:
    """What a call says of the service."""
    parser = Parser(prog="echod probe", allow_abbrev=False)
    arguments.add_to(parser)
    return arguments.settings(parser.parse_args(["x:1", *words])).service


def test_without_its_options_it_is_an_echo() -> None:
    """By the names of its prefixes, at most."""
    assert given() == ServiceSettings()
    assert given("--name", "a=b=one", "--name", "x=one").names == {"a=b": "one", "x": "one"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--send", "x"], "--send: must be given together with --match"),
        (["--send", r"\q", "--match", "(x)"], r"--send '\\q': must be text with the escapes of C"),
        (["--send", r"\x1", "--match", "(x)"], r"--send '\\x1': must be text with the escapes"),
        (["--send", "x" * 16385, "--match", "(x)"], "must be 16,384 bytes at most"),
        (["--bye", "x"], "--bye: must be given together with --match or --by"),
        (["--match", "x"], "--match 'x': must be a regular expression of Python, whose first"),
        (["--match", "(x"], "missing ), unterminated subpattern at position 0"),
        (["--match", ""], "--match '': must be a regular expression"),
        (["--sni", "x"], "--sni: must be given together with --tls"),
        (["--ca", "x"], "--ca: must be given together with --tls"),
        (["--insecure"], "--insecure: must be given together with --tls"),
        (["--by", "certificate"], "--by: must be given together with --tls"),
        (["--tls", "--by", "name"], "--by 'name': must be one of certificate"),
        (
            ["--tls", "--by", "certificate", "--match", "(x)"],
            "--by: must be given without --match",
        ),
        (["--tls", "--insecure", "--ca", "x"], "--insecure: must be given without --ca"),
        (["--tls", "--sni", "127.0.0.1"], "--sni '127.0.0.1': must be the name of a host"),
        (["--tls", "--sni", "a..b"], "--sni 'a..b': must be the name of a host"),
        (["--tls", "--sni", ""], "--sni '': must be the name of a host"),
        (["--tls", "--ca", ""], "--ca '': must be the name of a file"),
        (["--hold", "2", "--match", "(x)"], "--hold: must be given without --match"),
        (["--proxy-protocol", "3"], "--proxy-protocol '3': must be one of 1, 2"),
        (["--name", "x"], "--name 'x': must be FOUND=VERSION, for example 6379=one"),
        (["--name", "x=one", "--name", "x=two"], "must not give FOUND a second version"),
        ([f"--name=x{n}=x" for n in range(257)], "--name: must be given 256 times at most"),
    ],
)
def test_a_wrong_call_is_one_line(words: list[str], message: str) -> None:
    """It names the option, the value and what is allowed."""
    with pytest.raises(UsageError) as caught:
        given(*words)
    assert str(caught.value).isprintable()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", b""),
        ("a%20", b"a%20"),
        (r"\a\b\e\f\n\r\t\v\\\'\"\?", b"\a\b\x1b\f\n\r\t\v\\'\"?"),
        (r"\x00\xfF\0\12\377\08", b"\0\xff\0\n\xff\0008"),
        ("\u00e9\udcff", b"\xc3\xa9\xff"),
    ],
)
def test_escapes_are_those_of_c(text: str, data: bytes) -> None:
    """All else is itself, in the caller's own bytes."""
    assert escapes(text) == data


@pytest.mark.parametrize("text", ["\\", r"\8", r"\x", r"\xg0", r"\u0041", "\\\n"])
def test_what_is_no_escape_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="escapes of C"):
        escapes(text)


def test_a_name_of_a_host_is_as_dns_has_it() -> None:
    """In ASCII, without the dot of the root."""
    assert server_name("Über.example.") == "xn--ber-goa.example"


def test_of_the_names_of_one_thing_a_given_one_counts_first() -> None:
    """Then one that is expected, or else the first."""
    names = Names({"c": "one"}, ["b"])
    assert [names.of("a", "b", "c"), names.of("a", "b"), names.of("a")] == ["one", "b", "a"]


def der(name: str) -> bytes:
    text = (CERTIFICATES / f"{name}.pem").read_text()
    end = "-----END CERTIFICATE-----\n"
    return ssl.PEM_cert_to_DER_cert(text.partition(end)[0] + end)


def element(tag: int, *contents: bytes) -> bytes:
    data = b"".join(contents)
    size = len(data).to_bytes(2, "big")
    return bytes([tag]) + (b"\x82" + size if len(data) > 127 else size[1:]) + data


def named(*parts: bytes) -> bytes:
    """A certificate of version 1 with these parts of a subject, and nothing that counts."""
    before = [element(0x02, b"\1"), *[element(0x30)] * 3]
    return element(0x30, element(0x30, *before, element(0x30, *parts)))


def attribute(oid: bytes, value: bytes, encoding: int = 0x0C) -> bytes:
    return element(0x30, element(0x06, oid), element(encoding, value))


def test_a_certificate_has_several_names() -> None:
    """Its SHA-256 in three spellings, its subject as RFC 4514 has it, its common name."""
    names = identities(der("one"))
    plain = digest("one")
    assert names == [plain, plain.upper(), names[2], "CN=one,O=Example", "one"]
    assert names[2].replace(":", "").lower() == plain


def test_a_subject_is_read_whatever_its_encoding() -> None:
    """Kinds without a name are numbers; what parts a subject is escaped in it."""
    country = element(0x31, attribute(b"\x55\x04\x06", b"x" * 200, 0x13))
    both = element(
        0x31,
        attribute(b"\x55\x04\x03", "ä,b".encode("utf-16-be"), 0x1E),
        attribute(b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x08", b"\xe9", 0x14),
    )
    subject = rf"CN=ä\,b+1.2.840.113549.1.9.8=é,C={'x' * 200}"
    assert identities(named(country, both))[3:] == [subject, "ä,b"]
    assert identities(named())[3:] == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x84\xff",
        b"\x31\x00",
        b"\x30\x02\x30\x00",
        element(0x30, element(0x30, *[element(0x30)] * 3)),
        named(element(0x31, element(0x30, element(0x0C, b"x"), element(0x0C, b"x")))),
        named(element(0x31, element(0x30))),
    ],
)
def test_what_is_no_certificate_has_no_subject(data: bytes) -> None:
    """It has a SHA-256."""
    assert len(identities(data)) == 3


def test_half_a_certificate_is_no_crash() -> None:
    """Wherever it is cut, and whatever byte is another."""
    whole = der("one")
    for at in range(len(whole)):
        assert len(identities(whole[:at])) >= 3
        changed = bytearray(whole)
        changed[at] ^= 0xFF
        assert len(identities(bytes(changed))) >= 3


@pytest.fixture
def channel() -> Iterator[socket.socket]:
    """This side of a socket whose other side is the standard input, as the child has it."""
    handler, saved = signal.getsignal(signal.SIGVTALRM), os.dup(0)
    near, far = socket.socketpair()
    os.dup2(far.fileno(), 0)
    far.close()
    with near:
        yield near
    os.dup2(saved, 0)
    os.close(saved)
    signal.signal(signal.SIGVTALRM, handler)


def test_the_process_that_searches_answers_until_the_end(channel: socket.socket) -> None:
    """What is found, whether it could grow, that it is not there, that it takes too long."""
    asked = [(b"(?:x+)+y|one (\\w+)|b", 0), (b"one two.", 9), (b"one two", 9), (b"b", 9), (b"", 9)]
    for data, seconds in [*asked, (b"x" * 1000, 0.01)]:
        channel.sendall(REQUEST.pack(len(data), seconds) + data)
    channel.shutdown(socket.SHUT_WR)
    runpy.run_path(match_child.__file__, run_name="__main__")
    os.close(0)  # of the last descriptor of the other side
    said, answers = channel.makefile("rb").read(), []
    while said:
        sign, size, left = ANSWER.unpack_from(said)
        found, said = said[ANSWER.size :][:size], said[ANSWER.size + size :]
        answers.append((sign, found))
        assert left < 9.001  # rounded, where the clock of CPU time stood still
    assert answers == [
        (NOT_YET, b""),
        (FOUND, b"two"),
        (FOUND_AT_THE_END, b"two"),
        (NOT_YET, b""),
        (NOT_YET, b""),
        (TOO_SLOW, b""),
    ]


def test_a_search_that_was_killed_costs_one_sample() -> None:
    """The next one has a new process; after the end there is none."""
    one = Matcher(b"(x)")
    assert one.search(b"ax", 9)[:2] == (b"x", True)
    assert one._process
    one._process.kill()
    with pytest.raises(Lost, match=r"the process for --match was killed \(signal 9\)"):
        one.search(b"ax", 9)
    assert one.search(b"xa", 9)[:2] == (b"x", False)
    with pytest.raises(GaveUp, match=r"took over 0.25 s"):
        one.search(b"xa", 0)
    one.close()
    with pytest.raises(SystemRefused, match="the run has ended"):
        one.search(b"x", 9)
    one.close()


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (TimeoutError(), "did not answer for 60 s"),
        (OSError(errno.EIO, "Input/output error"), "cannot be reached: Input/output error"),
        (ConnectionResetError("it has ended"), "cannot be reached: it has ended"),
    ],
)
def test_a_search_that_is_lost_says_how(
    monkeypatch: pytest.MonkeyPatch, error: OSError, how: str
) -> None:
    """Also if no exit status comes in time."""
    monkeypatch.setattr(matcher, "ENDED_SECONDS", 0.0)
    one = Matcher(b"(x)")
    one.search(b"x", 9)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as failing:
        failing.setattr(matcher, "_ask", fail)
        with pytest.raises(Lost, match=f"the process for --match {how}$"):
            one.search(b"x", 9)
    assert one.search(b"x", 9)[0] == b"x"
    one.close()


def test_an_end_within_an_answer_is_an_error() -> None:
    """It is not half an answer."""
    near, far = socket.socketpair()
    far.sendall(b"x")
    far.close()
    with near, pytest.raises(ConnectionResetError, match="it has ended"):
        matcher._read(near, 2)


@pytest.mark.parametrize("program", ["/nowhere", "/bin/false"])
def test_a_process_that_cannot_start_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """With its reason."""
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(SystemRefused, match="cannot start the process for --match: "):
        Matcher(b"(x)").search(b"x", 9)


def test_a_python_without_tls_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is asked for."""
    monkeypatch.setitem(sys.modules, "echod.probe.tls", None)
    with pytest.raises(SystemRefused, match="--tls: this Python has no TLS"):
        Conversation(ServiceSettings(tls=True), "x")
    Conversation(ServiceSettings(), "x").close()


def test_a_connection_that_is_gone_has_no_proxy_header() -> None:
    """That is a failure of the target."""
    with socket.socket() as gone, pytest.raises(Failed, match="unreachable"):
        Conversation(ServiceSettings(proxy_protocol=1), "x").open(gone, math.inf)


def test_a_host_that_cannot_be_a_name_for_tls_is_refused() -> None:
    """A resolver may know it nevertheless: then --sni has one."""
    with pytest.raises(UsageError, match="must be a name that TLS can send; set --sni otherwise"):
        Conversation(ServiceSettings(tls=True), "x" * 70)
    Conversation(ServiceSettings(tls=True, sni="x"), "x" * 70)
    Conversation(ServiceSettings(tls=True), "fe80::1%eth0")
    with pytest.raises(UsageError, match=r"--ca '/nowhere': must be .* PEM: No such file"):
        Conversation(ServiceSettings(tls=True, ca="/nowhere"), "x")


def test_a_service_without_a_certificate_is_a_failure_of_tls() -> None:
    """Python asks for one; a cipher without is none of its own."""
    near, far = socket.socketpair()
    with near, far:
        with pytest.raises(Failed, match="no certificate"):
            Tls.certificate(near)
        Tls.end(near)


def test_errors_of_this_host_are_no_failures_of_tls() -> None:
    """Whatever was encrypted; and numbers of OpenSSL are no numbers of the system."""
    assert isinstance(Tls.failure(OSError(errno.EMFILE, "x")), SystemRefused)
    made = Tls.failure(ssl.SSLError(1, "[SSL: BAD] bad thing (_ssl.c:1)"))
    assert isinstance(made, Failed)
    assert (made.kind, made.detail) == ("tls", "bad thing")
    assert words(ssl.SSLError(1, "[SSL]")) == "[SSL]"
