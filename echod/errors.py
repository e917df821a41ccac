"""The errors that end a command (wrong usage, refusals of the system), and how they quote text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class UsageError(Exception):
    """The command line or a setting is wrong, on any system. The text is one line."""


class SystemRefused(Exception):
    """The command may be right, but this system refuses something. The text is one line."""


@contextmanager
def refusals(task: str) -> Iterator[None]:
    """Turn every exception that means a refusal of the system into SystemRefused.

    For a ``task`` in which any call may fail: no file descriptor, no memory, or a library that
    cannot be loaded.
    """
    try:
        yield
    except (OSError, MemoryError, ImportError, SystemError) as error:
        reason = getattr(error, "strerror", "") or str(error) or "out of memory"
        raise SystemRefused(f"{task}: {reason}") from error


def shown(text: str) -> str:
    r"""A value as errors quote it: without control characters, and shortened if it is long.

    Bytes that are not UTF-8 become ``\xNN``.
    """
    shown = re.sub(r"\\udc([89a-f].)", r"\\x\1", ascii(text[:101]))
    return shown if len(shown) <= 102 else shown[:98] + "...'"
