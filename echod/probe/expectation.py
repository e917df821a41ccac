"""The expected split: shares by version, and optionally one for failures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from echod.errors import UsageError, shown

FAILURES = "error"
"""The name for the share of failures."""

MAX_VERSIONS = 32
MAX_SHARE = 1_000_000_000_000
LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class Expectation:
    """Shares that add up to 1. Versions with share 0 and unnamed versions are forbidden."""

    shares: dict[str, float]
    failures: float | None
    """The share of connections that may fail; None: failures are not part of the split."""

    @property
    def cells(self) -> dict[str, float]:
        """All shares by name, including the share of failures if there is one."""
        return self.shares | ({} if self.failures is None else {FAILURES: self.failures})

    @property
    def tested(self) -> dict[str, float]:
        """The shares to test, each over 0.

        If two shares add up to 1, testing one of them is enough.
        """
        positive = {name: share for name, share in self.cells.items() if share}
        return dict(list(positive.items())[:1]) if len(positive) <= 2 else positive


def parse(texts: Sequence[str], source: str = "--expect") -> Expectation:
    r"""Parse texts like ``one=80,two=20``: names and shares in any unit. ``\,`` is a literal comma.

    Raises UsageError, naming the ``source``.
    """
    weights: dict[str, float] = {}
    for part in (part for text in texts for part in re.split(r"(?<!\\),", text)):
        name, equals, number = part.rpartition("=")
        name = name.replace("\\,", ",").strip()
        if not (equals and name):
            raise UsageError(f"{source} {shown(part)}: must be NAME=SHARE, for example one=80")
        if name in weights:
            raise UsageError(f"{source} {shown(part)}: must name each version once")
        weights[name] = _weight(part, number, source)
    total = fsum(weights.values())
    if not total:
        raise UsageError(f"{source} {shown(','.join(texts))}: must have a share over 0")
    if len(weights) > MAX_VERSIONS:
        raise UsageError(f"{source}: must name {MAX_VERSIONS} versions at most")
    for name, weight in weights.items():
        if 0 < weight < total * LEAST_SHARE:
            raise UsageError(
                f"{source} {shown(f'{name}={weight:g}')}: must be 0 or at least a millionth of all"
            )
    failures = weights.pop(FAILURES, None)
    shares = {name: weight / total for name, weight in weights.items()}
    return Expectation(shares, None if failures is None else failures / total)


def _weight(part: str, number: str, source: str) -> float:
    try:
        weight = float(number.strip().removesuffix("%"))
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= MAX_SHARE or "_" in number:
        raise UsageError(
            f"{source} {shown(part)}: must have a share from 0 to {MAX_SHARE:,}, for example 80"
        )
    return weight
