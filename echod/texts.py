"""Text: converted to bytes and back, made safe to print, and written."""

from __future__ import annotations

import os


def decoded(data: bytes) -> str:
    """Bytes as text, in any locale: UTF-8, with a surrogate for each byte that is not UTF-8."""
    return data.decode("utf-8", "surrogateescape")


def encoded(text: str) -> bytes:
    """The bytes of a text from ``decoded``."""
    return text.encode("utf-8", "surrogateescape")


def path(text: str) -> str:
    """A file's name as this interpreter encodes it: by the locale, unlike ``decoded``."""
    return os.fsdecode(encoded(text))


def joined(host: str, port: int) -> str:
    """An address as it is written: ``192.0.2.1:9000`` or ``[2001:db8::1]:9000``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def write_all(descriptor: int, text: str) -> None:
    """Write all of a text, unbuffered. Raises OSError."""
    data = text.encode("utf-8", "backslashreplace")
    while data:
        data = data[os.write(descriptor, data) :]


def escaped(text: str) -> str:
    r"""The text with escapes for every character that is not printable: controls, line separators,
    marks of direction (``\n``, ``\x1b``, ``\u0085``). A byte that was not UTF-8 becomes ``\x85``.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escape(ord(one)) for one in text)


def _escape(code: int) -> str:
    if code < 0x80:
        return ascii(chr(code))[1:-1]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
