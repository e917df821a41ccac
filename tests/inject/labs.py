"""The lab's runs, behind a real Envoy: the exercise that is walked through once, and a lab that
serves its page, follows a manifest and answers other terminals. Calls fail in its process alone.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

from support import ROOT, connect, read_exactly

from inject.commands import Command, Run, of_environment, tried
from inject.faults import Fault
from inject.process import Process, Refused, listening, wait_for
from inject.verdict import Verdict

ALL_V1 = ROOT / "k8s/istio/all-v1/route.yaml"
ALL_V2 = ROOT / "k8s/gateway-api/all-v2/route.yaml"
PATIENCE = 20.0
WITHOUT_PAGE = "the lab runs without its page\n"
OF_WAITRESS = re.compile(
    r"Exception ignored in: <function file_wrapper.__del__ .*\n(?s:.*?)AttributeError: .*\n"
)
"""What it says on its own if it cannot duplicate a descriptor."""


class Lab(Command):
    """What both have in common: ports of their own, and a socket."""

    most = 6
    sampled = 4

    def words(self, directory: Path, _held: ExitStack, run: Run) -> Sequence[str]:
        run.facts["socket"] = path = str(directory / "tmp" / "socket")
        run.facts["route"] = directory / "route.yaml"
        return ["lab", "--port", "0", "--socket", path]

    def judge(self, run: Run, clean: Run, fault: Fault | None) -> Verdict:
        run.errors = OF_WAITRESS.sub("", run.errors)
        return super().judge(run, clean, fault)


class Walk(Lab):
    """Two steps; a connection that fails is too many errors for its step, and for the whole."""

    name = "lab, --once"

    def words(self, directory: Path, held: ExitStack, run: Run) -> Sequence[str]:
        words = super().words(directory, held, run)
        return [*words, "--once", "--steps", "100/0,0/100", "--every", "0.1"]

    def lived(self, run: Run, _clean: Run, fault: Fault | None) -> Verdict:
        good = [run.output.count(word) for word in ("\nholds: ", " answered here: match\n")]
        if run.status == 0 and (good == [2, 2] or _lost(fault)):
            return Verdict("unharmed", [])
        failed = re.findall(r"^too many errors: 1 of ", run.output, re.MULTILINE)
        refused = re.findall(r"^(?:stopped|inconclusive): ", run.output, re.MULTILINE)
        if fault and run.status == 1 and len(failed) + len(refused) == 1 and good[0] == 1:
            return Verdict("connection", [])
        return Verdict("unharmed", [f"another verdict: {run.output[-600:]}"])


class Serve(Lab):
    """A tab that stays, a request for the page, two shifts, and a version that stops and starts."""

    name = "lab, --route"

    def words(self, directory: Path, held: ExitStack, run: Run) -> Sequence[str]:
        words = super().words(directory, held, run)
        shutil.copy(ALL_V1, run.facts["route"])
        return [*words, "--route", str(run.facts["route"])]

    def act(self, process: Process, run: Run) -> None:
        _until(process, lambda: _serves(run.facts["socket"]), "a first answer")
        port = _envoys_port(run.facts["route"].parent)
        with ExitStack() as held:
            page = re.search(r"Page on http://127\.0\.0\.1:(\d+)\n", process.output())
            if page:
                tried(run, "the page", lambda: _page(int(page[1])))
                tried(run, "a tab", lambda: _tab(int(page[1]), held))
            self._shift(process, run, port)
            self._ask(process, run, "stop v1", "v1 is stopping")
            self._ask(process, run, "start v1", "v1 is starting", until=True)
            self._ask(process, run, "shift 50/50", "now v1 50, v2 50")
            process.terminate()
            process.wait()

    def _shift(self, process: Process, run: Run, port: int) -> None:
        """By the manifest, until connections follow it."""
        new = run.facts["route"].with_suffix(".new")
        shutil.copy(ALL_V2, new)
        new.rename(run.facts["route"])
        _until(process, lambda: _answer(port) == b"two", "the manifest's weights")

    def _ask(
        self, process: Process, run: Run, line: str, answer: str, *, until: bool = False
    ) -> None:
        """As another terminal. ``until``: what is refused is asked for again."""

        def asked() -> bool:
            said = tried(run, line, lambda: _command(run.facts["socket"], line))
            if said is None and len(run.failed) < 3:
                return False
            if until and said and said.startswith("error: "):
                return False
            if said != answer:
                run.failed.append(f"{line}: {said}")
            return True

        _until(process, asked, line)

    def lived(self, run: Run, _clean: Run, fault: Fault | None) -> Verdict:
        problems = [] if run.status == 0 and run.reached else ["not stopped"]
        if len(run.failed) > bool(fault):
            problems.append(f"failed: {run.failed}")
        return Verdict("scrape" if run.failed else "unharmed", problems)

    def judge(self, run: Run, clean: Run, fault: Fault | None) -> Verdict:
        rest = OF_WAITRESS.sub("", run.errors)
        warned = rest.startswith("echod: warning: ") and rest.endswith(WITHOUT_PAGE)
        if not (fault and warned and rest.count("\n") == 1):
            return super().judge(run, clean, fault)
        run.errors = clean.errors
        return Verdict("event", super().judge(run, clean, fault).problems)


def _lost(fault: Fault | None) -> bool:
    """Whether what it says may be lost."""
    return fault is not None and fault.kind == "write, others"


def _until(process: Process, look: Callable[[], object], what: str) -> None:
    def looked() -> object:
        if process.process.poll() is not None:
            raise Refused
        return look()

    wait_for(looked, what)


def _answer(port: int) -> bytes:
    try:
        with connect(port) as client:
            client.settimeout(PATIENCE)
            client.sendall(b"x\n")
            return read_exactly(client, len(b"one x\n"))[:3]
    except (OSError, AssertionError):
        return b""


def _envoys_port(directory: Path) -> int:
    """Whatever the lab says may be lost."""
    (pid,) = [one for one, words in of_environment(directory).items() if "/envoy -c " in words]
    bootstrap = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[2]
    admin = Path(bootstrap).with_name("admin").read_text()
    (port,) = listening(pid) - {int(admin.rpartition(":")[2])}
    return port


def _serves(path: str) -> bool:
    """The lab answers once it has started everything."""
    try:
        return _command(path, "shift 100/0") == "now v1 100, v2 0"
    except OSError:
        return False


def _command(path: str, line: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(path)
        client.sendall(line.encode() + b"\n")
        answer = client.makefile("rb").readline()
        if not answer:
            raise ConnectionResetError("no answer")
        return answer.decode().strip()


def _page(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        if response.status != 200 or b"</html>" not in response.read():
            raise ConnectionError(f"{response.status}")
    finally:
        connection.close()


def _tab(port: int, held: ExitStack) -> None:
    """Reads its first view, and stays."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    held.callback(connection.close)
    connection.request("GET", "/events")
    response = connection.getresponse()
    while line := response.readline():
        if line.startswith(b"data: "):
            json.loads(line.partition(b" ")[2])
            return
    raise ConnectionError("no view")


LABS = (Walk(), Serve())
