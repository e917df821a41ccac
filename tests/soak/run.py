"""A long run: the clients, the scraper, the drains beside them, and what is said of it all."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import linear_regression
from time import monotonic

from support import (
    PATIENCE,
    ROOT,
    Echod,
    Sockets,
    Start,
    clean_environment,
    command,
    connect,
    connections,
    read_to_end,
    until,
)

from soak.board import Board
from soak.clients import MAX_LINE_BYTES, RESTARTED_CLIENTS
from soak.promises import BUDGET, HEAD_BYTES, Promises, Watcher

KIB, MIB = 1024, 1024 * 1024
PROCESSES = 3
"""Of clients; more than two cores can serve, since clients wait most of the time."""
PLACES = 200
REFUSED = 20
IDLE_SECONDS = 10.0
"""Longer than any process is likely to stand still on a busy machine."""
IDLE_EVERY = 6
"""Rounds: each in which clients wait for that takes so long."""
WARM_UP = 0.15
"""The share of the connections after which memory is expected to stay as it is."""
PER = 100_000
"""Connections, for which a growth is given."""


@dataclass(frozen=True)
class Plan:
    """How much of what. After each round there is rest."""

    rounds: int = 12
    connections: int = 8_400  # a round
    lines: int = 84_000  # a round
    minutes: float | None = None  # rounds until then, however many
    threads: str = "auto"
    hasty: bool = False  # the server's threads take turns at every chance: see what tears
    idle: int = 10  # in some rounds, of each process of clients
    scrape_seconds: float = 0.1
    drain_seconds: float = 3.0

    def numbers(self) -> Iterator[int]:
        """Of the rounds to come."""
        began = monotonic()
        for number in count(1):
            yield number
            over = monotonic() - began >= self.minutes * 60 if self.minutes else False
            if over or (self.minutes is None and number == self.rounds):
                return


class Clients:
    """A process of them; an error that it ends with is a broken promise."""

    def __init__(self, directory: Path, *words: object) -> None:
        self._errors = directory / f"clients-{words[0]}-{words[1]}"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "soak.clients", *map(str, words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=directory,
                env=clean_environment(PYTHONPATH=str(ROOT / "tests")),
            )

    def order(self, connections: int, lines: int, idle: int) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{connections} {lines} {idle}\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        """Until the order is carried out."""
        assert self.process.stdout
        assert self.process.stdout.readline() == "done\n", self._errors.read_text()

    def end(self) -> None:
        self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, self._errors.read_text()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Restarts:
    """An echod on an inherited socket that is replaced again and again, and its clients."""

    def __init__(self, start: Start, directory: Path, promises: Promises) -> None:
        self.drains = 0
        self.totals: Counter[str] = Counter()
        self._start = start
        self._promises = promises
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = Sockets(echo=[self._listener])
        self._board = Board(directory / "restarts", RESTARTED_CLIENTS)
        self._echod = self._next()
        port = self._listener.getsockname()[1]
        self._clients = Clients(directory, "restarted", "127.0.0.1", port, self._board.path)

    def _next(self) -> Echod:
        return self._start(
            command=lambda *_: self._sockets.command("--metrics-port", "0"),
            env=clean_environment(ECHOD_PREFIX="one"),
            pass_fds=self._sockets.descriptors,
        )

    def replace(self) -> None:
        """The next one before the old one drains, or after it, by turns."""
        if self.drains % 2:
            self._stop()
            self._echod = self._next()
            self._echod.event("ready")
        else:
            following = self._next()
            following.event("ready")
            self._stop()
            self._echod = following
        self.drains += 1

    def _stop(self) -> None:
        last = self._echod.stop()
        self._promises.equal("no drain cuts anybody", last["cut"], 0)
        for total in last["totals"]:
            self.totals.update(total)

    def end(self) -> None:
        """Of the clients first: then every count must be what they have seen."""
        self._clients.end()
        self._stop()
        sums, totals = self._board.sums(), self.totals
        replies = sums["bytes_answered"] + HEAD_BYTES * sums["lines_back"]
        for name, known in (
            ("opened", sums["tried"]),
            ("closed", sums["tried"]),
            ("rejected", 0),
            ("requests", sums["lines_back"]),
            ("sent_bytes", replies),
        ):
            self._promises.equal(
                f"all {name} of those that stopped are the clients'", totals[name], known
            )
        self._promises.in_order(
            "all bytes received by those that stopped are the clients'",
            sums["bytes_answered"],
            totals["received_bytes"],
            sums["bytes_out"],
        )

    def close(self) -> None:
        self._clients.close()
        self._listener.close()


@dataclass
class Rest:
    """How the process is when nobody is connected."""

    connections: int
    lines: int
    rss: int
    files: int
    threads: int

    def __str__(self) -> str:
        return (
            f"{self.connections:>9,} connections {self.lines:>11,} lines"
            f" {self.rss / MIB:7.2f} MiB {self.files:3} files {self.threads:2} threads"
        )


class Soak:
    """One echod with two ports, all of whose clients are known, from its start to its stop."""

    def __init__(self, start: Start, directory: Path, plan: Plan) -> None:
        self.plan = plan
        self.promises = Promises()
        self.rests: list[Rest] = []
        self.refused = 0
        options = {
            "--handler-threads": plan.threads,
            "--max-connections": PLACES,
            "--max-line-bytes": MAX_LINE_BYTES,
            "--max-buffered-bytes": BUDGET,
            "--idle-timeout": IDLE_SECONDS,
        }
        words = [str(word) for option in options.items() for word in option]
        self.echod = start(*words, ports="0,0", command=hasty if plan.hasty else command)
        self.certain, self.wild = self.echod.ports
        self.files, self.threads = self.echod.open_files(), self.echod.threads()
        self.boards = {
            self.certain: Board(directory / "certain", 2 * PROCESSES + 1),
            self.wild: Board(directory / "wild", PROCESSES),
        }
        self.own_tally = self.boards[self.certain].row(2 * PROCESSES)
        self.watcher = Watcher(self.echod, self.boards, self.promises)
        self.restarts = Restarts(start, directory, self.promises)
        self.clients = [self._process(directory, index) for index in range(PROCESSES)]

    def _process(self, directory: Path, index: int) -> Clients:
        # An address each: all ports of one may be taken by connections that have just ended.
        words = [f"127.0.0.{index + 1}", index]
        for port, board in self.boards.items():
            words += [port, board.path]
        return Clients(directory, "mixed", *words)

    def run(self) -> None:
        """Rounds of load and rest, with scrapes and drains all along."""
        try:
            self._run()
        except Exception as error:
            ends = f"ends: {self.watcher.reasons()}"
            raise AssertionError("\n".join([*self.promises.lines(), str(error), ends])) from error

    def _run(self) -> None:
        began = monotonic()
        over = threading.Event()
        self._rest()
        with ExitStack() as closing:
            closing.callback(self.restarts.close)
            for clients in self.clients:
                closing.callback(clients.close)
            pool = closing.enter_context(ThreadPoolExecutor(2))
            closing.callback(over.set)
            beside = [
                pool.submit(again, self.watcher.look, self.plan.scrape_seconds, over),
                pool.submit(again, self.restarts.replace, self.plan.drain_seconds, over),
            ]
            for number in self.plan.numbers():
                self._round(self.plan.idle if number % IDLE_EVERY == 2 else 0)
            until(lambda: self.restarts.drains)
            over.set()
            for one in beside:
                one.result()
            for clients in self.clients:
                clients.end()
            self.restarts.end()
        self._end()
        self.seconds = monotonic() - began

    def _round(self, idle: int) -> None:
        connections, lines = (
            all_ // PROCESSES for all_ in (self.plan.connections, self.plan.lines)
        )
        for clients in self.clients:
            clients.order(connections, lines, idle)
        for clients in self.clients:
            clients.wait()
        self._crowd()
        self._rest()

    def _crowd(self) -> None:
        """Every place is taken, and more are asked for."""
        self._wait_for_active(0)
        self.own_tally.add(tried=PLACES)
        with connections(self.certain, PLACES):
            self._wait_for_active(PLACES)
            for _ in range(REFUSED):
                with connect(self.certain) as client, suppress(ConnectionResetError):
                    assert read_to_end(client) == b""
            self.refused += REFUSED
        self.own_tally.add(eof=PLACES)

    def _wait_for_active(self, wanted: int) -> None:
        active = 0.0

        def reached() -> bool:
            nonlocal active
            active = self.echod.metrics()("echod_connections_active")
            return active == wanted

        try:
            until(reached)
        except AssertionError as error:
            raise AssertionError(f"broken: {wanted} active connections: {active}") from error

    def _rest(self) -> None:
        """Nobody is connected: what is left of it all?"""
        self._wait_for_active(0)
        files, threads = self._settled_files(), self.echod.threads()
        self.promises.equal("open files are as at the beginning", files, self.files)
        self.promises.equal("threads are as at the beginning", threads, self.threads)
        self.watcher.judge_rest(self.certain, self.wild, self.refused)
        rest = Rest(self._sum("tried"), self._sum("lines_out"), self.echod.rss(), files, threads)
        self.rests.append(rest)
        say(f"{rest} {self.watcher.scrapes:5} scrapes {self.restarts.drains:3} drains")

    def _settled_files(self) -> int:
        """A scrape may be under way, and a socket's end takes a moment."""
        try:
            until(lambda: self.echod.open_files() == self.files)
        except AssertionError:
            return self.echod.open_files()
        return self.files

    def _sum(self, name: str) -> int:
        return sum(board.sums()[name] for board in self.boards.values())

    def _end(self) -> None:
        """What it says of itself when it stops."""
        last = self.echod.stop()
        self.promises.equal("nobody is cut at the stop", last["cut"], 0)
        opened = [total["opened"] for total in last["totals"]]
        tried = [board.sums()["tried"] for board in self.boards.values()]
        self.promises.equal("the last event has the same totals", tuple(opened), tuple(tried))
        faults = [event for event in self.echod.events() if event["level"] == "error"]
        self.promises.check("no error is logged", not faults, *faults)

    @property
    def growth(self) -> float:
        """Bytes of memory for each 100,000 connections, once those before have warmed it up."""
        warm = self.rests[-1].connections * WARM_UP
        warmed_up = [rest for rest in self.rests if rest.connections >= warm]
        made = [rest.connections for rest in warmed_up]
        return linear_regression(made, [rest.rss for rest in warmed_up]).slope * PER

    def summarize(self) -> None:
        """The figures."""
        first, warm, last = self.rests[0], self.rests[2], self.rests[-1]
        say(
            f"{last.connections:,} connections, {last.lines:,} lines, {self.refused:,} refused,"
            f" {len(self.rests) - 1} rests, {self.watcher.scrapes} scrapes in {self.seconds:.0f} s"
            f" by handler threads: {self.plan.threads}\n"
            f"beside it {self.restarts.drains} drains under {self.restarts.totals['opened']:,}"
            f" connections with {self.restarts.totals['requests']:,} lines\n"
            f"memory: {first.rss / MIB:.2f} MiB at first, {warm.rss / MIB:.2f} MiB warm,"
            f" {last.rss / MIB:.2f} MiB at the end, growth {self.growth / KIB:.0f} KiB"
            f" per {PER:,} connections\n"
            f"open files {first.files}, then {last.files}; threads {first.threads}, then"
            f" {last.threads}; at most {self.watcher.most_buffered:,.0f} bytes held for clients"
        )


HASTY = """
import runpy, sys
sys.setswitchinterval(1e-6)
runpy.run_module("echod", run_name="__main__")
"""


def hasty(*arguments: str) -> list[str]:
    return [sys.executable, "-c", HASTY, *arguments]


def again(act: Callable[[], None], seconds: float, over: threading.Event) -> None:
    """Every so many seconds until it is over."""
    while not over.wait(seconds):
        act()


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
