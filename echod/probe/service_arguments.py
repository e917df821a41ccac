"""The options of ``echod probe`` that say what is spoken with a service."""

from __future__ import annotations

import ipaddress
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from echod.config import parsers
from echod.config.options import Option
from echod.errors import UsageError, shown
from echod.texts import encoded, path

MOST_SENT_BYTES = 16 * 1024
MOST_NAMES = 256

_ESCAPES = {
    b"a": b"\a", b"b": b"\b", b"e": b"\x1b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t",
    b"v": b"\v", b"\\": b"\\", b"'": b"'", b'"': b'"', b"?": b"?",
}  # fmt: skip
_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|[0-3]?[0-7]{1,2}|.?)", re.DOTALL)
_OCTAL = {b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"}
_DIGEST = re.compile("([0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}")
_LABELS = re.compile(r"(?!-)[\w-]{1,63}(?<!-)(\.(?!-)[\w-]{1,63}(?<!-))*\.?", re.ASCII)


def escapes(value: str) -> bytes:
    r"""Bytes as C writes them: ``\n``, ``\x00``, ``\0``."""

    def meant(escape: re.Match[bytes]) -> bytes:
        text = escape[1]
        if len(text) == 3 and text[:1] == b"x":
            return bytes([int(text[1:], 16)])
        return bytes([int(text, 8)]) if text[:1] in _OCTAL else _ESCAPES[text]

    try:
        data = _ESCAPE.sub(meant, encoded(value))
    except KeyError as error:
        raise ValueError(
            r"text with the escapes of C: \\ \n \r \t \0 (and other octal numbers), \xHH"
        ) from error
    if len(data) > MOST_SENT_BYTES:
        raise ValueError(f"{MOST_SENT_BYTES:,} bytes at most")
    return data


def pattern(value: str) -> bytes:
    """A regular expression with a group."""
    allowed = "a regular expression of Python, whose first group is the version"
    try:
        with warnings.catch_warnings(action="ignore"):
            groups = re.compile(encoded(value)).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{allowed}: {error}") from error
    if not groups:
        raise ValueError(f"{allowed}, for example 'version:([0-9.]+)'")
    return encoded(value)


def server_name(value: str) -> str:
    """A name, which an address is not."""
    name = ""
    with suppress(UnicodeError):
        name = value.encode("idna").decode()
    if not _LABELS.fullmatch(name) or is_address(value):
        raise ValueError("the name of a host; of an address none is sent")
    return name.rstrip(".")


def is_address(value: str) -> bool:
    """Whether it is an IP address."""
    with suppress(ValueError):
        return bool(ipaddress.ip_address(value))
    return False


def file(value: str) -> str:
    """The name of a file."""
    if not value:
        raise ValueError("the name of a file")
    return path(value)


OPTIONS = (
    Option(
        "send",
        escapes,
        "",
        "BYTES",
        r"send this, not a line, with the escapes of C (\r\n, \x00); '' waits for the server",
    ),
    Option(
        "match",
        pattern,
        "",
        "REGEX",
        "the version is the first group of this, in up to 16 KiB of the reply",
    ),
    Option("bye", escapes, "", "BYTES", "send this before leaving"),
    Option("sni", server_name, "", "NAME", "the server's name, sent and verified; default: HOST"),
    Option("ca", file, "", "FILE", "trust these certificates (PEM), not the system's"),
    Option(
        "by",
        parsers.one_of("certificate"),
        "",
        "WHAT",
        "certificate: the version is that of the server's, by its SHA-256 or its subject",
    ),
    Option(
        "proxy_protocol",
        lambda value: int(parsers.one_of("1", "2")(value)),
        "",
        "1|2",
        "send the header of the PROXY protocol first",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What is spoken. ``None`` is "not given"; without anything it is an echo."""

    send: bytes | None = None
    match: bytes | None = None
    bye: bytes | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    """Versions by what is found: of certificates, digests are in small letters without colons."""
    tls: bool = False
    sni: str | None = None
    ca: str | None = None
    insecure: bool = False
    by: str | None = None
    proxy_protocol: int | None = None


NEEDS = {
    "send": ["match"],
    "sni": ["tls"],
    "ca": ["tls"],
    "insecure": ["tls"],
    "by": ["tls"],
}
EXCLUDES = {
    "by": ["send", "match", "metrics"],
    "insecure": ["ca"],
    "hold": ["send", "match", "bye", "by"],
    "plan": ["send", "match", "bye", "by", "name", "tls", "proxy_protocol"],
}
"""As those of ``arguments``."""


def add_to(add: Callable[..., object]) -> None:
    """Adds the options to a parser, by its add_argument."""
    for option in OPTIONS:
        add(option.flag, metavar=option.metavar, help=option.help.replace("%", "%%"))
    add("--tls", action="store_true", help="encrypt, and verify the server's certificate")
    add("--insecure", action="store_true", help="do not verify the certificate")
    add(
        "--name",
        action="append",
        default=[],
        metavar="FOUND=VERSION",
        help="what was found is this version; may be repeated",
    )


def settings(given: Mapping[str, Any]) -> ServiceSettings:
    """The settings of a call. Raises UsageError."""
    if given["bye"] is not None and given["match"] is None and given["by"] is None:
        raise UsageError("--bye: must be given together with --match or --by")
    values = {option.name: option.of(given[option.name]) for option in OPTIONS}
    same = {name: given[name] for name in ("tls", "insecure")}
    return ServiceSettings(names=names(given["name"]), **values, **same)


def names(texts: Sequence[str]) -> dict[str, str]:
    """Versions by what is found, from texts like ``6379=one``. Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        what, equals, version = text.rpartition("=")
        if not (equals and what and version):
            raise UsageError(f"--name {shown(text)}: must be FOUND=VERSION, for example 6379=one")
        if _DIGEST.fullmatch(what):
            what = what.replace(":", "").lower()
        if found.setdefault(what, version) != version:
            raise UsageError(f"--name {shown(text)}: must name one version for what is found")
    if len(found) > MOST_NAMES:
        raise UsageError(f"--name: must be given {MOST_NAMES} times at most")
    return found
