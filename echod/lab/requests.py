"""Requests to a running lab, from another terminal or its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from echod.errors import UsageError, shown
from echod.lab.weights import VERSIONS, Weights
from echod.lab.weights import parse as weights_of

MOST_RATE = 500
"""Maximum rate of the lab's own traffic, in connections per second."""

OFF = "off"

_OF_VERSIONS = ("stop", "kill", "start", "drain")
VERBS = ("shift", *_OF_VERSIONS, "traffic", "judge")
"""The first words of requests."""


@dataclass(frozen=True)
class Request:
    """One request to a lab."""

    verb: str
    argument: str = ""

    @property
    def line(self) -> str:
        """The request as typed after ``echod lab``, and as sent to the lab."""
        return f"{self.verb} {self.argument}".strip()

    @property
    def weights(self) -> Weights:
        """The weights of a shift."""
        return weights_of(self.verb, self.argument)

    @property
    def rate(self) -> int | None:
        """The rate in connections per second; None: no traffic."""
        return None if self.argument == OFF else int(self.argument)


def parse(words: Sequence[str]) -> Request:
    """Parse words like ``shift 80/20``. Raises UsageError."""
    verb, arguments = (words[0], words[1:]) if words else ("", ())
    if verb == "judge" and not arguments:
        return Request(verb)
    if len(arguments) == 1:
        argument = arguments[0]
        if verb == "shift":
            weights = weights_of(verb, argument)
            return Request(verb, "/".join(map(str, weights.values())))
        if verb in _OF_VERSIONS:
            return Request(verb, _version(verb, argument))
        if verb == "traffic":
            return Request(verb, _rate(argument))
    raise UsageError(
        f"{shown(' '.join(words)[:60])}: must be shift WEIGHTS, for example shift 80/20, or stop,"
        " kill, start or drain with v1 or v2, traffic with a rate or off, or judge"
    )


def _version(verb: str, text: str) -> str:
    if text not in VERSIONS:
        raise UsageError(f"{verb} {shown(text)}: must be v1 or v2")
    return text


def _rate(text: str) -> str:
    if text == OFF:
        return OFF
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MOST_RATE):
        raise UsageError(
            f"traffic {shown(text)}: must be connections a second from 1 to {MOST_RATE}, or off"
        )
    return str(int(text))
