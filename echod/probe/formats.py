"""The result for machines: JSON, and JUnit's XML. What servers sent is escaped in both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from echod.probe.report import HEADLINES, Result, failures, printable, text, verdict_lines, wrong
from echod.probe.tally import Latencies, Tally
from echod.probe.verdict import WRONG, Row, Status


def as_json(result: Result) -> str:
    """One document. Shares are fractions, times are in seconds."""
    rules, servers = result.rules, result.servers
    document: dict[str, Any] = {
        "target": result.target,
        "verdict": HEADLINES[result.status],
        "exit_status": int(result.status),
        "interrupted": result.interrupted,
        "stopped": result.refused or None,
        "connections": result.connections,
        "judged": result.judgement.judged,
        "needed": result.needed,
        "looks": result.looks,
        "seconds": round(result.seconds, 3),
        "alpha": rules.alpha,
        "detect": rules.detect if rules.expectation and rules.tolerance is None else None,
        "tolerance": rules.tolerance,
        "detectable": result.judgement.detectable,
        "versions": [_row_document(row, result.tally) for row in result.judgement.rows],
        "failures": dict(result.tally.failures),
        "servers": servers
        and {
            "match": result.servers_match,
            "requests": sum(servers.requests.values()),
            "connections": servers.connections,
        },
    }
    return json.dumps(document, indent=2) + "\n"


def _row_document(row: Row, tally: Tally) -> dict[str, Any]:
    def times(latencies: Latencies | None) -> dict[str, float | None] | None:
        if latencies is None:
            return None
        return {"p50": latencies.quantile(0.5), "p99": latencies.quantile(0.99)}

    return {
        "name": printable(row.name),
        "expected": row.expected,
        "seen": row.seen,
        "share": row.share,
        "interval": [row.low, row.high],
        "p": row.p,
        "verdict": row.verdict or None,
        "connect_seconds": times(tally.connect.get(row.name)),
        "reply_seconds": times(tally.reply.get(row.name)),
    }


def as_junit(result: Result) -> bytes:
    """A test case a version, one for errors, and one for the verdict."""
    cases: list[tuple[str, str]] = [
        (f"share of {printable(row.name)}", wrong(row) if row.verdict in WRONG else "")
        for row in result.judgement.rows
    ]
    failed = result.judgement.status is Status.ERRORS
    cases.append(("errors", failures(result.tally) if failed else ""))
    lines = verdict_lines(result)
    cases.append(("verdict", "" if result.status is Status.HOLDS else lines[0]))
    return _junit(f"echod probe {result.target}", cases, text(result), result.seconds)


def _junit(name: str, cases: Sequence[tuple[str, str]], output: str, seconds: float) -> bytes:
    wrong = sum(bool(message) for _, message in cases)
    counts = {"tests": str(len(cases)), "failures": str(wrong), "time": f"{seconds:.3f}"}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": name, **counts, "errors": "0"})
    for case, message in cases:
        element = ElementTree.SubElement(suite, "testcase", classname="echod.probe", name=case)
        if message:
            ElementTree.SubElement(element, "failure", message=message).text = message
    ElementTree.SubElement(suite, "system-out").text = output
    document: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"
