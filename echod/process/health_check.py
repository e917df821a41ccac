"""The check of ``echod health``: whether the daemon on this host is ready.

It does not use http.client, whose timeout applies to each read separately. It starts no thread,
because a health check must work on a host that is short of memory.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from time import monotonic

TIMEOUT_SECONDS = 3.0
"""For the whole response, even if it arrives byte by byte."""
MAX_ANSWER_BYTES = 16 * 1024
SHOWN_BYTES = 200
"""Maximum bytes shown of a body that says why the daemon is not ready."""


def ask_ready(address: str, port: int) -> tuple[bool, str]:
    """Query /readyz on a metrics port; return whether it is ready, and a line to print."""
    # Numeric addresses: names need /etc/hosts, which a bare image may lack.
    hosts = {"::": ("127.0.0.1", "::1"), "0.0.0.0": ("127.0.0.1",)}.get(address, (address,))  # noqa: S104
    answer = _ask_any(hosts, port, monotonic() + TIMEOUT_SECONDS)
    if answer == "ready":
        return True, answer
    # The server may not be echod, so its response is escaped, truncated and put on one line.
    shown = ascii(" ".join(answer.split()))[1:-1][:SHOWN_BYTES]
    return False, f"not ready: http://{_bracketed(hosts[0])}:{port}/readyz: {shown}"


def _ask_any(hosts: Sequence[str], port: int, deadline: float) -> str:
    """The answer of the first host that responds, or else the error of the first host."""
    problems = []
    for host in hosts:
        try:
            return _ask(host, port, deadline)
        except OSError as error:
            problems.append(str(error) or type(error).__name__)
    return problems[0]


def _ask(host: str, port: int, deadline: float) -> str:
    """``ready``, or the problem. Raises OSError if there is no response in time."""
    kind, numeric = socket.SOCK_STREAM, socket.AI_NUMERICHOST
    # Bytes, because for text the interpreter loads a megabyte of character tables.
    family, _, _, _, target = socket.getaddrinfo(host.encode(), port, type=kind, flags=numeric)[0]
    with socket.socket(family, kind) as client:
        _limit(client, deadline)
        client.connect(target)
        _limit(client, deadline)
        client.sendall(f"GET /readyz HTTP/1.1\r\nHost: {_bracketed(host)}\r\n\r\n".encode())
        received = b""
        while (answer := _judged(received)) is None:
            _limit(client, deadline)
            data = client.recv(4096)
            received += data
            if not data or len(received) > MAX_ANSWER_BYTES:
                return _judged(received, ended=True) or "no complete HTTP response"
    return answer


def _limit(client: socket.socket, deadline: float) -> None:
    """Let the next call take until ``deadline``. Raises TimeoutError if that has passed."""
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    client.settimeout(left)


def _judged(received: bytes, *, ended: bool = False) -> str | None:
    """The answer in an HTTP response, or None while it is incomplete."""
    line, newline, _ = received.partition(b"\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})\b", line)
    if newline and not status:
        return line.decode("ascii", "replace")
    head, complete, body = received.partition(b"\r\n\r\n")
    if not (status and complete):
        return None
    code = status[1].decode()
    if not re.search(rb"^server: *echod\r?$", head, re.IGNORECASE | re.MULTILINE):
        return f"{code} from something that is not echod"
    if code == "200":
        return "ready"
    enough = ended or len(body) >= SHOWN_BYTES
    return f"{code} {body[:SHOWN_BYTES].decode('ascii', 'replace')}" if enough else None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
