"""Which interpreters are supported is written in many files: all of them say the same."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from support import ROOT

CI = ROOT / ".ci/run"
CLASSIFIER = r"^Programming Language :: Python :: (3\.\d+)$"


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def classified() -> list[str]:
    """The versions of setup.cfg's classifiers."""
    return re.findall(CLASSIFIER, setup_cfg()["metadata"]["classifiers"], re.MULTILINE)


def passed() -> list[str]:
    """The first column of the table of interpreters: 3.11.7, 3.13.15t and so on."""
    (table,) = re.findall(
        r"^\| Python \|.*\n\|[- |]+\|\n((?:\|.*\n)+)",
        (ROOT / "docs/compatibility.md").read_text(),
        re.MULTILINE,
    )
    return re.findall(r"^\| (3\.\S+)", table, re.MULTILINE)


def in_order(versions: set[str]) -> list[str]:
    return sorted(versions, key=lambda one: int(one.partition(".")[2]))


def test_the_classifiers_are_the_versions_that_passed() -> None:
    """None is claimed without a run of the tests, and none that passed is left out."""
    versions = {re.sub(r"^(3\.\d+)\.\d+\w*$", r"\1", version) for version in passed()}
    assert classified() == in_order(versions)


def test_the_readme_names_the_range_of_versions() -> None:
    """From the oldest to the newest that passed."""
    oldest, *_, newest = classified()
    assert f"Python {oldest} to {newest}" in " ".join((ROOT / "README.md").read_text().split())


def test_builds_without_a_gil_are_claimed_if_one_passed() -> None:
    """A version with a t at its end is such a build."""
    classifiers = setup_cfg()["metadata"]["classifiers"]
    assert ("Free Threading" in classifiers) == any(one.endswith("t") for one in passed())


def test_the_oldest_version_is_the_same_everywhere() -> None:
    """For pip, make, the installer, CI, the locks and the tools that check the code."""
    oldest = classified()[0]
    minor = oldest.partition(".")[2]
    config = setup_cfg()
    assert config["options"]["python_requires"] == f">={oldest}"
    assert config["mypy"]["python_version"] == oldest
    ruff = tomllib.loads((ROOT / ".ruff.toml").read_text())
    assert ruff["target-version"] == f"py3{minor}"
    makefile = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"--python-version (\S+)", makefile)) == {oldest}
    for path in (ROOT / "Makefile", ROOT / "systemd/install.sh", CI):
        checked = re.findall(r"version_info < \((3), (\d+)\)", path.read_text())
        assert checked == [("3", minor)], path


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "CONTRIBUTING.md",
        "Makefile",
        "Dockerfile",
        "docs/compatibility.md",
        "docs/image.md",
        "docs/vm-mesh.md",
    ],
)
def test_every_document_names_the_oldest_version(path: str) -> None:
    """Line breaks and comment signs aside."""
    text = " ".join((ROOT / path).read_text().replace("\n#", "\n").split())
    assert set(re.findall(r"Python (3\.\d+) or later", text)) == {classified()[0]}


@pytest.mark.parametrize("path", ["Dockerfile", "docs/image.md"])
def test_the_image_stands_on_a_version_that_passed(path: str) -> None:
    """The base that is named first, and every other one that is shown."""
    bases = set(re.findall(r"\bpython:(3\.\d+)-", (ROOT / path).read_text()))
    assert len(bases) == 1
    assert bases <= set(classified())


def fake_interpreter(path: Path, name: str) -> None:
    """It calls itself ``name`` in the words of the line that asks for it."""
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho {name}\n")
    path.chmod(0o755)


def test_ci_takes_the_newest_patch_release_of_each_version(tmp_path: Path) -> None:
    """With and without a GIL, from the path first; one that does not run is left out."""
    function = re.search(r"^interpreters\(\) \{\n.*?^\}$", CI.read_text(), re.MULTILINE | re.DOTALL)
    assert function
    versions, on_path = tmp_path / "pyenv/versions", tmp_path / "bin"
    for version, name in (
        ("3.12.2", "3.12"),
        ("3.12.9", "3.12"),
        ("3.12.10", "3.12"),
        ("3.13.1", "3.13"),
        ("3.14.0", "3.14"),
        ("3.14.1", "3.14"),
        ("3.14.2t", "3.14t"),
    ):
        fake_interpreter(versions / version / "bin" / f"python{name}", name)
    fake_interpreter(on_path / "python3", "3.13")
    (on_path / "python3.15").write_text("#!/bin/sh\nexit 1\n")
    (on_path / "python3.15").chmod(0o755)
    environment = {"PATH": f"{on_path}:{os.environ['PATH']}", "PYENV_ROOT": str(tmp_path / "pyenv")}
    program = f"set -euo pipefail\n{function[0]}\ninterpreters"
    done = subprocess.run(
        ["bash", "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    found = dict(line.split() for line in done.stdout.splitlines())
    assert next(iter(found)) == "3.13"
    assert found["3.13"] == str(on_path / "python3")
    assert found["3.12"] == str(versions / "3.12.10/bin/python3.12")
    assert found["3.14"] == str(versions / "3.14.1/bin/python3.14")
    assert found["3.14t"] == str(versions / "3.14.2t/bin/python3.14t")
    assert "3.15" not in found
