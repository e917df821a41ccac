"""Weights of the two versions: ``80/20``."""

from __future__ import annotations

from echod.errors import UsageError, shown

VERSIONS = {"v1": "one", "v2": "two"}
"""The prefix with which each version answers."""

MOST = 1_000_000

Weights = dict[str, int]


def parse(source: str, text: str) -> Weights:
    """Parse a text like ``80/20``. Raises UsageError, naming ``source``."""
    parts = text.strip().split("/")
    right = len(parts) == len(VERSIONS) and all(
        part.isascii() and part.isdigit() and len(part) <= 7 and int(part) <= MOST for part in parts
    )
    if not right or not any(map(int, parts)):
        raise UsageError(
            f"{source} {shown(text)}: must be the weights of v1 and v2, for example 80/20"
        )
    return dict(zip(VERSIONS, map(int, parts), strict=True))


def described(weights: Weights) -> str:
    """The weights as text: ``v1 80, v2 20``."""
    return ", ".join(f"{version} {weights.get(version, 0)}" for version in VERSIONS)


def expectation(weights: Weights) -> str:
    """The weights as a value of ``echod probe --expect``: ``one=80,two=20``."""
    return ",".join(f"{VERSIONS[version]}={weight}" for version, weight in weights.items())
