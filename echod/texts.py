"""Text as it comes and goes: a caller's bytes as text and back, and text as it may be shown."""

from __future__ import annotations

import os


def decoded(data: bytes) -> str:
    """Bytes as text, whatever the locale: UTF-8, and a surrogate for each byte that is not."""
    return data.decode("utf-8", "surrogateescape")


def encoded(text: str) -> bytes:
    """The bytes that ``decoded`` was given."""
    return text.encode("utf-8", "surrogateescape")


def path(text: str) -> str:
    """The name of a file as this interpreter spells it: by the locale, unlike ``decoded``."""
    return os.fsdecode(encoded(text))


def escaped(text: str) -> str:
    r"""The same with escapes for controls, separators of lines, and what changes the direction of
    reading or is not seen: ``\n``, ``\x1b``, ``\u0085``. A byte that was no UTF-8 is ``\x85``.
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
