"""What ``make dist`` builds: the same bytes each time, and one file that needs Python alone."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, Start, call, converse, scrape

import echod

SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's, of which the tests use the standard library alone."""


def build(target: Path, umask: str = "022", **variables: str) -> dict[str, bytes]:
    """The three files by their names."""
    words = f"umask {umask}; exec {sys.executable} tools/dist.py {target}"
    subprocess.run(
        ["sh", "-c", words],
        cwd=ROOT,
        env={**os.environ, **variables},
        check=True,
        timeout=10 * PATIENCE,
    )
    return {path.name: path.read_bytes() for path in target.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("built") / "dist"
    build(target, SOURCE_DATE_EPOCH="1764000000")
    return target


def test_two_builds_of_the_same_sources_are_the_same_bytes(built: Path, tmp_path: Path) -> None:
    """Whatever the user's umask, time zone and locale are."""
    again = build(
        tmp_path / "dist", "077", SOURCE_DATE_EPOCH="1764000000", TZ="Asia/Tokyo", LC_ALL="C"
    )
    version = echod.__version__
    assert {*again} == {
        "echod.pyz",
        f"tcp_echod-{version}-py3-none-any.whl",
        f"tcp_echod-{version}.tar.gz",
    }
    for name, data in again.items():
        assert hashlib.sha256(data).digest() == hashlib.sha256((built / name).read_bytes()).digest()


def test_the_source_distribution_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    """It lacks no file, and holds none that the wheel was not made of."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    words = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", "made", str(tree)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1764000000"}
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, timeout=10 * PATIENCE)
    (wheel,), (rebuilt,) = built.glob("*.whl"), (tmp_path / "made").iterdir()
    assert rebuilt.read_bytes() == wheel.read_bytes()


def test_twine_finds_nothing_to_complain_of(built: Path) -> None:
    """The index would take both."""
    words = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.glob("tcp*"))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def alone(built: Path, *words: str) -> list[str]:
    """The command of ``echod.pyz`` by a Python that has its standard library alone."""
    return [SYSTEM_PYTHON, "-I", "-S", str(built / "echod.pyz"), *words]


def test_the_one_file_echoes_is_healthy_and_drains(built: Path, start: Start) -> None:
    """Where neither pip nor the two libraries are."""
    echod = start(command=lambda *words: alone(built, *words))
    assert converse(echod.port, b"1\n2\n") == b"one 1\none 2\n"
    assert b"echod_requests_total" in scrape(echod)
    port = str(echod.metrics_port)
    done = call(Path("/"), alone(built, "health", "--metrics-port", port))
    assert (done.returncode, done.stdout) == (0, "ready\n")
    probe = ("probe", f"127.0.0.1:{echod.port}", "--expect", "one=100")
    done = call(Path("/"), alone(built, *probe, "--metrics", f"http://127.0.0.1:{port}/metrics"))
    assert done.returncode == 0, done.stdout + done.stderr
    echod.process.terminate()
    assert echod.process.wait(PATIENCE) == 0
    assert echod.events("stopped")


def test_the_one_file_runs_as_a_command(built: Path) -> None:
    """By the python3 on the path."""
    done = call(Path("/"), [str(built / "echod.pyz"), "--version"])
    assert (done.returncode, done.stdout) == (0, f"echod {echod.__version__}\n")


def test_the_lab_of_the_one_file_names_the_extra_that_it_needs(built: Path) -> None:
    """In one line."""
    done = call(Path("/"), alone(built, "lab", "--once"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "install the extra lab" in done.stderr


def test_an_older_python_is_refused_in_one_line(built: Path, tmp_path: Path) -> None:
    """By the one file itself, before it imports what that Python cannot read."""
    with zipfile.ZipFile(built / "echod.pyz") as opened:
        program = opened.read("__main__.py").decode()
    older = "import sys; sys.version_info = (3, 10, 4)\n" + program
    (tmp_path / "main.py").write_text(older)
    done = call(tmp_path, [SYSTEM_PYTHON, "-I", "-S", "main.py"])
    assert done.returncode == 1
    assert done.stderr == "echod: error: Python 3.10: must be Python 3.11 or later\n"


def test_a_wrong_source_date_epoch_is_named(tmp_path: Path) -> None:
    """With its value and what is allowed."""
    words = [sys.executable, str(ROOT / "tools/dist.py"), str(tmp_path / "dist")]
    done = call(tmp_path, words, SOURCE_DATE_EPOCH="yesterday")
    assert done.returncode == 1
    assert done.stderr.startswith("make: SOURCE_DATE_EPOCH 'yesterday': must be seconds since 1970")
    assert not (tmp_path / "dist").exists()
