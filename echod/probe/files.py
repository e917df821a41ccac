"""Files that a user names, and standard output."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from echod.errors import SystemRefused, UsageError, shown
from echod.texts import write_all

MOST_BYTES = 64 * 1024

STDOUT = 1


def contents(option: str, path: str) -> bytes:
    """The contents of a regular file or a link to one. Raises UsageError, also for a FIFO."""
    name = f"{option} {shown(path)}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", "") or str(error)
        raise UsageError(f"{name}: cannot be read: {reason}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UsageError(f"{name}: must be a regular file")
        data = b""
        while len(data) <= MOST_BYTES and (piece := os.read(descriptor, MOST_BYTES + 1)):
            data += piece
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(data) > MOST_BYTES:
        raise UsageError(f"{name}: must have {MOST_BYTES:,} bytes at most")
    return data


def check_writable(option: str, path: str) -> None:
    """Raise UsageError unless a file can be written. Leaves no new file, and opens no old one: the
    reader of a FIFO would take the close for its end.
    """
    try:
        target = os.path.realpath(path)
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if os.path.exists(target):
            if not os.access(target, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", "") or str(error)
        raise UsageError(f"{option} {shown(path)}: cannot be written: {reason}") from error
    with suppress(OSError):  # a directory may allow new files and not their removal
        os.unlink(target)


def print_text(text: str) -> None:
    """Write to standard output, unbuffered. A closed pipe is no error: its reader has seen enough.
    Raises SystemRefused for others.
    """
    try:
        write_all(STDOUT, text)
    except BrokenPipeError:
        pass
    except OSError as error:
        raise SystemRefused(f"cannot write to standard output: {error.strerror}") from error
