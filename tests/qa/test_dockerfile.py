"""What the Dockerfile promises, as far as it can be read off it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import ROOT, clean_environment

import echod

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
IGNORED = (ROOT / ".dockerignore").read_text()


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.MULTILINE)


def test_an_image_build_without_arguments_labels_the_release() -> None:
    """Without make the argument is not given."""
    assert f"VERSION={echod.__version__}" in instructions("ARG")


def test_the_base_is_an_argument_and_no_digest_is_made_up() -> None:
    """Both stages stand on the same one, which a user can pin."""
    assert instructions("ARG")[0] == "BASE=python:3.14-slim"
    assert instructions("FROM") == ["${BASE} AS build", "${BASE}"]
    assert "sha256" not in DOCKERFILE


def test_the_image_runs_no_command_in_a_shell() -> None:
    """Bare images have none, and a shell as PID 1 would keep the signals."""
    for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
        (instruction,) = instructions(name)
        assert re.search(r'(^|CMD )\["', instruction)
    assert instructions("USER")[-1] == "65532:65532"


def test_a_base_with_a_user_of_its_own_and_busybox_can_be_built_on() -> None:
    """Root builds, and its tools are the shell and Python: another base has no GNU programs."""
    build, image = DOCKERFILE.split("\nFROM ")[1:]
    assert re.findall(r"^(?:USER|RUN|WORKDIR)\b.*$", build, re.MULTILINE)[0] == "USER 0:0"
    words = [
        word
        for command in re.findall(r"^RUN +(.*)$", build, re.MULTILINE)
        for word in re.findall(r"(?:^|&& +|\|\| +|\{ +|; +)([\w./-]+) ", command)
    ]
    assert {word for word in words if "/" not in word} <= {"python3", "echo", "exit", "export"}
    assert {word.split("/")[1] for word in words if "/" in word} == {"tools", "opt"}
    assert "RUN" not in image


SELF_TEST = ROOT / "tools/self_test.py"


def self_test(command: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, SELF_TEST, command],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_the_images_self_test_passes() -> None:
    """With the command that is installed."""
    assert self_test(Path(sys.executable).parent / "echod") == (0, "")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 7", "not ready, exit status 7"),
        ('case $1 in health) exit 1; esac; exec {echod} "$@"', "(b'first line\\n', 1, 0)"),
        ('case $1 in 0) shift 2; exec {echod} 0 x "$@"; esac', "(b'x line\\n', 0, 0)"),
        (
            'case $1 in health) exec {echod} "$@"; esac\n'
            "trap 'kill $daemon; wait $daemon; exit 143' TERM; {echod} \"$@\" & daemon=$!; wait",
            "(b'first line\\n', 0, 143)",
        ),
    ],
)
def test_the_images_self_test_finds_what_is_wrong(tmp_path: Path, script: str, said: str) -> None:
    """The start, the reply, the health check or the exit status."""
    fake = tmp_path / "echod"
    echod = Path(sys.executable).parent / "echod"
    fake.write_text(f"#!/bin/sh\n{script.format(echod=echod)}\n")
    fake.chmod(0o755)
    status, error = self_test(fake)
    assert status == 1
    assert said in error


def test_the_images_self_test_needs_a_command(tmp_path: Path) -> None:
    """What is not there is named."""
    assert "No such file or directory" in self_test(tmp_path / "none")[1]


def test_every_installed_file_is_checked_by_its_hash() -> None:
    """The build's own tools too; the project's wheel is built without the network."""
    for command in re.findall(r"pip\b[^&\n]* (?:install|wheel) [^&\n]*", DOCKERFILE):
        own = "/wheels" in command
        assert ("--no-deps" if own else "--require-hashes") in command, command
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    locked = (ROOT / "requirements/build.lock").read_text()
    (least,) = re.findall(r"setuptools>=(\d+)", " ".join(wanted))
    (found,) = re.findall(r"^setuptools==(\d+)", locked, re.MULTILINE)
    assert int(found) >= int(least)
    assert "--hash=sha256:" in locked


def test_the_build_context_has_only_the_files_that_are_copied() -> None:
    """A stray file beside the sources ends in no image."""
    sent = {line[1:].removesuffix("/**") for line in IGNORED.split() if line.startswith("!")}
    copied = {
        source
        for line in instructions("COPY")
        if "--from" not in line
        for source in line.split()[:-1]
    }
    assert sent == copied
    assert re.search(r"^\*$", IGNORED, re.MULTILINE)
