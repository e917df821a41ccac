"""The complete result of a run, and how its names and shares are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log10

from echod.probe.expectation import LEAST_SHARE, Expectation
from echod.probe.servers import Counts
from echod.probe.verdict import Judgement, Row, Rules, Status

MOST_SHOWN = 64
"""Maximum characters shown of a name; a SHA-256 has as many."""

MOST_TOLD = 200
"""Maximum characters shown of what a service has sent in place of a reply."""

MOST_PLACES = 9

HEADLINES = {
    Status.HOLDS: "holds",
    Status.DIFFERS: "does not hold",
    Status.ERRORS: "too many errors",
    Status.INCONCLUSIVE: "inconclusive",
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run. Times are in seconds."""

    target: str
    rules: Rules
    judgement: Judgement
    seconds: float
    answered: int
    failed: int
    cap: int | None = None
    """The number of connections after which the run ends without a verdict."""
    interrupted: bool = False
    abandoned: int = 0
    """Connections in progress at the end, with an unknown result."""
    refused: str = ""
    """The error of this host, if any."""
    servers: Counts | None = None
    addresses: int = 1
    """The number of addresses of the target's name."""
    taken: str = ""
    """The only address that samples went to."""
    sources: int = 1
    """The number of source addresses, used in turn."""
    waited: bool = False
    """Whether the run waited for the split; then only its end is judged."""

    @property
    def connections(self) -> int:
        """All connections of the run, including those that were not judged."""
        return self.answered + self.failed

    @property
    def servers_match(self) -> bool:
        """Whether the servers' counts match this client's; true if they were not read."""
        if self.servers is None:
            return True
        return self.servers.match(self.answered, self.failed + self.abandoned)

    @property
    def status(self) -> Status:
        """The overall verdict. Without an expectation, an interrupted run is inconclusive, because
        it has not made all its connections.
        """
        status = self.judgement.status
        if self.refused:
            return Status.ERRORS
        if status in (Status.HOLDS, Status.INCONCLUSIVE) and not self.servers_match:
            return Status.DIFFERS
        if status is Status.HOLDS and self.interrupted and not self.rules.expectation:
            return Status.INCONCLUSIVE
        return status

    @property
    def by_address(self) -> Mapping[str, Counter[str]]:
        """Counts by name for each address that samples went to, if the name has several."""
        return self.judgement.independence.by_address if self._has_several else {}

    def first_failure(self, kind: str) -> str:
        """The details of the first failure of a kind, with its address if the name has several."""
        first = self.judgement.tally.first[kind]
        place = f"{printable(first.address)}: " if self._has_several and first.address else ""
        return place + printable(first.detail, MOST_TOLD)

    @property
    def _has_several(self) -> bool:
        """Whether the name has several addresses: at once, or one after the other."""
        return self.addresses > 1 or len(self.judgement.independence.by_address) > 1


def printable(name: str, most: int = MOST_SHOWN) -> str:
    """A name made safe to show anywhere, including XML: escaped, and shortened if long."""
    pieces = []
    for character in name[: most + 1]:
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
            pieces.append(f"\\x{code - 0xDC00:02x}")
        elif character.isprintable() and character != "\\":
            pieces.append(character)
        else:
            pieces.append(character.encode("unicode_escape").decode())
    if len(name) > most:
        pieces[most:] = ["..."]
    return "".join(pieces) or "(empty)"


def decimals(row: Row) -> int:
    """The decimals of per cent that distinguish an expected share from 0 and 100, and from an
    interval that does not contain it.
    """
    if not row.expected:
        return 1
    rest = min(row.expected, 1 - row.expected)
    places = max(1, 1 + ceil(-log10(round(100 * rest, 9)))) if rest > LEAST_SHARE / 2 else 1
    if row.low <= row.expected <= row.high:
        return places

    def shown(share: float) -> float:
        return round(100 * share, places)

    while places < MOST_PLACES and shown(row.low) <= shown(row.expected) <= shown(row.high):
        places += 1
    return places


def percent(share: float, least: int = 1) -> str:
    """A share in per cent with ``least`` decimals, or more if it is very small."""
    return f"{100 * share:.{max(least, 1 if share == 0 or share >= 0.001 else 3)}f} %"


def interval(low: float, high: float, places: int) -> str:
    """An interval of shares in per cent, with ``places`` decimals."""
    return f"{100 * low:.{places}f} - {100 * high:.{places}f} %"


def expected_text(expectation: Expectation) -> str:
    """The expectation in per cent: ``one=80,two=20``."""
    shares = expectation.cells.items()
    return ",".join(f"{printable(name)}={100 * share:.6g}" for name, share in shares)
