"""The result in JSON and in JUnit's XML. Both escape data from servers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from echod.probe.independence import Homogeneity
from echod.probe.report import failures, text
from echod.probe.result import HEADLINES, Result, printable
from echod.probe.tally import Latencies, Tally
from echod.probe.verdict import WRONG, Row, Status
from echod.probe.words import verdict_lines, wrong


def as_json(result: Result) -> str:
    """The result as one JSON document. Shares are fractions, times are in seconds."""
    rules, servers, judgement = result.rules, result.servers, result.judgement
    tally = judgement.tally
    document: dict[str, Any] = {
        "target": result.target,
        "verdict": HEADLINES[result.status],
        "exit_status": int(result.status),
        "interrupted": result.interrupted,
        "stopped": result.refused or None,
        "stopped_at": judgement.stopped_at,
        "connections": result.connections,
        "judged": judgement.judged,
        "cap": result.cap,
        "seconds": round(result.seconds, 3),
        "alpha": rules.alpha,
        "detect": rules.detect if rules.expectation and rules.tolerance is None else None,
        "tolerance": rules.tolerance,
        "versions": [_row_document(row, tally) for row in judgement.rows],
        "failures": dict(tally.failures),
        "first_failures": {kind: result.first_failure(kind) for kind in tally.failures},
        "addresses": result.addresses,
        "address": result.taken or None,
        "sources": result.sources,
        "later": {printable(name): number for name, number in judgement.later.items()},
        "independence": _independence(result),
        "servers": servers
        and {
            "match": result.servers_match,
            "requests": sum(servers.requests.values()),
            "connections": servers.connections,
        },
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _independence(result: Result) -> dict[str, Any]:
    said = result.judgement.independence
    runs = said.runs
    return {
        "runs": runs and {"seen": runs.seen, "expected": runs.expected, "z": runs.z},
        "homogeneity": _homogeneity(said.homogeneity),
        "by_address": {
            "addresses": {
                address: {printable(name): number for name, number in counts.items()}
                for address, counts in result.by_address.items()
            },
            "homogeneity": _homogeneity(said.addresses),
        }
        if result.by_address
        else None,
    }


def _homogeneity(said: Homogeneity | None) -> dict[str, Any] | None:
    if said is None:
        return None
    return {"parts": said.parts, "chi_square": said.chi_square, "p": said.p}


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
        "log_e": row.log_e,
        "verdict": row.verdict or None,
        "connect_seconds": times(tally.connect.get(row.name)),
        "reply_seconds": times(tally.reply.get(row.name)),
    }


def as_junit(result: Result) -> bytes:
    """The result as JUnit XML: a test case per version, one for errors, one for the verdict."""
    cases: list[tuple[str, str]] = [
        (f"share of {printable(row.name)}", wrong(row) if row.verdict in WRONG else "")
        for row in result.judgement.rows
    ]
    failed = result.judgement.status is Status.ERRORS
    cases.append(("errors", failures(result) if failed else ""))
    lines = verdict_lines(result)
    cases.append(("verdict", "" if result.status is Status.HOLDS else lines[0]))
    return _junit(result, cases)


def _properties(result: Result) -> dict[str, str]:
    judgement = result.judgement
    said = judgement.independence
    numbers: dict[str, float | None] = {
        f"log_e of {printable(row.name)}": row.log_e for row in judgement.rows
    }
    numbers["stopped_at"] = judgement.stopped_at
    numbers["independence.runs.z"] = said.runs.z if said.runs else None
    numbers["independence.homogeneity.p"] = said.homogeneity.p if said.homogeneity else None
    return {name: f"{number:.6g}" for name, number in numbers.items() if number is not None}


def _junit(result: Result, cases: Sequence[tuple[str, str]]) -> bytes:
    name = f"echod probe {result.target}"
    wrong = sum(bool(message) for _, message in cases)
    counts = {"tests": str(len(cases)), "failures": str(wrong), "time": f"{result.seconds:.3f}"}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": name, **counts, "errors": "0"})
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in _properties(result).items():
        ElementTree.SubElement(properties, "property", name=key, value=value)
    for case, message in cases:
        element = ElementTree.SubElement(suite, "testcase", classname="echod.probe", name=case)
        if message:
            ElementTree.SubElement(element, "failure", message=message).text = message
    ElementTree.SubElement(suite, "system-out").text = text(result)
    document: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"
