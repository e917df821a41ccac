"""The result as text. All data from servers is escaped."""

from __future__ import annotations

from echod.probe.result import Result, decimals, interval, percent, printable
from echod.probe.servers import Counts
from echod.probe.tally import Latencies
from echod.probe.words import connections, remarks, verdict_lines


def text(result: Result) -> str:
    """The table and the verdict, as complete lines."""
    made, seconds, judged = result.connections, result.seconds, result.judgement.judged
    rate = f"{made / max(seconds, 0.001):,.0f}/s"
    if not result.waited:
        lines = [f"{connections(judged)} to {result.target} in {seconds:.1f} s ({rate})"]
    else:
        lines = [
            f"{connections(made)} to {result.target} in {seconds:.1f} s ({rate}),"
            f" the last {judged:,} judged"
        ]
    lines += table(result)
    if result.judgement.tally.failed:
        lines.append("failed: " + failures(result))
    if result.servers:
        lines.append(_servers(result, result.servers))
    lines += remarks(result)
    lines += verdict_lines(result)
    return "".join(f"{line}\n" for line in lines)


def table(result: Result) -> list[str]:
    """A line of headings, and one line per version."""
    rules, tally = result.rules, result.judgement.tally
    level = f"{100 * (1 - rules.alpha):.6g} %"
    rows = [["version", "expected", "seen", "share", f"{level} interval", "verdict"]]
    rows[0] += ["connect p50/p99", "reply p50/p99"]
    for row in result.judgement.rows:
        places = decimals(row)
        cells = [
            printable(row.name),
            "" if row.expected is None else percent(row.expected, places),
            f"{row.seen:,}",
            percent(row.share, places),
            interval(row.low, row.high, places),
            row.verdict,
        ]
        times = (tally.connect.get(row.name), tally.reply.get(row.name))
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
        f" {result.answered:,} were answered here: {answer}"
    )


def failures(result: Result) -> str:
    """Each kind of failure, its count, and the details of the first one."""
    counts = result.judgement.tally.failures.most_common()
    return "; ".join(f"{kind} {number:,} ({result.first_failure(kind)})" for kind, number in counts)
