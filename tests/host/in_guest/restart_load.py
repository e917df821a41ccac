"""Eight clients at a time, each with one line and a half-close, until a file is removed.

usage: restart_load.py PORT FILE; prints the outcomes as JSON.
"""

from __future__ import annotations

import json
import socket
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def converse(port: int, number: int) -> str:
    line = b"%d\n" % number
    try:
        with socket.create_connection(("127.0.0.1", port), 20) as client:
            client.sendall(line)
            client.shutdown(socket.SHUT_WR)
            received = b""
            while piece := client.recv(100):
                received += piece
    except OSError as error:
        return type(error).__name__
    return "answered" if received == b"two " + line else f"got {received!r}"


def main(port: int, running: Path) -> None:
    outcomes: Counter[str] = Counter()

    def go_on(first: int) -> None:
        number = first
        while running.exists():
            outcomes[converse(port, number)] += 1
            number += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(go_on, range(0, 8_000_000, 1_000_000)))
    sys.stdout.write(json.dumps(outcomes))


main(int(sys.argv[1]), Path(sys.argv[2]))
