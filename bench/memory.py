"""What echod takes at rest and for each idle connection, and how soon it is ready.

.venv/bin/python bench/memory.py [--connections 1000]
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from pathlib import Path

from shape import free_port, start


def resident_kib(pid: int) -> int:
    """Resident memory of a process, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def main() -> None:
    """Starts one, fills it with idle connections, and prints three lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--connections", type=int, default=1000)
    count = parser.parse_args().connections
    port = free_port()
    began = time.perf_counter()
    command = [sys.executable, "-m", "echod", str(port), "one", "--metrics-port", "0"]
    process = start(command, port)
    print(f"first connection after {time.perf_counter() - began:.2f} s")
    clients: list[socket.socket] = []
    try:
        time.sleep(1)
        before = resident_kib(process.pid)
        print(f"at rest {before / 1024:.1f} MiB")
        for _ in range(count):
            clients.append(socket.create_connection(("127.0.0.1", port)))  # noqa: PERF401
        time.sleep(1)
        each = (resident_kib(process.pid) - before) / count
        print(f"{count} idle connections: {each:.2f} KiB each")
    finally:
        for client in clients:
            client.close()
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
