"""Checks that an installed echod answers, is ready and drains. The image's build runs it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from threading import Timer

SECONDS = 60.0
"""Time limit for the whole test, on a slow machine."""


def problem(echod: str) -> str:
    """The problem of the command ``echod``; empty if there is none."""
    words = [echod, "0", "first", "--metrics-port", "0", "--log-format", "json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as daemon:
        limit = Timer(SECONDS, daemon.kill)
        limit.start()
        try:
            return _problem(echod, daemon)
        finally:
            daemon.kill()
            limit.cancel()


def _problem(echod: str, daemon: subprocess.Popen[bytes]) -> str:
    ports = {}
    for line in daemon.stdout or ():
        event = json.loads(line)
        ports[event["event"].split()[0]] = str(event.get("port"))
        if event["event"] == "ready":
            break
    else:
        return f"not ready, exit status {daemon.wait()}"
    with socket.create_connection(("127.0.0.1", int(ports["listening"]))) as client:
        client.sendall(b"line\n")
        reply = client.makefile("rb").readline()
    health = subprocess.run([echod, "health", "--metrics-port", ports["metrics"]], check=False)
    daemon.send_signal(signal.SIGTERM)
    found = (reply, health.returncode, daemon.wait())
    wanted = (b"first line\n", 0, 0)
    return "" if found == wanted else f"reply, health and exit status: {found}, not {wanted}"


if __name__ == "__main__":
    try:
        said = problem(sys.argv[1])
    except (OSError, ValueError) as error:
        said = str(error)
    if said:
        sys.exit(f"{sys.argv[1]}: {said}")
