"""What the Dockerfile promises, as far as it can be read off it."""

from __future__ import annotations

import re
import tomllib

from support import ROOT

import echod

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
IGNORED = (ROOT / ".dockerignore").read_text()


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.MULTILINE)


def test_a_plain_build_labels_the_version_it_has() -> None:
    """Without make nobody gives the argument."""
    assert f"VERSION={echod.__version__}" in instructions("ARG")


def test_the_base_is_an_argument_and_no_digest_is_made_up() -> None:
    """Both stages stand on the same one, which a user can pin."""
    assert instructions("ARG")[0] == "BASE=python:3.14-slim"
    assert instructions("FROM") == ["${BASE} AS build", "${BASE}"]
    assert "sha256" not in DOCKERFILE


def test_nothing_that_runs_is_given_to_a_shell() -> None:
    """Bare images have none, and a shell as PID 1 would keep the signals."""
    for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
        (instruction,) = instructions(name)
        assert re.search(r'(^|CMD )\["', instruction)
    assert instructions("USER") == ["65532:65532"]


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


def test_the_builder_is_sent_what_it_copies_and_no_more() -> None:
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
