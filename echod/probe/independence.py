"""Tests whether the samples were independent, by their order and in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import exp, inf, lgamma, log, sqrt

CHANGED = 1e-6
"""Below this p-value the split has changed during the run."""

STICKS = 4.0
"""Beyond this many standard deviations, the number of runs is not chance."""

MOST_STRETCHES = 20
LEAST_EXPECTED = 5.0
"""Minimum samples of each version in each stretch, for the chi-square approximation to hold."""

_FEW_STRETCHES = (2, 5)

_MOST_ADDRESSES = 256
_MOST_BLOCKS = 2048


@dataclass(frozen=True)
class Runs:
    """Runs of equal neighbors, and their number expected by chance for these counts (Mood 1940)."""

    seen: int
    expected: float
    z: float


@dataclass(frozen=True)
class Homogeneity:
    """A chi-square test of whether all parts of a whole have the same shares."""

    parts: int
    chi_square: float
    p: float


@dataclass(frozen=True)
class Independence:
    """The tests of the samples' independence. None: too few samples."""

    runs: Runs | None = None
    homogeneity: Homogeneity | None = None
    by_address: Mapping[str, Counter[str]] = field(default_factory=dict)
    """Counts by name for each address that samples went to."""
    addresses: Homogeneity | None = None


class Addresses:
    """Counts by name for each address that samples went to."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}

    def add(self, address: str, name: str) -> None:
        """Count one more sample."""
        if address not in self.counts and len(self.counts) >= _MOST_ADDRESSES:
            address = "others"
        self.counts.setdefault(address, Counter())[name] += 1

    def homogeneity(self) -> Homogeneity | None:
        """The test of whether all addresses with enough samples have the same shares."""
        names = {name for counts in self.counts.values() for name in counts}
        enough = [one for one in self.counts.values() if one.total() >= LEAST_EXPECTED * len(names)]
        return homogeneity(enough)


@dataclass
class Place:
    """A place in an order: what came before it."""

    total: int
    counts: Counter[str]
    runs: int = 0


class Order:
    """The order of samples, as blocks of counts. The block size doubles when there are many."""

    def __init__(self) -> None:
        self.total = 0
        self.counts: Counter[str] = Counter()
        self.runs = 0
        self._last: str | None = None
        self._size = 1
        self._blocks: list[Counter[str]] = []
        self._open: Counter[str] = Counter()
        self._marks: list[Place] = []  # those that the next sample comes after

    def mark(self) -> Place:
        """The point between the last sample and the next one."""
        mark = Place(self.total, self.counts.copy())
        self._marks.append(mark)
        return mark

    def add(self, name: str) -> None:
        """Count one more sample."""
        self.total += 1
        self.counts[name] += 1
        self.runs += name != self._last
        while self._marks:
            self._marks.pop().runs = self.runs - 1  # this sample begins a run behind the mark
        self._last = name
        self._open[name] += 1
        if self.total % self._size == 0:
            self._blocks.append(self._open)
            self._open = Counter()
        if len(self._blocks) >= _MOST_BLOCKS:
            pairs = zip(self._blocks[::2], self._blocks[1::2], strict=True)
            self._blocks = [a + b for a, b in pairs]
            self._size *= 2

    def homogeneity(self, since: Place | None = None) -> Homogeneity | None:
        """The test of whether the shares stayed the same, from a mark on.

        Few stretches detect a single change best, many stretches a change back and forth. The
        smallest p-value of several numbers of stretches is returned, times their count.
        """
        blocks = self._blocks[-(-since.total // self._size) :] if since else self._blocks
        if self._open:
            blocks = [*blocks, self._open]
        counts = sum(blocks, Counter[str]())
        rarest = min(counts.values(), default=0)
        most = min(MOST_STRETCHES, int(rarest / LEAST_EXPECTED), len(blocks))
        numbers = [number for number in (*_FEW_STRETCHES, most) if 2 <= number <= most]
        found = [homogeneity(_stretches(blocks, number)) for number in sorted(set(numbers))]
        known = [one for one in found if one]
        if not known:
            return None
        best = min(known, key=lambda one: one.p)
        return replace(best, p=min(1.0, len(known) * best.p))

    def said(self, since: Place | None = None) -> Runs | None:
        """The test of the runs of equal neighbors, from a mark on."""
        if since is None:
            return mood(self.runs, list(self.counts.values()))
        return mood(self.runs - since.runs, list((self.counts - since.counts).values()))


def independence(order: Order, addresses: Addresses, since: Place | None = None) -> Independence:
    """All tests at the end of a run: by the order of samples, from a mark on, and by address."""
    return Independence(
        runs=order.said(since),
        homogeneity=order.homogeneity(since),
        by_address=addresses.counts,
        addresses=addresses.homogeneity(),
    )


def _stretches(blocks: list[Counter[str]], number: int) -> list[Counter[str]]:
    """The blocks in ``number`` parts of about the same length."""
    ends = [round(part * len(blocks) / number) for part in range(number + 1)]
    return [sum(blocks[begin:end], Counter[str]()) for begin, end in pairwise(ends)]


def mood(runs: int, counts: list[int]) -> Runs | None:
    """The test of a number of runs with these counts; None if only one number is possible."""
    n, squares, cubes = (sum(one**power for one in counts) for power in (1, 2, 3))
    if n < 2:
        return None
    expected = 1 + (n * n - squares) / n
    variance = (squares * (squares + n * (n + 1)) - 2 * n * cubes - n**3) / (n * n * (n - 1))
    if variance <= 1e-9:
        return None
    return Runs(runs, expected, (runs - expected) / sqrt(variance))


def homogeneity(parts: Iterable[Mapping[str, int]]) -> Homogeneity | None:
    """The test of whether parts have the same shares; None if there is nothing to compare."""
    tables = [part for part in parts if sum(part.values())]
    whole: Counter[str] = Counter()
    for part in tables:
        whole.update(part)
    names = [name for name, count in whole.items() if count]
    if len(tables) < 2 or len(names) < 2:
        return None
    freedom = (len(tables) - 1) * (len(names) - 1)
    total, statistic = whole.total(), 0.0
    for part in tables:
        size = sum(part.values())
        for name in names:
            expected = size * whole[name] / total
            statistic += (part.get(name, 0) - expected) ** 2 / expected
    return Homogeneity(len(tables), statistic, chi_square_tail(statistic, freedom))


def chi_square_tail(x: float, freedom: int) -> float:
    """The upper tail of chi-square at ``x``: the regularised incomplete gamma function Q."""
    a, half = freedom / 2, x / 2
    if half <= 0:
        return 1.0
    scale = exp(a * log(half) - half - lgamma(a))
    if half < a + 1:
        term = total = 1 / a
        step = a
        while term > total * 1e-16:
            step += 1
            term *= half / step
            total += term
        return max(0.0, 1 - scale * total)
    # The continued fraction, as Lentz proposed.
    b = half + 1 - a
    c, d = inf, 1 / b
    value, step, change = d, 0.0, 0.0
    while abs(change - 1) > 1e-15 and step < 10_000:
        step += 1
        term = -step * (step - a)
        b += 2
        d = 1 / (term * d + b)
        c = b + term / c
        change = c * d
        value *= change
    return scale * value
