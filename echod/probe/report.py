"""The result for people. Nothing that a server sent is shown as it came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from echod.probe.expectation import FAILURES, Expectation
from echod.probe.planning import POWER
from echod.probe.servers import Counts
from echod.probe.tally import Latencies, Tally
from echod.probe.verdict import WRONG, Judgement, Row, Rules, Status

MOST_SHOWN = 60

HEADLINES = {
    Status.HOLDS: "holds",
    Status.DIFFERS: "does not hold",
    Status.ERRORS: "too many errors",
    Status.INCONCLUSIVE: "inconclusive",
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """All that there is to say about a run. Times are in seconds."""

    target: str
    rules: Rules
    tally: Tally
    judgement: Judgement
    seconds: float
    needed: int
    """Connections that it takes to be conclusive."""
    interrupted: bool = False
    abandoned: int = 0
    """Connections on their way when it was interrupted: nobody knows what came of them."""
    refused: str = ""
    """What this host failed with, if it did."""
    servers: Counts | None = None
    looks: int | None = None
    """How often fresh connections were judged, of which these are the last."""

    @property
    def connections(self) -> int:
        """All that were made."""
        return self.tally.answered + self.tally.failed

    @property
    def servers_match(self) -> bool:
        """Whether the servers have counted what was seen here, as far as they were asked."""
        if self.servers is None:
            return True
        return self.servers.match(self.tally.answered, self.tally.failed + self.abandoned)

    @property
    def status(self) -> Status:
        """The verdict on everything. A run that somebody ended shows nothing good: its number
        was not fixed before it began.
        """
        status = self.judgement.status
        if self.refused:
            return Status.ERRORS
        if status in (Status.HOLDS, Status.INCONCLUSIVE) and not self.servers_match:
            return Status.DIFFERS
        if status is Status.HOLDS and self.interrupted:
            return Status.INCONCLUSIVE
        return status


def printable(name: str) -> str:
    """A name as it may be shown anywhere, XML included: escaped, and not too long."""
    pieces = []
    for character in name[: MOST_SHOWN + 1]:
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
            pieces.append(f"\\x{code - 0xDC00:02x}")
        elif character.isprintable() and character != "\\":
            pieces.append(character)
        else:
            pieces.append(character.encode("unicode_escape").decode())
    if len(name) > MOST_SHOWN:
        pieces[MOST_SHOWN:] = ["..."]
    return "".join(pieces) or "(empty)"


def percent(share: float) -> str:
    """A share with one decimal, and with more where that says nothing."""
    return f"{100 * share:.{1 if share == 0 or share >= 0.001 else 3}f} %"


def expected_text(expectation: Expectation) -> str:
    """The expectation in per cent: ``one=80,two=20``."""
    shares = dict(expectation.shares)
    if expectation.failures is not None:
        shares[FAILURES] = expectation.failures
    return ",".join(f"{printable(name)}={100 * share:.6g}" for name, share in shares.items())


def text(result: Result) -> str:
    """The table and the verdict, each line complete."""
    made, seconds = result.connections, result.seconds
    rate = f"{made / max(seconds, 0.001):,.0f}/s"
    lines = [f"{made:,} connections to {result.target} in {seconds:.1f} s ({rate})"]
    lines += table(result)
    if result.tally.failed:
        lines.append("failed: " + failures(result.tally))
    if result.servers:
        lines.append(_servers(result, result.servers))
    lines += verdict_lines(result)
    return "".join(f"{line}\n" for line in lines)


def table(result: Result) -> list[str]:
    """One line a version, below a line of headings."""
    rules = result.rules
    level = f"{100 * (1 - rules.alpha):.6g} %"
    rows = [["version", "expected", "seen", "share", f"{level} interval", "verdict"]]
    rows[0] += ["connect p50/p99", "reply p50/p99"]
    for row in result.judgement.rows:
        cells = [
            printable(row.name),
            "" if row.expected is None else percent(row.expected),
            f"{row.seen:,}",
            percent(row.share),
            f"{100 * row.low:.1f} - {100 * row.high:.1f} %",
            row.verdict,
        ]
        times = (result.tally.connect.get(row.name), result.tally.reply.get(row.name))
        rows.append(cells + [_milliseconds(one) for one in times])
    used = [column for column in zip(*rows, strict=True) if any(column[1:])]
    wide = [max(map(len, column)) for column in used]
    left = {"version", "verdict"}
    lines = []
    for line in zip(*used, strict=True):
        aligned = [
            cell.ljust(width) if column[0] in left else cell.rjust(width)
            for cell, width, column in zip(line, wide, used, strict=True)
        ]
        lines.append("  ".join(aligned).rstrip())
    return lines


def _milliseconds(latencies: Latencies | None) -> str:
    times = [latencies.quantile(part) for part in (0.5, 0.99)] if latencies else []
    shown = " / ".join(f"{1000 * time:.2f}" for time in times if time is not None)
    return f"{shown} ms" if shown else ""


def failures(tally: Tally) -> str:
    """Each kind, its number, and what the first one was."""
    return "; ".join(
        f"{kind} {number:,} ({printable(tally.examples[kind])})"
        for kind, number in tally.failures.most_common()
    )


def _servers(result: Result, servers: Counts) -> str:
    versions = ", ".join(
        f"{printable(version)} {number:,}"
        for version, number in servers.requests.items()
        if version
    )
    total = f"{sum(servers.requests.values()):,}" + (f" ({versions})" if versions else "")
    answer = "match" if result.servers_match else "DO NOT MATCH"
    return (
        f"servers counted {total} requests on {servers.connections:,} connections,"
        f" {result.tally.answered:,} were answered here: {answer}"
    )


def verdict_lines(result: Result) -> list[str]:
    """What it comes to, and what could have been found."""
    marks = " (interrupted)" if result.interrupted else ""
    if result.refused:
        return [f"stopped: {result.refused}"]
    reasons = list(_reasons(result))
    if not result.rules.expectation and not reasons:
        return [f"no expectation to judge by{marks}"]
    lines = [f"{HEADLINES[result.status]}{marks}: {'; '.join(reasons)}"]
    if result.rules.expectation:
        lines.append(_power(result))
    return lines


def _reasons(result: Result) -> Iterable[str]:
    judgement, rules = result.judgement, result.rules
    if judgement.status is Status.ERRORS:
        yield (
            f"{judgement.failed:,} of {result.connections:,} connections failed,"
            f" {rules.max_errors:,} may (--max-errors)"
        )
    if not result.servers_match:
        yield "the servers have counted something else"
    for row in judgement.rows:
        if row.verdict in WRONG:
            yield wrong(row)
    if rules.expectation and result.status in (Status.HOLDS, Status.INCONCLUSIVE):
        yield _nothing_wrong(result, expected_text(rules.expectation))


def wrong(row: Row) -> str:
    """What contradicts the expectation in a row."""
    if row.verdict in ("forbidden", "unexpected"):
        return f"{printable(row.name)} is {row.verdict}, and was seen {row.seen:,} times"
    seen = f"{percent(row.share)} ({100 * row.low:.1f} - {100 * row.high:.1f} %)"
    return f"{printable(row.name)} has {seen}, {percent(row.expected or 0)} was expected"


def _nothing_wrong(result: Result, expected: str) -> str:
    judgement, tolerance = result.judgement, result.rules.tolerance
    if tolerance is None:
        said = f"{judgement.judged:,} connections do not contradict {expected}"
    else:
        within = f"within {100 * tolerance:.3g} points of {expected}"
        if result.status is Status.HOLDS:
            return f"every share is {within}"
        said = f"not every share is shown to be {within}"
    if result.status is Status.INCONCLUSIVE and not result.interrupted:
        said += f", but it takes {result.needed:,} to say more"
    return said


def _power(result: Result) -> str:
    found = result.judgement.detectable
    chance = f"with {100 * POWER:.0f} % probability (alpha {result.rules.alpha:g})"
    if found is None:
        return "could have found: no shift of any share"
    return f"could have found: a share that is off by {100 * found:.1f} points, {chance}"
