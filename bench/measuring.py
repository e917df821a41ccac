"""One sample: one peer in one round of one scenario."""

from __future__ import annotations

import resource
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench import proc
from bench.figures import Sample
from bench.load import Load, figures, reason
from bench.peers import PREFIX, Peer, compiled
from bench.problems import Failed
from bench.running import Server, scraped
from bench.scenarios import Scenario

MOST_CONNECTIONS = 60_000
"""Maximum number of connections in one run of connect, one line, close: as many as this system can
keep in TIME_WAIT."""

REST_SECONDS = 0.3


@dataclass(frozen=True)
class Bench:
    """Paths, and the duration of a sample."""

    directory: Path
    seconds: float
    idle: int  # connections of the idle scenario in all

    @property
    def warm_seconds(self) -> float:
        """Before each sample, the same load runs uncounted for this long."""
        return min(0.3, self.seconds / 4)


def open_files() -> int:
    """Raise this process's open-file limit, which servers inherit, as far as possible."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def measure(bench: Bench, scenario: Scenario, server: Server) -> Sample:
    """Figures by name; latencies and CPU in microseconds, memory in KiB. Raises Failed."""
    with scraped(server):
        if scenario.kind == "idle":
            return among_idle(bench, scenario, server)
        sample, _ = under_load(bench, scenario, server, 0)
        return sample


def start_and_rest(bench: Bench, peer: Peer) -> Sample:
    """How soon a server answers after its start, and its resource usage while idle."""
    with closing(Server(peer, bench.directory)) as server:
        time.sleep(REST_SECONDS)
        sample = {"ready": server.ready, "rest": float(proc.snapshot(server.pid).resident)}
        if server.readyz is not None:
            sample["readyz"] = server.readyz
        return sample


def among_idle(bench: Bench, scenario: Scenario, server: Server) -> Sample:
    """The same load alone, then among idle connections."""
    alone, _ = under_load(bench, scenario, server, 0)
    before = proc.snapshot(server.pid).resident
    idle = bench.idle - scenario.connections
    sample, with_idle = under_load(bench, scenario, server, idle)
    return sample | {
        "alone": alone["rate"],
        "alone_cpu": alone["cpu"],
        "kept": sample["rate"] / alone["rate"],
        "idle": float(idle),
        "each_idle": (with_idle - before) / idle,
    }


def under_load(bench: Bench, scenario: Scenario, server: Server, idle: int) -> tuple[Sample, float]:
    """A sample, and the resident memory with the idle connections alone, in KiB."""
    times = (bench.warm_seconds, bench.seconds)
    size = (scenario.connections, scenario.outstanding, scenario.line_bytes)
    if scenario.kind == "connect":
        name = "connect"
        words = [server.port, PREFIX, size[0], size[2], *times, MOST_CONNECTIONS]
    else:
        name = "lines"
        words = [server.port, PREFIX, *size, *times, idle]
    program = compiled(name, bench.directory)
    with closing(Load(program, *words, timeout=60 + 2 * bench.seconds)) as load:
        with_idle = 0.0
        if idle:
            load.hear("idle")
            with_idle = proc.snapshot(server.pid).resident
            load.go_on()
        load.hear("ready")
        before = proc.snapshot(server.pid)
        load.go_on()
        done = load.hear("done")
        after = proc.snapshot(server.pid)
        if idle:
            load.go_on()
            unanswered = int(load.hear("idle").rpartition("=")[2])
            if unanswered:
                raise Failed(f"{unanswered:,} of {idle:,} idle connections were not answered")
    return _sample(scenario, server.peer, done, before, after), with_idle


def _sample(
    scenario: Scenario, peer: Peer, done: str, before: proc.Snapshot, after: proc.Snapshot
) -> Sample:
    load = figures(done)
    lines, seconds = load["lines"], load["seconds"]
    if load["errors"] or not lines or not seconds:
        raise Failed(f"{load['errors']:,.0f} errors, {lines:,.0f} answers: {reason(done)}")
    sample = {
        "rate": lines / seconds,
        "cpu": (after.cpu - before.cpu) / lines * 1e6,
        "load": float(after.resident),
        "client": load["cpu"] / seconds,
    }
    if not (scenario.kind == "connect" and peer.threads_end):
        sample["switches"] = (after.switches - before.switches) / lines
    return sample | {name: load[name] for name in ("p50", "p99", "p999", "lines")}
