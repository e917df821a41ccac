"""The errors that end a call: wrong usage, and a refusal of the system. How they show values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class UsageError(Exception):
    """The call is wrong, on whatever system. The text is one line."""


class SystemRefused(Exception):
    """The call may be right, but this system does not allow it. The text is one line."""


@contextmanager
def refusals(task: str) -> Iterator[None]:
    """Raises SystemRefused for every exception with which the system refuses something.

    Around a ``task`` in which any call may fail: for want of a file descriptor, of memory or of a
    library that can be loaded.
    """
    try:
        yield
    except (OSError, MemoryError, ImportError, SystemError) as error:
        reason = getattr(error, "strerror", "") or str(error) or "out of memory"
        raise SystemRefused(f"{task}: {reason}") from error


def shown(text: str) -> str:
    r"""A value as an error may show it: quoted, without control characters, not too long.

    Bytes that are no UTF-8 are ``\xNN``.
    """
    shown = re.sub(r"\\udc([89a-f].)", r"\\x\1", ascii(text[:101]))
    return shown if len(shown) <= 102 else shown[:98] + "...'"
