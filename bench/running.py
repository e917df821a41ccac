"""Running servers, and scraping them."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers import Peer
from bench.problems import Failed
from echod.lab.processes import free_port

START_SECONDS = 15.0
STOP_SECONDS = 10.0


def get(port: int, path: str) -> int:
    """The status of one HTTP request; 0 if there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return 0
    else:
        return response.status
    finally:
        connection.close()


def environment() -> dict[str, str]:
    """The environment without settings of echod and without sockets to inherit."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("ECHOD_", "LISTEN_"))}


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Terminate a process, and kill it after ``seconds``."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Server:
    """A peer that runs and answers on its port. Raises Failed if it does not come that far.

    ``ready`` is the time from the start to the first connection, in seconds. ``readyz`` is the time
    to a 200 from /readyz, if there is a metrics port.
    """

    def __init__(self, peer: Peer, directory: Path) -> None:
        self.peer = peer
        self.port, self.metrics = free_port(), free_port()
        self.readyz: float | None = None
        self._errors = directory / f"{peer.name.replace('/', '-')}.err"
        began = time.perf_counter()
        with self._errors.open("wb") as errors:
            try:
                self.process = subprocess.Popen(  # noqa: S603
                    peer.command(self.port, self.metrics),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    cwd=directory,  # not the checkout: the installed package is measured
                    env=environment() | dict(peer.environ),
                )
            except OSError as error:
                raise Failed(f"cannot be started: {error.strerror}") from error
        try:
            self.ready = self._until(began, self._connects)
            if peer.scraped:
                self.readyz = self._until(began, lambda: get(self.metrics, "/readyz") == 200)
        except Failed:
            self.close()
            raise

    def _connects(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def _until(self, began: float, look: Callable[[], bool]) -> float:
        while not look():
            taken = time.perf_counter() - began
            if self.process.poll() is not None:
                raise Failed(f"has ended with status {self.process.returncode}: {self.said()}")
            if taken > START_SECONDS:
                raise Failed(f"does not answer on its port after {START_SECONDS:.0f} s")
            time.sleep(0.001)
        return time.perf_counter() - began

    def said(self) -> str:
        """The last line of its standard error."""
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it said nothing"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def close(self) -> None:
        """Stop it, within some seconds."""
        end(self.process, STOP_SECONDS)


@contextmanager
def scraped(server: Server) -> Iterator[None]:
    """Scrape /metrics every second within this block, if there is a metrics port."""
    ended = threading.Event()

    def scrape() -> None:
        get(server.metrics, "/metrics")
        while not ended.wait(1):
            get(server.metrics, "/metrics")

    thread = threading.Thread(target=scrape)
    if server.peer.scraped:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if server.peer.scraped:
            thread.join()
