"""The names of a certificate: its SHA-256, its subject, and the common name in the subject.

Python's own parser accepts verified certificates only, so ``--insecure`` needs this one. It reads
only the subject (RFC 5280, section 4.1), and checks every length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

_SEQUENCE, _SET, _OID, _VERSION = 0x30, 0x31, 0x06, 0xA0
_BEFORE_SUBJECT = 4
"""The number of fields before the subject: serial number, signature, issuer and validity."""

_ENCODINGS = {0x1E: "utf-16-be", 0x1C: "utf-32-be", 0x14: "latin-1"}
"""Encodings by the type of a string. The other types are UTF-8 or a subset of it."""

_COMMON_NAME = "2.5.4.3"
_ATTRIBUTES = {
    _COMMON_NAME: "CN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "street",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
    "1.2.840.113549.1.9.1": "emailAddress",
}

Attribute = tuple[str, str]
"""An object identifier in digits, and a value."""

Element = tuple[int, bytes]
"""A tag and its contents."""


def identities(der: bytes) -> list[str]:
    """The names of a certificate. The SHA-256 comes first, also in the notation of ``openssl``."""
    digest = hashlib.sha256(der)
    try:
        parts = _subject(der)
    except (ValueError, IndexError):  # an unreadable certificate has no subject
        parts = []
    subject = ",".join("+".join(map(_shown, part)) for part in reversed(parts))
    common = [value for part in parts for kind, value in part if kind == _COMMON_NAME]
    names = [digest.hexdigest(), digest.hexdigest().upper(), digest.digest().hex(":").upper()]
    return [*names, *([subject] if subject else []), *common]


def _shown(attribute: Attribute) -> str:
    """An attribute in the notation of RFC 4514, as ``-nameopt RFC2253`` of openssl prints it."""
    kind, value = attribute
    text = "".join(f"\\{one}" if one in ',+"\\<>;' else one for one in value)
    return f"{_ATTRIBUTES.get(kind, kind)}={text}"


def _subject(der: bytes) -> list[list[Attribute]]:
    """The parts of the subject, each with one or more attributes. Raises ValueError, IndexError."""
    certificate = _contents(der, _SEQUENCE)
    fields = list(_elements(_contents(certificate, _SEQUENCE)))
    if fields[0][0] == _VERSION:  # absent in version 1
        fields = fields[1:]
    tag, subject = fields[_BEFORE_SUBJECT]
    parts = list(_elements(subject)) if tag == _SEQUENCE else []
    return [[_attribute(one) for tag, one in _elements(part)] for _, part in parts]


def _attribute(data: bytes) -> Attribute:
    (tag, kind), (encoding, value) = list(_elements(data))[:2]
    if tag != _OID:
        raise ValueError("an attribute without a type")
    return _dotted(kind), value.decode(_ENCODINGS.get(encoding, "utf-8"), "replace")


def _dotted(data: bytes) -> str:
    """An object identifier in digits."""
    numbers = [0]
    for byte in data:
        numbers[-1] = numbers[-1] << 7 | byte & 0x7F
        if byte < 0x80:
            numbers.append(0)
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:-1]]))


def _contents(data: bytes, tag: int) -> bytes:
    """The contents of the first element, which must have this tag."""
    found, contents = next(_elements(data), (0, b""))
    if found != tag:
        raise ValueError("no such element")
    return contents


def _elements(data: bytes) -> Iterator[Element]:
    """The DER elements in ``data``, in order."""
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size >= 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + size > len(data):
            raise ValueError("an element that is longer than its data")
        yield tag, data[at : at + size]
        at += size
