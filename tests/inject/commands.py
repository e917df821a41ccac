"""A run of one of echod's other commands, and what all of them have to be."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import command

from inject.faults import Fault
from inject.injector import Control
from inject.process import Hang, Process, Refused, wait_for
from inject.verdict import OF_THE_INTERPRETER, Verdict

GONE_SECONDS = 5.0
"""Longest time until a child process has noticed that its parent has gone."""


@dataclass
class Run:
    """What a command has left."""

    hang: str = ""
    status: int | None = None
    output: str = ""
    errors: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)  # that it has left behind
    files: list[str] = field(default_factory=list)  # the same, in the directory for temporary ones
    failed: list[str] = field(default_factory=list)  # what its clients were not given
    facts: dict[str, Any] = field(default_factory=dict)  # what a script has noted
    reached: bool = False  # whether the script came to its end

    @property
    def log(self) -> list[str]:
        return [*self.output.split("\n"), *self.errors.split("\n")]

    def refused(self, statuses: Collection[int]) -> bool:
        """Whether it ended with one of these, and one line (but for warnings) that says why."""
        lines = self.errors.splitlines()
        errors = [line for line in lines if not line.startswith("echod: warning: ")]
        return (
            self.status in statuses and len(errors) == 1 and errors[0].startswith("echod: error: ")
        )


class Command:
    """A script. ``refusals``: the exit statuses of a call that the system refuses."""

    name = ""
    refusals: tuple[int, ...] = (1,)
    most = 12
    """Calls of a kind, of those that are one like another, into which errors are injected."""
    sampled = 6
    """Faults that ``make test-real`` injects."""

    def words(self, directory: Path, held: ExitStack, run: Run) -> Sequence[str]:
        """The arguments; starts what they name."""
        raise NotImplementedError

    def act(self, process: Process, run: Run) -> None:
        """Do the script's part, until the process ends or gets a signal."""

    def lived(self, run: Run, clean: Run, fault: Fault | None) -> Verdict:
        """The verdict on a run that was not refused."""
        raise NotImplementedError

    def live(self, directory: Path, control: Control, _fault: Fault | None) -> Run:
        """Runs it once."""
        run = Run()
        temporary = directory / "tmp"
        temporary.mkdir()
        with ExitStack() as held:
            words = self.words(directory, held, run)
            process = Process(directory, words, control, None, command, TMPDIR=str(temporary))
            held.callback(process.close)
            try:
                self.act(process, run)
                run.reached = True
                process.wait()
            except Refused:
                run.failed.append("ended early")
            except Hang as hang:
                run.hang = str(hang)
            run.status = process.process.poll()
            run.output, run.errors = process.output(), process.errors
            run.events = process.events()
            run.processes = left_behind(directory, process.pid)
            run.files = sorted(str(one.relative_to(temporary)) for one in temporary.rglob("*"))
        return run

    def judge(self, run: Run, clean: Run, fault: Fault | None) -> Verdict:
        """A wrong verdict, a hang, a traceback, or something left behind."""
        problems = [f"process left: {one}" for one in run.processes]
        if run.files and not (fault and fault.kind == "unlink"):
            problems.append(f"files left: {run.files}")
        if run.hang:
            return Verdict("hang", [f"hangs: {run.hang}", *problems, run.errors[-300:]])
        problems += [
            f"traceback: {text[-600:]}"
            for text in (run.output, run.errors)
            if "Traceback" in text and not text.startswith(OF_THE_INTERPRETER)
        ]
        if run.refused(self.refusals):
            return Verdict("refused", problems)
        verdict = self.lived(run, clean, fault)
        problems += verdict.problems
        if run.errors != clean.errors and not run.errors.startswith(OF_THE_INTERPRETER):
            problems.append(f"error output: {run.errors[-600:]}")
        if problems:
            problems.append(f"exit status {run.status}")
        return Verdict(verdict.outcome, problems)


def port_of(process: Process) -> int:
    """The first port that it listens on. Raises Refused if it ends before that."""

    def look() -> set[int]:
        if process.process.poll() is not None:
            raise Refused
        with suppress(FileNotFoundError):  # it has just ended
            return process.listening()
        return set()

    found: set[int] = wait_for(look, "a port that listens")
    return min(found)


def left_behind(directory: Path, pid: int) -> list[str]:
    """The children of a command, found by their environment, that do not end. They are killed."""

    def children() -> dict[int, str]:
        return {one: words for one, words in of_environment(directory).items() if one != pid}

    with suppress(Hang):
        wait_for(lambda: not children(), "children", GONE_SECONDS)
    left = children()
    for one in left:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    return list(left.values())


def of_environment(directory: Path) -> dict[int, str]:
    """The processes whose environment names a directory, and their command lines."""
    found = {}
    mark = os.fsencode(f"INJECT_CONTROL={directory}/")
    for one in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (one / "environ").read_bytes():
                words = (one / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(one.name)] = words.decode(errors="replace")[:100]
    return found


def tried(run: Run, what: str, call: Callable[[], object]) -> Any:
    """What a call gives; None if it fails, which is noted."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001  # whatever a client makes of it
        run.failed.append(f"{what}: {error!r}")
        return None
