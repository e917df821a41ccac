"""Control of a running lab from another terminal: one line each way over a Unix socket."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from echod.errors import SystemRefused

PATIENCE_SECONDS = 15.0
_LINE_BYTES = 1000
_SILENCE_SECONDS = 0.1
_AT_ONCE = 5

ERROR = "error: "
"""The prefix of the answer to a refused request."""


def default_path() -> str:
    """The socket of this user's lab."""
    return str(Path(tempfile.gettempdir()) / f"echod-lab-{os.getuid()}.sock")


class Control:
    """The lab's end of the socket, for its user only. Raises SystemRefused if it is in use."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)
        try:
            _remove_stale(path)
            self._socket.bind(path)
            self._socket.listen()
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise SystemRefused(f"--socket {path}: {error.strerror or error}") from error
        finally:
            os.umask(mask)

    def poll(self, answer: Callable[[str], str]) -> None:
        """Answer pending requests, without waiting for silent clients."""
        with suppress(BlockingIOError):
            for _ in range(_AT_ONCE):
                client, _ = self._socket.accept()
                with client, suppress(OSError):
                    client.settimeout(_SILENCE_SECONDS)
                    line = client.recv(_LINE_BYTES)  # a line is sent and arrives in one piece
                    client.send(b"")  # raises if the client has left: its request is not wanted
                    if line.endswith(b"\n"):
                        reply = answer(line.decode("utf-8", "replace").strip())
                        client.sendall(reply.encode() + b"\n")

    def close(self) -> None:
        """Remove the socket."""
        try:
            self._socket.close()
        finally:
            Path(self._path).unlink(missing_ok=True)


def _remove_stale(path: str) -> None:
    """Remove the socket of a lab that was killed, if this user owns it and no lab answers."""
    with suppress(FileNotFoundError):
        status = Path(path).lstat()
        if stat.S_ISSOCK(status.st_mode) and status.st_uid == os.getuid():
            with socket.socket(socket.AF_UNIX) as other, suppress(ConnectionRefusedError):
                other.connect(path)
                raise OSError("another lab is running")
            Path(path).unlink()


def ask(path: str, line: str) -> str:
    """Send a line to a lab; return its answer. Raises SystemRefused if there is none."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_SECONDS)
            client.connect(path)
            client.sendall(line.encode() + b"\n")
            answer = client.makefile("rb").readline(_LINE_BYTES).decode().strip()
    except OSError as error:
        raise SystemRefused(
            f"--socket {path}: no lab answers there ({error.strerror or error})"
        ) from error
    if answer.startswith(ERROR):
        raise SystemRefused(answer.removeprefix(ERROR))
    if not answer:
        raise SystemRefused(f"--socket {path}: the lab gave no answer")
    return answer
