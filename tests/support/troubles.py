"""Echods that get into trouble, one kind each: what the alerts are there for."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from echod.lab.processes import free_port
from support import (
    Echod,
    Start,
    command,
    connect,
    connections,
    converse,
    get,
    read_exactly,
    until,
    without_descriptors,
)
from support.peers import prefixing, resetting, serving


class Restless:
    """Stands in for an echod in a crash loop that is there again for each scrape."""

    def __init__(self) -> None:
        self.restarting = False
        self._started = 1_000_000_000
        self._server = HTTPServer(("127.0.0.1", 0), self._page())
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.metrics_port: int = self._server.server_address[1]

    def __enter__(self) -> Restless:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def restart(self) -> None:
        self.restarting = True

    def rest(self) -> None:
        self.restarting = False

    def _page(self) -> type[BaseHTTPRequestHandler]:
        restless = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the name is given
                restless._started += restless.restarting
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                ready, start = 'echod_ready{version="all"} 1', "process_start_time_seconds"
                self.wfile.write(f"{ready}\n{start} {restless._started}\n".encode())

            def log_message(self, *_: object) -> None:
                """Not to the tests' error output."""

        return Page


class Watched:
    """A split of which a watch expects all of one version, and that watch."""

    def __init__(self, start: Start, closing: ExitStack) -> None:
        self.prefix = b"one"
        self.failing = False
        port = closing.enter_context(serving(self._behave))
        words = (f"127.0.0.1:{port}", "--watch", "--expect", "one=100,two=0", "--detect", "20")
        called = command("probe", *words, "--rate", "20", "--metrics-port", "0")
        self.watch = start(command=lambda *_: called)

    def _behave(self, connection: socket.socket, number: int) -> None:
        fails = self.failing and number % 2
        (resetting if fails else prefixing(self.prefix))(connection, number)

    def leave(self) -> None:
        self.prefix = b"two"

    def come_back(self) -> None:
        self.prefix = b"one"

    def fail(self) -> None:
        self.failing = True

    def mend(self) -> None:
        self.failing = False


class Scene:
    """The echods that get into trouble, who puts them there, and who gets them out.

    Job split has two versions and an expectation of 80/20, and one that is not expected. All of job
    troubled are of a version of which all connections are expected.
    """

    def __init__(self, start: Start, directory: Path, closing: ExitStack) -> None:
        self.start = start
        self.closing = closing
        self.targets = directory / "targets.json"
        self.ratio = (4, 1)  # connections to v1 and v2 a round
        self.calling_stranger = self.refusing = self.reading = False

        def of(version: str, *options: str, **more: Any) -> Echod:
            return start("--service-version", version, *options, **more)

        self.split = [of("v1"), of("v2", prefix="two")]
        self.stranger = of("v9")
        self.drained = of("v3", "--drain-delay", "300")
        closing.callback(self.drained.process.kill)  # which no second SIGTERM ends sooner
        self.fallen, self.starved = of("all"), of("all")
        self.near, self.full = (of("all", "--max-connections", most) for most in ("10", "1"))
        self.mute_port, self.mute_metrics_port = free_port(), free_port()
        self.log, pipe = os.pipe()
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
        closing.callback(os.close, self.log)
        os.set_blocking(self.log, False)
        words = ("--metrics-port", str(self.mute_metrics_port), "--log-level", "debug")
        of("all", *words, ports=str(self.mute_port), stdout=pipe)
        os.close(pipe)
        self.talk: socket.socket | None = None
        self.restless = closing.enter_context(Restless())
        self.watched = Watched(start, closing)
        troubled = (self.fallen, self.starved, self.near, self.full)
        self.jobs = {
            "split": [one.metrics_port for one in (*self.split, self.stranger)],
            "drained": [self.drained.metrics_port],
            "troubled": [one.metrics_port for one in troubled] + [self.mute_metrics_port],
            "restless": [self.restless.metrics_port],
            "watched": [self.watched.watch.metrics_port],
        }
        until(self.mute_is_ready)
        self.discover()

    def mute_is_ready(self) -> bool:
        try:
            return get(self.mute_metrics_port, "/readyz")[0] == 200
        except ConnectionRefusedError:
            return False

    @property
    def instances(self) -> int:
        return sum(map(len, self.jobs.values()))

    def discover(self) -> None:
        """Has Prometheus find the targets."""
        found = [
            {"targets": [f"127.0.0.1:{port}" for port in ports], "labels": {"job": job}}
            for job, ports in self.jobs.items()
        ]
        new = self.targets.with_suffix(".new")
        new.write_text(json.dumps(found))
        new.rename(self.targets)

    def round(self) -> None:
        """What clients do ten times a second."""
        for one, count in zip(self.split, self.ratio, strict=True):
            for _ in range(count):
                converse(one.port, b"x\n")
        for one in (*self.split, self.stranger):
            for _ in range(3):  # a load balancer's checks: no alert's concern
                connect(one.port).close()
        if self.calling_stranger:
            converse(self.stranger.port, b"x\n")
        if self.refusing:
            with suppress(OSError):
                converse(self.full.port, b"x\n")
        if self.talk:
            self.chatter(20)
        if self.reading:
            with suppress(BlockingIOError):
                while os.read(self.log, 1 << 16):
                    pass

    # The causes, and how each is taken away.

    def fall(self) -> None:
        self.ports = self.fallen.port, self.fallen.metrics_port
        self.fallen.stop()

    def rise(self) -> None:
        port, metrics_port = self.ports
        self.start("--service-version", "all", "--metrics-port", str(metrics_port), ports=str(port))

    def replace(self) -> None:
        new = self.start("--service-version", "v3")
        self.jobs["drained"].append(new.metrics_port)
        self.discover()

    def lean(self) -> None:
        self.ratio = (1, 1)

    def straighten(self) -> None:
        self.ratio = (4, 1)

    def call_stranger(self) -> None:
        self.calling_stranger = True

    def forget_stranger(self) -> None:
        self.calling_stranger = False

    def crowd(self) -> None:
        self.crowd_out = self.closing.enter_context(ExitStack())
        for _ in range(9):
            self.crowd_out.enter_context(connect(self.near.port))

    def fill(self) -> None:
        self.crowd_out.enter_context(connect(self.full.port))
        until(lambda: self.full.metrics()("echod_connections_active") == 1)
        self.refusing = True

    def thin(self) -> None:
        """Room again, for both."""
        self.refusing = False
        self.crowd_out.close()

    def starve(self) -> None:
        """Until ``feed``: it is scraped all the while."""
        self.starving = self.closing.enter_context(ExitStack())
        self.starving.enter_context(without_descriptors(self.starved))
        self.starving.enter_context(connections(self.starved.port, 3))

    def feed(self) -> None:
        self.starving.close()

    def babble(self) -> None:
        """More lines than wait in a pipe and in the queue before it."""
        self.talk = self.closing.enter_context(connect(self.mute_port))
        for _ in range(15):
            self.chatter(100)

    def chatter(self, count: int) -> None:
        assert self.talk
        line = b"no client reads it\n"
        self.talk.sendall(line * count)
        read_exactly(self.talk, len(b"one " + line) * count)

    def read(self) -> None:
        self.reading = True
