"""The command line: ``python -m bench``."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bench.peers import BUILT_IN, HERE, Peer
from bench.problems import UsageError
from bench.scenarios import IDLE, QUICK_IDLE, SCENARIOS
from bench.sides import SIDES

ROUNDS, SECONDS = 9, 1.0
QUICK_ROUNDS, QUICK_SECONDS = 2, 0.2
MOST_ROUNDS, MOST_SECONDS = 100, 60
LEAST_IDLE, MOST_IDLE = 100, 100_000
NAMES = (*(one.key for one in SCENARIOS), *SIDES)

DESCRIPTION = """\
Runs echod and its peers in turn, in rounds, and writes results.md, results.json and results.svg.
"""


@dataclass(frozen=True)
class Settings:
    """The settings of a run."""

    rounds: int
    seconds: float
    only: tuple[str, ...]
    peers: tuple[str, ...]
    more: tuple[Peer, ...]
    idle: int
    quick: bool
    instructions: bool
    output: Path


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parser() -> argparse.ArgumentParser:
    """The parser of texts; the values are checked afterwards."""
    found = _Parser(prog="python -m bench", description=DESCRIPTION, allow_abbrev=False)
    found.add_argument("--rounds", metavar="N", help=f"default: {ROUNDS}, quick: {QUICK_ROUNDS}")
    text = f"of each sample; default: {SECONDS}, quick: {QUICK_SECONDS}"
    found.add_argument("--seconds", metavar="S", help=text)
    text = f"connections, 64 of them busy; default: {IDLE}, quick: {QUICK_IDLE}"
    found.add_argument("--idle", metavar="N", help=text)
    text = "of these alone, separated by commas: " + ", ".join(NAMES)
    found.add_argument("--only", metavar="SCENARIO", action="append", default=[], help=text)
    text = "of these alone, separated by commas: " + ", ".join(BUILT_IN)
    found.add_argument("--peers", metavar="NAMES", action="append", default=[], help=text)
    text = "one more server; {port} and {prefix} are filled in, and no shell looks at it"
    found.add_argument(
        "--peer", metavar="NAME='COMMAND'", action="append", default=[], dest="more", help=text
    )
    text = "two minutes at most: fewer and shorter rounds, fewer connections"
    found.add_argument("--quick", action="store_true", help=text)
    text = "user instructions of echod per line and per connection by callgrind, and nothing else"
    found.add_argument("--instructions", action="store_true", help=text)
    text = "directory for the results; default: bench/results"
    found.add_argument("--output", metavar="DIR", help=text)
    return found


def parse(words: Sequence[str]) -> Settings:
    """Raise UsageError, naming the argument, its value and what is allowed."""
    given = parser().parse_args(words)
    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if given.quick else (ROUNDS, SECONDS)
    if given.rounds is not None:
        rounds = int(_number("--rounds", given.rounds, 1, MOST_ROUNDS))
    if given.seconds is not None:
        seconds = _number("--seconds", given.seconds, 0.1, MOST_SECONDS)
    idle = QUICK_IDLE if given.quick else IDLE
    if given.idle is not None:
        idle = int(_number("--idle", given.idle, LEAST_IDLE, MOST_IDLE))
    peers = _names("--peers", given.peers, tuple(BUILT_IN))
    more: dict[str, Peer] = {}
    for text in given.more:
        peer = _peer(text)
        if peer.name in BUILT_IN or peer.name in more:
            raise UsageError(f"--peer {text!a}: must have a name of its own; {peer.name} is taken")
        more[peer.name] = peer
    return Settings(
        rounds=rounds,
        seconds=seconds,
        only=_names("--only", given.only, NAMES),
        peers=peers,
        more=tuple(more.values()),
        idle=idle,
        quick=given.quick,
        instructions=given.instructions,
        output=_directory(given.output),
    )


def _number(flag: str, text: str, least: float, most: float) -> float:
    """A number, whole if the bounds are."""
    whole = isinstance(least, int)
    pattern = r"\d{1,9}" if whole else r"\d{1,9}(\.\d*)?|\.\d+"
    if not re.fullmatch(pattern, text, re.ASCII) or not least <= float(text) <= most:
        kind = "whole number" if whole else "number"
        raise UsageError(f"{flag} {text!a}: must be a {kind} from {least:,} to {most:,}")
    return float(text)


def _names(flag: str, texts: Sequence[str], allowed: tuple[str, ...]) -> tuple[str, ...]:
    """The requested names in the order of the table; all of them by default."""
    asked = [name for text in texts for name in text.split(",")]
    for name in asked:
        if name not in allowed:
            raise UsageError(f"{flag} {name!a}: must be of {', '.join(allowed)}")
    return tuple(name for name in allowed if name in asked) if asked else allowed


def _peer(text: str) -> Peer:
    name, _, command = text.partition("=")
    form = "must be NAME='COMMAND with {port} and {prefix}'"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", name):
        raise UsageError(f"--peer {text!a}: {form}, its name of 1 to 32 letters, digits, '._-'")
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(f"--peer {text!a}: {form}: {error}") from error
    for placeholder in ("{port}", "{prefix}"):
        if placeholder not in command:
            raise UsageError(f"--peer {text!a}: {form}: {placeholder} is missing")
    path = Path(words[0])
    # a path that holds here must hold where servers run
    first = str(path.absolute()) if path.exists() and "/" in words[0] else words[0]
    return Peer(name, (first, *words[1:]))


def _directory(text: str | None) -> Path:
    path = HERE / "results" if text is None else Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--output {text!a}: must be a directory that can be written to: {error.strerror}"
        ) from error
    return path
