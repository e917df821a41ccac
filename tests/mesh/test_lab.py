"""``echod lab`` as a user runs it, on free ports."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT, call, clean_environment, command, connect, read_exactly, until


def slowly(rate: int) -> list[str]:
    """A lab whose steps take so long that their weights can change meanwhile."""
    script = (
        "import sys; from functools import partial; from echod.lab import command;"
        f"command.Pace = partial(command.Pace, rate={rate});"
        "from echod.cli import main; sys.exit(main())"
    )
    return [command()[0], "-c", script]


class Running:
    """A lab, with its temporary files in a directory of its own."""

    def __init__(
        self,
        directory: Path,
        *words: str,
        rate: int | None = None,
        by: list[str] | None = None,
    ) -> None:
        """``rate``: as many connections a second as it judges by. ``by``: what runs echod."""
        self.directory = directory
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        self.output = directory / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(by or (command() if rate is None else slowly(rate))),
                    "lab",
                    "--port",
                    "0",
                    *words,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                env=clean_environment(TMPDIR=str(self.temporary)),
            )

    def said(self) -> str:
        return self.output.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.said())
            assert found or self.process.poll() is None, self.said()
            return found

        found = until(look)
        assert found
        return found

    def port(self) -> int:
        return int(self.wait_for(r"Envoy on 127.0.0.1:(\d+)")[1])

    def shift(self, weights: str) -> str:
        words = command("lab", "shift", weights)
        result = call(self.directory, words, TMPDIR=str(self.temporary))
        assert result.returncode == 0, result.stderr
        return result.stdout

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path, "--serve", "--steps", "100/0")
    yield running
    if running.process.poll() is None:
        running.end()


def answer(port: int) -> bytes:
    with connect(port) as client:
        client.sendall(b"x\n")
        return read_exactly(client, len(b"one x\n"))[:3]


def test_the_exercise_is_walked_through_and_judged(tmp_path: Path) -> None:
    """Every step holds, the versions have counted the same, nothing is left."""
    running = Running(tmp_path, "--once", "--every", "0.1")
    assert running.process.wait(60) == 0, running.said()
    said = running.said()
    assert re.findall(r"^step \d: (.*)$", said, re.MULTILINE) == [
        "v1 100, v2 0",
        "v1 80, v2 20",
        "v1 50, v2 50",
        "v1 0, v2 100",
    ]
    assert said.count("\nholds: ") == said.count(" were answered here: match\n") == 4
    assert list(running.temporary.iterdir()) == []


def test_weights_that_change_during_a_step_fail_the_exercise(tmp_path: Path) -> None:
    """They hold while a step that expects others is judged."""
    running = Running(tmp_path, "--once", "--steps", "100/0", rate=8)
    running.wait_for("step 1")
    assert running.shift("0/100") == "now v1 0, v2 100\n"
    assert running.process.wait(60) == 1
    assert "does not hold: one has" in running.said()


def test_a_version_that_answers_with_another_prefix_fails_the_exercise(tmp_path: Path) -> None:
    """The lab's own versions, with the wrong word in one of them."""
    script = (
        "import sys; from echod.cli import main; from echod.lab import version;"
        "version.VERSIONS = {'v1': 'one', 'v2': 'wrong'}; sys.exit(main())"
    )
    words = [*command()[:1], "-c", script, "lab", "--once", "--port", "0", "--steps", "80/20"]
    words += ["--socket", str(tmp_path / "socket")]
    result = call(tmp_path, words)
    assert result.returncode == 1
    assert "wrong is unexpected" in result.stdout


def test_weights_are_shifted_from_another_terminal(lab: Running) -> None:
    """New connections follow; a wrong weight is answered with what is right."""
    port = lab.port()
    assert answer(port) == b"one"
    lab.wait_for("shift with: echod lab shift 80/20")
    assert lab.shift("0/100") == "now v1 0, v2 100\n"
    assert answer(port) == b"two"
    (socket,) = lab.temporary.glob("*.sock")
    assert socket.stat().st_mode & 0o777 == 0o600


def test_weights_that_are_changed_a_little_fail_the_exercise(tmp_path: Path) -> None:
    """What no statistics would find in time, the lab itself knows."""
    running = Running(tmp_path, "--once", "--steps", "50/50", rate=80)
    running.wait_for("step 1")
    running.shift("51/49")
    assert running.process.wait(60) == 1
    assert "the weights were changed meanwhile" in running.said()


@pytest.mark.parametrize(
    "words", [["shift", "0/100"], ["--once", "--port", "0", "--steps", "100/0", "--socket", "own"]]
)
def test_a_result_that_cannot_be_written_is_an_error(lab: Running, words: list[str]) -> None:
    """In one line, with status 1."""
    lab.wait_for("shift with: ")
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            command("lab", *words),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            cwd=lab.directory,
            env=clean_environment(TMPDIR=str(lab.temporary)),
            check=False,
        )
    assert (result.returncode, result.stderr) == (
        1,
        "echod: error: cannot write to standard output: No space left on device\n",
    )


def test_a_lab_that_serves_goes_on_without_its_output(tmp_path: Path) -> None:
    words = ["--serve", "--port", "0", "--socket", str(tmp_path / "socket")]
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(command("lab", *words), stdout=full, cwd=tmp_path)
    try:
        asked = command("lab", "shift", "0/100", "--socket", str(tmp_path / "socket"))
        until(lambda: call(tmp_path, asked).stdout == "now v1 0, v2 100\n")
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_the_lab_and_its_children(lab: Running, number: int) -> None:
    """No process, port or file is left."""
    port = lab.port()
    lab.wait_for("shift with")
    children = lab.children()
    assert len(children) == 3
    assert lab.end(number) == 0
    for pid in children:
        assert not Path(f"/proc/{pid}").exists()
    assert list(lab.temporary.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        connect(port)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_child_that_dies_ends_the_lab(lab: Running, which: int) -> None:
    """With one line that says which it was."""
    lab.wait_for("shift with")
    children = lab.children()
    os.kill(children[which], signal.SIGKILL)
    assert lab.process.wait(20) == 1
    assert re.search(
        r"^echod: error: (v1|v2|envoy) has ended with status -9: ", lab.said(), re.MULTILINE
    )
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert list(lab.temporary.iterdir()) == []


def test_a_manifest_gives_the_weights_and_is_followed(tmp_path: Path) -> None:
    """Saved anew it shifts them; what it cannot be taken for is said, and the old ones stay."""
    file = tmp_path / "route.yaml"
    shutil.copy(ROOT / "k8s/istio/all-v1/route.yaml", file)
    running = Running(tmp_path, "--route", str(file))
    running.wait_for("v1 1, v2 0; shift with")
    port = running.port()
    assert answer(port) == b"one"
    new = tmp_path / "new"
    shutil.copy(ROOT / "k8s/gateway-api/all-v2/route.yaml", new)
    new.rename(file)
    running.wait_for("now v1 0, v2 1")
    assert answer(port) == b"two"
    file.write_text("nothing: [")
    running.wait_for("is not YAML; v1 0, v2 1 stay")
    assert answer(port) == b"two"
    assert running.end() == 0


def test_a_second_lab_is_refused(lab: Running) -> None:
    """One for each user, or each its own --socket."""
    lab.wait_for("shift with")
    result = call(lab.directory, command("lab", "--port", "0"), TMPDIR=str(lab.temporary))
    assert result.returncode == 1
    assert "another lab is running" in result.stderr


def test_a_lab_with_a_socket_of_its_own_says_so_in_the_call_that_shifts_it(tmp_path: Path) -> None:
    """Without the option, that call would shift another lab of the same user."""
    running = Running(tmp_path, "--serve", "--socket", "its own")
    running.wait_for(r"; shift with: echod lab shift 80/20 --socket 'its own'\n")
    assert running.end() == 0


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """And what has been started until then is ended."""
    first = Running(tmp_path, "--serve")
    port = first.port()
    first.wait_for("shift with")
    words = command("lab", "--serve", "--port", str(port), "--socket", str(tmp_path / "other"))
    result = call(tmp_path, words)
    assert first.end() == 0
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "echod: error: " in result.stderr
