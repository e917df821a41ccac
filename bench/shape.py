"""echod against the standard library's own shape, a thread per connection, in one run.

    .venv/bin/python bench/shape.py [--rounds 5] [--seconds 2]

Both answer 32-byte lines on loopback, in rounds that alternate. The table has the medians of lines
per second, their ratio, and the CPU time that a line costs echod (user and system). Ratios carry
over to other machines; rates do not. Needs Linux, and cc for the client.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

LINE_BYTES = 32
LOADS = ((16, 1), (64, 1), (256, 1), (16, 32))  # connections, lines outstanding on each
HERE = Path(__file__).resolve()


class StandardHandler(StreamRequestHandler):
    """The shape that the standard library's documentation shows."""

    def handle(self) -> None:
        """Reads a line, answers it, waits for the next."""
        for line in self.rfile:
            self.wfile.write(b"one " + line)


class StandardServer(ThreadingTCPServer):
    """A thread per connection, with a backlog that holds the clients of this benchmark."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(command: list[str], port: int) -> subprocess.Popen[bytes]:
    """A server that answers on its port."""
    quiet = subprocess.DEVNULL  # the standard shape prints a traceback for each reset
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)  # noqa: S603
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return process


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(load: str, port: int, pid: int, arguments: list[str]) -> tuple[float, float]:
    """Lines per second, and CPU seconds of the server per line."""
    before = cpu_seconds(pid)
    command = [load, str(port), *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    lines, seconds = map(float, output.split())
    return lines / seconds, (cpu_seconds(pid) - before) / lines


def compare(load: str, rounds: int, seconds: float) -> None:
    """Runs both, side by side, and prints the table."""
    ports = {"echod": free_port(), "standard": free_port()}
    echod = [sys.executable, "-m", "echod", str(ports["echod"]), "one", "--metrics-port", "0"]
    standard = [sys.executable, str(HERE), "serve", str(ports["standard"])]
    processes = {
        "echod": start(echod, ports["echod"]),
        "standard": start(standard, ports["standard"]),
    }
    print("| connections x lines on their way | echod | a thread each | ratio | echod's CPU |")
    print("| --- | --- | --- | --- | --- |")
    try:
        for connections, outstanding in LOADS:
            arguments = [*map(str, (connections, outstanding, LINE_BYTES)), "one", str(seconds)]
            results: dict[str, list[tuple[float, float]]] = {name: [] for name in ports}
            for _ in range(rounds):
                for name, port in ports.items():
                    results[name].append(measure(load, port, processes[name].pid, arguments))
            ours, theirs = (statistics.median(r for r, _ in results[name]) for name in ports)
            cpu = statistics.median(cpu for _, cpu in results["echod"]) * 1e6
            row = f"{connections} x {outstanding} | {ours:,.0f}/s | {theirs:,.0f}/s"
            print(f"| {row} | {ours / theirs:.1f} | {cpu:.2f} us |", flush=True)
    finally:
        for process in processes.values():
            process.terminate()
            process.wait()


def main() -> None:
    """Compiles the client and compares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        load = str(Path(directory) / "load")
        compiler = ["cc", "-O2", "-o", load, str(HERE.with_name("load.c"))]
        subprocess.run(compiler, check=True)  # noqa: S603
        compare(load, options.rounds, options.seconds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        StandardServer(("127.0.0.1", int(sys.argv[2])), StandardHandler).serve_forever()
    else:
        main()
