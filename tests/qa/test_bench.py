"""The benchmark itself: what it refuses, what it adds up, what it finds."""

from __future__ import annotations

import json
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support import PATIENCE, ROOT

from bench import figures, proc
from bench.arguments import parse
from bench.command import main
from bench.conversation import fault
from bench.figures import Samples, Spread, three_digits
from bench.goals import judge
from bench.load import Load
from bench.peers import BUILT_IN, PREFIX, compiled, free_threaded
from bench.problems import Failed
from bench.report import markdown
from bench.results import Results
from bench.running import Server
from bench.scenarios import SCENARIOS, cell
from bench.sides import SIDES

needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="optional: there is no C compiler")

WRONG_PEER = """\
import socketserver, sys
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(sys.argv[2].encode() + b" " + line)
socketserver.ThreadingTCPServer.daemon_threads = True
socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


# Arguments.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "--rounds '0': must be a whole number from 1 to 100"),
        (["--rounds", "2.5"], "--rounds '2.5': must be a whole number from 1 to 100"),
        (["--seconds", "nan"], "--seconds 'nan': must be a number from 0.1 to 60"),
        (["--idle", "64"], "--idle '64': must be a whole number from 100 to 100,000"),
        (["--seconds", "1e9"], "--seconds '1e9': must be a number from 0.1 to 60"),
        (["--only", "start,"], "--only '': must be of start, pingpong-1, "),
        (["--peers", "echod,go"], "--peers 'go': must be of echod, threads, asyncio, "),
        (["--peer", "go"], "--peer 'go': must be NAME='COMMAND with {port} and {prefix}'"),
        (["--peer", "go=x {port}"], "{prefix} is missing"),
        (["--peer", "go='x {port} {prefix}"], "No closing quotation"),
        (["--peer", "echod=x {port} {prefix}"], "must have a name of its own; echod is taken"),
        (["--peer", "a\n=x {port} {prefix}"], "its name of 1 to 32 letters"),
        (["--output", "/dev/null/x"], "--output '/dev/null/x': must be a directory"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_a_wrong_call_is_answered_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The argument, its value and what is allowed, and exit status 2."""
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("bench: ")
    assert output.err.count("\n") == 1
    assert message in output.err


def test_benchmark_options_select_scenarios_and_peers(tmp_path: Path) -> None:
    """Names in the order of the tables, and more servers by their command."""
    peer = "go=/bin/echo {port} '{prefix} x'"
    words = ["--only", "connect,start", "--only", "costs", "--peers", "limit,echod"]
    settings = parse([*words, "--peer", peer, "--quick", "--output", str(tmp_path)])
    assert settings.only == ("start", "connect", "costs")
    assert settings.peers == ("echod", "limit")
    assert settings.more[0].command(1, 2) == ["/bin/echo", "1", f"{PREFIX} x"]
    assert (settings.rounds, settings.seconds, settings.idle) == (2, 0.2, 1000)
    everything = parse(["--output", str(tmp_path)])
    assert everything.only == (*(one.key for one in SCENARIOS), *SIDES)
    assert (everything.rounds, everything.seconds, everything.idle) == (9, 1.0, 10_000)


# Figures.


def test_medians_ranges_and_ratios_are_of_the_rounds_that_went_well() -> None:
    """And a ratio is one of figures from the same round."""
    samples: Samples = {
        "a": [{"rate": 10.0}, {"rate": 40.0}, None, {"rate": 30.0}],
        "b": [{"rate": 5.0}, {"rate": 10.0}, {"rate": 1.0}, None],
    }
    assert figures.of(samples, "a", "rate") == Spread(30.0, 10.0, 40.0)
    assert figures.ratio(samples, "rate", "a", "b") == Spread(3.0, 2.0, 4.0)
    assert figures.of(samples, "a", "cpu") is None
    assert figures.ratio(samples, "rate", "a", "nobody") is None


def test_figures_have_three_digits() -> None:
    """More would be noise."""
    shown = {131_234.0: "131,000", 1234.0: "1,230", 100.4: "100", 12.71: "12.7", 2e6: "2.00M"}
    assert {value: three_digits(value) for value in shown} == shown
    assert three_digits(0) == "0"
    assert Spread(1234, 1000, 2000).show(three_digits) == "1,230 (1,000-2,000)"
    assert Spread(1, -2, 3).show(three_digits) == "1.00 (-2.00 to 3.00)"


def test_cpu_time_of_threads_that_have_ended_is_counted() -> None:
    """By the clock of the process, children included."""
    inner = """if True:
        import threading, time
        def work():
            while time.thread_time() < 0.2:
                pass
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        print(flush=True)
        input()
    """
    outer = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    with subprocess.Popen(
        [sys.executable, "-c", outer, inner], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert len(proc.family(process.pid)) == 2
        assert proc.cpu_seconds(process.pid) > 0.2
        assert proc.resident_kib(process.pid) > 5000
        assert proc.switches(process.pid) > 0
        process.communicate(b"\n")
    with pytest.raises(Failed, match="has ended"):
        proc.cpu_seconds(process.pid)


# The report.


def sample(**more: float) -> dict[str, float]:
    least = {"rate": 1000.0, "cpu": 10.0, "client": 0.2, "p50": 1.0, "p99": 2.0, "p999": 3.0}
    return least | more


def canned() -> Results:
    machine = {"date": "2026-01-01", "cpu": "c", "cores": "2", "kernel": "6", "python": "3.11"}
    results = Results(2, 1.0, 10_000, machine, {"echod": "e", "limit": "l"}, ["echod", "limit"])
    results.cells["pingpong-64"] = {
        "echod": [sample(), sample(cpu=14.0)],
        "limit": [sample(client=0.7), sample()],
        "go": [sample(rate=500.0, cpu=5.0, p99=10.0), sample(rate=900.0, cpu=5.0, p99=10.0)],
    }
    results.cells["start"] = {"echod": [{"ready": 0.4, "rest": 20480.0}], "limit": [None]}
    results.sides["costs"] = {"connect": {"all on": [sample()], "all off": [sample(cpu=8.0)]}}
    results.side_peers["costs"] = ["all on", "all off"]
    return results


def row_of(text: str, begins: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {begins}"))
    return [field.strip() for field in line.strip("|").split("|")]


def test_the_report_judges_each_goal() -> None:
    """Reached by the median, and whether every round says so."""
    results = canned()
    text = markdown(results, judge(results))
    limit = row_of(text, "CPU per line against the C limit")
    assert limit[1:] == ["≤ 1.38 x", "1.20 (1.00-1.40) x", "", "yes, not in every round"]
    assert row_of(text, "memory at rest")[2:] == ["20.0 MiB", "", "yes"]
    assert row_of(text, "start to the first")[2:] == ["0.400 s", "", "**no**"]
    assert row_of(text, "start to 200")[2:] == ["-", "", "not measured"]
    cost = row_of(text, "cost of metrics, limits and logs: CPU per connection")
    assert cost[1:] == ["≤ 10 %", "25.0 %", "", "**no**"]
    assert "against go" not in text
    assert "--peer go=" in text
    assert "- ping-pong, 64 connections: C limit 45 %" not in text
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_goals_against_go_are_there_with_go() -> None:
    """With rates and CPU side by side where they disagree."""
    results = canned()
    results.peers.append("go")
    text = markdown(results, judge(results))
    row = row_of(text, "CPU against go: ping-pong, 64")
    assert row[1] == "≥ 1.3 x"
    assert row[2] == "0.429 (0.357-0.500) x"
    assert row[3] == "1.56 (1.11-2.00) x"
    assert row[4] == "**no**; rate and CPU disagree"
    assert row_of(text, "p99 at 64")[2:] == ["0.200 x", "", "yes"]
    assert not any(row.figure.endswith(cell("connect").title) for row in judge(results))


def test_a_load_generator_that_took_half_a_core_is_named() -> None:
    """The server may be faster than is shown."""
    results = canned()
    results.cells["pingpong-64"]["limit"] = [sample(client=0.7)]
    assert "- ping-pong, 64 connections: C limit 70 %" in markdown(results, judge(results))


def test_samples_can_be_read_by_machines() -> None:
    """JSON has each of them, by scenario and peer."""
    found = json.loads(canned().json([]))
    assert found["cells"]["pingpong-64"]["echod"][1]["cpu"] == 14.0
    assert found["cells"]["start"]["limit"] == [None]


# The conversation.


@contextmanager
def serving(answer: Callable[[socketserver.StreamRequestHandler], None]) -> Iterator[int]:
    """A server in this process; ``answer`` is one connection."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                answer(self)
            except OSError:
                return  # the check has seen enough

    class Quiet(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

    with Quiet(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def answers_tails(one: socketserver.StreamRequestHandler) -> None:
    for line in one.rfile:
        one.wfile.write(b"one " + line)


def greets(one: socketserver.StreamRequestHandler) -> None:
    one.wfile.write(b"hello\n")
    answers_tails(one)


def takes_pieces_for_lines(one: socketserver.StreamRequestHandler) -> None:
    while piece := one.request.recv(65536):
        one.wfile.write(b"one " + piece)


def strips(one: socketserver.StreamRequestHandler) -> None:
    for line in one.rfile:
        one.wfile.write(b"one " + line.strip() + b"\n")


def ends_with_the_client(one: socketserver.StreamRequestHandler) -> None:
    for count, line in enumerate(one.rfile):
        if count == 5000:
            return
        if line.endswith(b"\n"):
            one.wfile.write(b"one " + line)


@pytest.mark.parametrize(
    ("answer", "case"),
    [
        (answers_tails, "half a line: "),
        (greets, "two clients: "),
        (takes_pieces_for_lines, ""),  # in whichever case they do not come as one
        (strips, "lines cut anywhere: "),
        (ends_with_the_client, "half-close with replies due: "),
    ],
)
def test_the_benchmark_finds_wrong_replies(
    answer: Callable[[socketserver.StreamRequestHandler], None], case: str
) -> None:
    """Its error is the first one."""
    with serving(answer) as port:
        found = fault(port, "one")
    assert found
    assert found.startswith(case)


@pytest.mark.parametrize("name", ["echod", "threads", "asyncio"])
def test_the_peers_answer_rightly(name: str, tmp_path: Path) -> None:
    """Each starts, converses as the reference does, and ends."""
    with closing(Server(BUILT_IN[name], tmp_path)) as server:
        assert fault(server.port, PREFIX) == ""
    assert server.process.returncode is not None


def test_a_peer_that_ends_says_why(tmp_path: Path) -> None:
    """With the last line of its error output."""
    peer = parse(["--peer", "x=/bin/sh -c 'echo no {port} {prefix} >&2; exit 3'"]).more[0]
    with pytest.raises(Failed, match=r"has ended with status 3: no \d+ one"):
        Server(peer, tmp_path)


def test_a_build_without_a_gil_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the path and under pyenv; that there is none is said."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert free_threaded("x").missing.endswith("is on the path or under pyenv")
    interpreter = tmp_path / "python3.14t"
    interpreter.write_text("#!/bin/sh\nexit 1\n")
    interpreter.chmod(0o755)
    assert free_threaded("x").missing.endswith("runs echod")
    pretends = "import sys; sys._is_gil_enabled = lambda: False; exec(sys.argv[2])"
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretends}" "$@"\n')
    found = free_threaded("x", "--handler-threads", "2")
    assert not found.missing
    assert found.words[0] == str(interpreter)
    assert found.words[-1] == "2"


# The load generators.


@needs_cc
def test_the_c_programs_compile_without_a_warning(tmp_path: Path) -> None:
    """With the usual ones switched on."""
    for source in sorted((ROOT / "bench").glob("*.c")):
        words = ["cc", "-Wall", "-Wextra", "-Werror", "-O2", "-o", str(tmp_path / "x"), str(source)]
        subprocess.run(words, check=True)


@needs_cc
@pytest.mark.parametrize("name", ["lines", "connect"])
def test_the_load_generators_compare_every_reply(name: str, tmp_path: Path) -> None:
    """Byte for byte: one that differs in its last line is an error."""

    def differs(one: socketserver.StreamRequestHandler) -> None:
        for line in one.rfile:
            one.wfile.write(b"one " + line[:-2] + b"?\n")

    words: dict[str, list[object]] = {
        "lines": ["one", 2, 3, 32, 0.1, 0.1, 0],
        "connect": ["one", 2, 32, 0.1, 0.1, 1000],
    }
    program = compiled(name, tmp_path)
    with (
        serving(differs) as port,
        closing(Load(program, port, *words[name], timeout=PATIENCE)) as load,
        pytest.raises(Failed, match="errors before the start: wrong-reply"),
    ):
        load.hear("ready")


@needs_cc
def test_a_short_benchmark_writes_its_results(tmp_path: Path) -> None:
    """A table and JSON, with the server left out that answers wrongly."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG_PEER)
    words = ["--only", "start,pingpong-16,connect", "--peers", "echod,limit", "--rounds", "1"]
    words += ["--seconds", "0.1", "--output", str(tmp_path / "out")]
    words += ["--peer", f"wrong={sys.executable} {wrong} {{port}} {{prefix}}"]
    run = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found["peers"] == ["echod", "limit"]
    for key in ("pingpong-16", "connect"):
        for peer in ("echod", "limit"):
            assert found["cells"][key][peer][0]["rate"] > 0
            assert found["cells"][key][peer][0]["cpu"] > 0
    assert any(text.startswith("wrong is not measured: ") for text in found["problems"])
    text = (tmp_path / "out/results.md").read_text()
    assert "| ping-pong, 16 connections |" in text
    assert "wrong is not measured: " in text
