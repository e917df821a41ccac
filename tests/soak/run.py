"""A long run: the clients, the scraper, the drains beside them, and what is said of it all."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import linear_regression
from time import monotonic

from support import (
    NEVER,
    PATIENCE,
    Start,
    altered,
    command,
    connect,
    connections,
    read_to_end,
    until,
)

from soak.board import Board
from soak.clients import MAX_LINE_BYTES
from soak.promises import BUDGET, Promises, Watcher
from soak.restarts import Clients, Restarts

KIB, MIB = 1024, 1024 * 1024
PROCESSES = 3
"""Of clients; more than two cores can serve, since clients wait most of the time."""
SLOTS = 200
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
    minutes: float = 0.0  # more rounds until then
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
            if number >= self.rounds and monotonic() - began >= self.minutes * 60:
                return


@dataclass
class Rest:
    """How the process is without a connection."""

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
            "--max-connections": SLOTS,
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
        self._start, self._directory = start, directory

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
        with ExitStack() as stack:
            self.restarts = stack.enter_context(
                closing(Restarts(self._start, self._directory, self.promises, self._words()))
            )
            self.clients = [
                stack.enter_context(closing(self._process(index))) for index in range(PROCESSES)
            ]
            pool = stack.enter_context(ThreadPoolExecutor(2))
            stack.callback(over.set)
            self._rest()
            beside = [
                pool.submit(again, self.watcher.look, self.plan.scrape_seconds, over),
                pool.submit(again, self.restarts.replace, self.plan.drain_seconds, over),
            ]
            for number in self.plan.numbers():
                self._round(self.plan.idle if number % IDLE_EVERY == 2 else 0)
                for one in beside:
                    if one.done():
                        one.result()  # raises what has ended it
            until(lambda: self.restarts.drains)
            over.set()
            for one in beside:
                one.result()
            for clients in self.clients:
                clients.end()
            self.restarts.end()
        self._end()
        self.seconds = monotonic() - began

    def _words(self) -> list[str]:
        """Of the command of those that are replaced."""
        if not self.plan.hasty:
            return command()
        # On a busy machine clients may need all the time that they want.
        unhurried = altered(
            echo__closing__FRESH_SECONDS=PATIENCE, loop__lingering_close__LINGER_SECONDS=PATIENCE
        )
        return unhurried("--drain-timeout", str(NEVER))

    def _process(self, index: int) -> Clients:
        # An address each: all ports of one may be taken by connections that have just ended.
        words = [f"127.0.0.{index + 1}", index]
        for port, board in self.boards.items():
            words += [port, board.path]
        return Clients(self._directory, "mixed", *words)

    def _round(self, idle: int) -> None:
        shares = [total // PROCESSES for total in (self.plan.connections, self.plan.lines)]
        for clients in self.clients:
            clients.order(*shares, idle)
        for clients in self.clients:
            clients.wait()
        self._crowd()
        self._rest()

    def _crowd(self) -> None:
        """Every connection slot is taken, and more are asked for."""
        self._wait_for_active(0)
        self.own_tally.add(tried=SLOTS)
        with connections(self.certain, SLOTS):
            self._wait_for_active(SLOTS)
            for _ in range(REFUSED):
                with connect(self.certain) as client, suppress(ConnectionResetError):
                    assert read_to_end(client) == b""
            self.refused += REFUSED
        self.own_tally.add(unused=SLOTS)

    def _wait_for_active(self, wanted: int) -> None:
        active = 0.0

        def reached() -> bool:
            nonlocal active
            active = self.watcher.scrape()("echod_connections_active")
            return active == wanted

        try:
            until(reached)
        except AssertionError as error:
            raise AssertionError(f"broken: {wanted} active connections: {active}") from error

    def _rest(self) -> None:
        """Without a connection: what is left of it all?"""
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
        self.promises.equal("the stop cuts no connection", last["cut"], 0)
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
