"""The probe's runs: splits that hold or do not, by several services; its plan; and the check of
``echod health``.
"""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any

from support.encrypted import CA, certified
from support.peers import Behaviour, line_of, serving

from inject.commands import Command, Run
from inject.faults import Fault
from inject.verdict import Verdict

KINDS = {
    "ECONNREFUSED": {"refused"},
    "ECONNRESET": {"reset"},
    "ECONNABORTED": {"reset"},
    "EPIPE": {"reset"},
    "ETIMEDOUT": {"timeout"},
}
"""Of the failure of a connection that meets an error; ``unreachable`` by any other."""
OF_A_FILE = ("openat", "read", "close, file", "fcntl")
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: split}
spec: {rules: [{backendRefs: [{name: one, weight: 80}, {name: two, weight: 20}]}]}
"""


class Split:
    """A service of two versions, in turn: of five connections four go to one, the last to two."""

    def __init__(self) -> None:
        self.of_two = 1  # of five
        self.answered = Counter[str]()
        self._lock = Lock()

    def __call__(self, connection: socket.socket, number: int) -> None:
        name = "two" if number % 5 + self.of_two > 4 else "one"
        while (line := line_of(connection)) not in (b"", b"\n"):  # a farewell is empty
            with self._lock:
                self.answered[name] += 1
            connection.sendall(f"{name} ".encode() + line)

    def tell(self, connection: socket.socket, _number: int) -> None:
        """Its metrics, one request a connection."""
        connection.recv(4096)
        lines = [f'echod_requests_total{{version="{one}"}} {self.answered[one]}' for one in self]
        body = "".join(f"{line}\n" for line in lines)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall((head + body).encode())

    def __iter__(self) -> Any:
        return iter(("one", "two"))


class Probe(Command):
    """A judgement. It is the same with a connection that has failed, but where none may."""

    refusals = (3,)

    def __init__(self, name: str, status: int, verdict: str, *options: str) -> None:
        self.name = f"probe, {name}"
        self._status = status
        self._verdict = verdict
        self._options = options

    def words(self, directory: Path, held: ExitStack, run: Run) -> Sequence[str]:
        run.facts["split"] = split = Split()
        port = held.enter_context(serving(self.service(split)))
        words = ["probe", f"127.0.0.1:{port}", "--json", "--timeout", "20", *self._options]
        return [*words, *self.more(split, directory, held)]

    def service(self, split: Split) -> Behaviour:
        return split

    def more(self, _split: Split, _directory: Path, _held: ExitStack) -> Sequence[str]:
        """Arguments that name what was started for them."""
        return ()

    def kinds(self, fault: Fault) -> set[str]:
        """Of the failure that a fault is."""
        if fault.kind == "getaddrinfo":
            return {"name not found"}
        return KINDS.get(fault.error, {"unreachable"})

    def judge(self, run: Run, clean: Run, fault: Fault | None) -> Verdict:
        if run.refused((2,)) and fault and fault.kind in OF_A_FILE:
            return Verdict("refused", [])  # a file that an option names cannot be read
        return super().judge(run, clean, fault)

    def lived(self, run: Run, _clean: Run, fault: Fault | None) -> Verdict:
        if fault and fault.kind == "write, others" and fault.error == "EPIPE" and not run.output:
            wrong = [] if run.status == self._status else ["another status without output"]
            return Verdict("unharmed", wrong)
        try:
            found = json.loads(run.output)
        except ValueError:
            return Verdict("unharmed", [f"no JSON: {run.output[-300:]!r}"])
        failures, problems = found["failures"], []
        allowed = {(self._status, self._verdict)}
        if failures and "--max-errors" not in self._options:
            allowed.add((3, "too many errors"))
        if (found["exit_status"], found["verdict"]) not in allowed or (
            run.status != found["exit_status"]
        ):
            problems.append(f"{found['verdict']}, {found['exit_status']}")
        if sum(failures.values()) > bool(fault) or (
            fault and not set(failures) <= self.kinds(fault)
        ):
            problems.append(f"failures: {found['first_failures']}")
        problems += [
            f"more than was answered: {row}"
            for row in found["versions"]
            if row["seen"] > run.facts["split"].answered[row["name"]]
        ]
        return Verdict("connection" if failures else "unharmed", problems)


class Matching(Probe):
    """With a process of its own that searches, whose failure costs a sample."""

    def kinds(self, fault: Fault) -> set[str]:
        return {"this host"} if "Unix" in fault.kind else super().kinds(fault) | {"no match"}


class Encrypted(Probe):
    """By TLS, and with a report in a file."""

    def service(self, split: Split) -> Behaviour:
        return certified("one", then=split)

    def kinds(self, fault: Fault) -> set[str]:
        """The ssl module of Python 3.11.7 takes any error of a read or a write for an end."""
        of_ssl = {"tls", "closed"} if fault.kind in ("read, TCP", "write, TCP") else set()
        return super().kinds(fault) | of_ssl

    def more(self, _split: Split, directory: Path, _held: ExitStack) -> Sequence[str]:
        return ("--tls", "--ca", str(CA), "--junit", str(directory / "report.xml"))


class Counted(Probe):
    """By a manifest, and with the service's own counts."""

    def more(self, split: Split, directory: Path, held: ExitStack) -> Sequence[str]:
        route = directory / "route.yaml"
        route.write_text(ROUTE)
        port = held.enter_context(serving(split.tell))
        return ("--route", str(route), "--metrics", f"http://127.0.0.1:{port}/metrics")


class Plan(Command):
    """How many connections a judgement takes."""

    name = "probe, plan"
    refusals = (3,)

    def words(self, _directory: Path, _held: ExitStack, _run: Run) -> Sequence[str]:
        return ["probe", "--plan", "--expect", "one=80,two=20", "--json"]

    def lived(self, run: Run, clean: Run, fault: Fault | None) -> Verdict:
        lost = fault and fault.kind == "write, others" and fault.error == "EPIPE"
        right = run.status == 0 and (run.output == clean.output or (lost and not run.output))
        return Verdict("unharmed", [] if right else [f"not the plan: {run.output!r}"])


class Health(Command):
    """The check of a daemon that is ready, or drains."""

    def __init__(self, *, ready: bool) -> None:
        self.name = f"health, {'ready' if ready else 'draining'}"
        self._ready = ready

    def words(self, _directory: Path, held: ExitStack, _run: Run) -> Sequence[str]:
        port = held.enter_context(serving(self._answer))
        return ["health", "--metrics-address", "127.0.0.1", "--metrics-port", str(port)]

    def _answer(self, connection: socket.socket, _number: int) -> None:
        connection.recv(4096)
        status, body = ("200 OK", "ready") if self._ready else ("503 x", "draining")
        connection.sendall(f"HTTP/1.1 {status}\r\nServer: echod\r\n".encode())
        connection.sendall(f"Content-Length: {len(body)}\r\n\r\n{body}".encode())

    def lived(self, run: Run, clean: Run, fault: Fault | None) -> Verdict:
        lost = fault is not None and fault.kind == "write, others" and not run.output
        same = re.sub(r":\d+/", "", run.output) == re.sub(r":\d+/", "", clean.output)
        if run.status == clean.status and (same or lost):
            return Verdict("unharmed", [])
        said = run.output.startswith("not ready: ") and run.output.count("\n") == 1
        wrong = [] if run.status == 1 and said and fault else [f"not an answer: {run.output!r}"]
        return Verdict("refused", wrong)


EVEN = ("--expect", "one=80,two=20", "--detect", "30", "--max-errors", "1")
"""What holds soon, with one failure as well."""

PROBES: tuple[Command, ...] = (
    Probe("a split that holds", 0, "holds", *EVEN, "--concurrency", "4"),
    Probe(
        "a split that differs", 1, "does not hold", "--expect", "one=50,two=50", "--detect", "30"
    ),
    Matching("--match", 0, "holds", *EVEN, "--send", r"x\n", "--match", r"^(\w+) ", "--bye", r"\n"),
    Encrypted("--tls --ca --junit", 0, "holds", *EVEN, "--concurrency", "2"),
    Counted("--route --metrics", 0, "holds", *EVEN[2:], "--concurrency", "2"),
    Plan(),
    Health(ready=True),
    Health(ready=False),
)
