"""The whole run: find the peers, check their answers, then measure round by round."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from bench import figures
from bench.arguments import Settings
from bench.conversation import fault
from bench.figures import Samples, three_digits
from bench.measuring import Bench, measure, open_files, start_and_rest
from bench.peers import ABOUT, BUILT_IN, PREFIX, Peer, compiled
from bench.problems import Failed, NotHere
from bench.results import Results, machine
from bench.running import Server
from bench.scenarios import SCENARIOS, Scenario, cell
from bench.sides import SIDES

QUICK_BUDGET_SECONDS = 100.0
"""Seconds after which no new samples begin, so that the rest fits into two minutes."""

MOST_FAILURES = 2
OTHER_FILES = 200


def say(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


class Run:
    """One run: its settings, its directory and its results."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        files = open_files() - OTHER_FILES
        self.settings = settings
        self.bench = Bench(directory, settings.seconds, min(settings.idle, files))
        self.results = Results(settings.rounds, settings.seconds, self.bench.idle, machine())
        self._deadline = time.monotonic() + QUICK_BUDGET_SECONDS if settings.quick else None
        if files < settings.idle:
            self.problem(f"idle: {files:,} connections, for the open-file limit allows no more")

    def problem(self, text: str) -> None:
        """Record a problem for the report."""
        if text not in self.results.problems:
            say(f"! {text}")
            self.results.problems.append(text)

    def all(self) -> Results:
        """Run everything that was requested."""
        try:
            for name in ("lines", "connect", "limit"):
                compiled(name, self.bench.directory)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotHere(f"the load generators cannot be compiled: {error}") from error
        limit = (str(self.bench.directory / "limit"), *BUILT_IN["limit"].words[1:])
        built_in = BUILT_IN | {"limit": replace(BUILT_IN["limit"], words=limit)}
        asked = [built_in[name] for name in self.settings.peers]
        wanted = [one for one in SCENARIOS if one.key in self.settings.only]
        if wanted:
            self._peers([*asked, *self.settings.more], wanted)
        for key in SIDES:
            if key in self.settings.only:
                self._side(key)
        return self.results

    def _peers(self, asked: Sequence[Peer], wanted: Sequence[Scenario]) -> None:
        peers = self._sound(asked)
        self.results.peers = [peer.name for peer in peers]
        for peer in peers:
            self.results.about[peer.name] = ABOUT.get(peer.name, "given by --peer")
        for scenario in wanted:
            if scenario.quick or not self.settings.quick:
                self.results.cells[scenario.key] = self._rounds(scenario, peers, scenario.title)

    def _side(self, key: str) -> None:
        side = SIDES[key]
        peers = self._sound(side.peers())
        self.results.side_peers[key] = [peer.name for peer in peers]
        self.results.sides[key] = {}
        if len(peers) < 2:
            return  # nothing to compare; the problem is recorded
        for name in side.quick_cells if self.settings.quick else side.cells:
            title = f"{side.title}: {cell(name).title}"
            self.results.sides[key][name] = self._rounds(cell(name), peers, title)

    def _sound(self, peers: Sequence[Peer]) -> list[Peer]:
        """The peers that are available and answer correctly. The reasons for the others are
        recorded as problems.
        """
        found = []
        for peer in peers:
            wrong = peer.missing
            if not wrong:
                try:
                    with closing(Server(peer, self.bench.directory)) as server:
                        wrong = fault(server.port, PREFIX)
                except Failed as error:
                    wrong = str(error)
            if wrong:
                self.problem(f"{peer.name} is not measured: {wrong}")
            else:
                found.append(peer)
        return found

    def _rounds(self, scenario: Scenario, peers: Sequence[Peer], title: str) -> Samples:
        samples: Samples = {peer.name: [] for peer in peers}
        with ExitStack() as stack:
            turn = Turn(self.bench, scenario, stack)
            for _ in range(self.settings.rounds):
                for peer in peers:
                    self._one(turn, peer, samples, title)
        shown = []
        figure = "ready" if scenario.kind == "start" else "rate"
        for peer in peers:
            spread = figures.of(samples, peer.name, figure)
            shown.append(f"{peer.name} {three_digits(spread.median) if spread else '-'}")
        say(f"{title}: {', '.join(shown)}")
        return samples

    def _one(self, turn: Turn, peer: Peer, samples: Samples, title: str) -> None:
        found = samples[peer.name]
        if self._deadline is not None and time.monotonic() > self._deadline:
            self.problem("some samples are missing: a quick run has no time for more")
            found.append(None)
        elif found.count(None) >= MOST_FAILURES:
            found.append(None)
        else:
            try:
                found.append(turn.take(peer))
            except Failed as error:
                self.problem(f"{peer.name}, {title}: {error}")
                found.append(None)


class Turn:
    """The servers of one scenario, which keep running from round to round."""

    def __init__(self, bench: Bench, scenario: Scenario, stack: ExitStack) -> None:
        self._bench = bench
        self._scenario = scenario
        self._stack = stack
        self._servers: dict[str, Server] = {}

    def take(self, peer: Peer) -> figures.Sample:
        """One sample. Raises Failed; then the next one gets a new server."""
        if self._scenario.kind == "start":
            return start_and_rest(self._bench, peer)
        if peer.name not in self._servers:
            self._servers[peer.name] = self._stack.enter_context(
                closing(Server(peer, self._bench.directory))
            )
        try:
            sample = measure(self._bench, self._scenario, self._servers[peer.name])
        except Failed:
            self._servers.pop(peer.name).close()
            raise
        if self._scenario.kind == "idle":  # its memory would distort the next sample
            self._servers.pop(peer.name).close()
        return sample
