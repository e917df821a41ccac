"""The options of ``echod probe`` for the conversation with a service."""

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
    r"""Bytes from text with the escapes of C: ``\n``, ``\x00``, ``\0``."""

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
    """A regular expression with at least one group."""
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
    """A host name, not an address."""
    name = ""
    with suppress(UnicodeError):
        name = value.encode("idna").decode()
    if not _LABELS.fullmatch(name) or is_address(value):
        raise ValueError("the name of a host, not an address, which TLS does not send")
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
        r"send these bytes instead of a line, with C escapes (\r\n, \x00); '' sends nothing and"
        " waits for the server",
    ),
    Option(
        "match",
        pattern,
        "",
        "REGEX",
        "take the version from the first group of this regular expression, in up to 16 KiB of the"
        " reply",
    ),
    Option("bye", escapes, "", "BYTES", "send these bytes before closing"),
    Option("sni", server_name, "", "NAME", "server name to send and to verify; default: HOST"),
    Option("ca", file, "", "FILE", "trust these certificates (PEM) instead of the system's"),
    Option(
        "by",
        parsers.one_of("certificate"),
        "",
        "WHAT",
        "certificate: identify the version by the server's certificate, its SHA-256 or subject",
    ),
    Option(
        "proxy_protocol",
        lambda value: int(parsers.one_of("1", "2")(value)),
        "",
        "1|2",
        "send a PROXY protocol header of this version first",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """The settings of the conversation. ``None`` is unset; without any, it is an echo."""

    send: bytes | None = None
    match: bytes | None = None
    bye: bytes | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    """Versions by what is found. Digests of certificates are in lower case without colons."""
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
"""The form is that of ``arguments``."""


def add_to(add: Callable[..., object]) -> None:
    """Add the options to a parser, by its add_argument."""
    for option in OPTIONS:
        add(option.flag, metavar=option.metavar, help=option.help.replace("%", "%%"))
    add("--tls", action="store_true", help="encrypt, and verify the server's certificate")
    add("--insecure", action="store_true", help="do not verify the certificate")
    add(
        "--name",
        action="append",
        default=[],
        metavar="FOUND=VERSION",
        help="report FOUND (a prefix, match or certificate) as VERSION; may be repeated",
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
            raise UsageError(f"--name {shown(text)}: must not give FOUND a second version")
    if len(found) > MOST_NAMES:
        raise UsageError(f"--name: must be given {MOST_NAMES} times at most")
    return found
