"""The instructions that a line and a connection take: no machine is too busy to count them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import ROOT

from bench import instructions

PYTHON = "/usr/bin/python3"


def written(about: str) -> dict[str, float]:
    """The row of an interpreter in docs/performance.md."""
    page = (ROOT / "docs/performance.md").read_text()
    lines = page.splitlines()
    (head,) = [line for line in lines if line.startswith("| Python | line")]
    assert [cell.strip() for cell in head.split("|")[2:-1]] == [*instructions.FIGURES.values()]
    for line in lines:
        first, *cells = [cell.strip() for cell in line.split("|")[1:-1]] or [""]
        if first == about:
            numbers = [float(cell.replace(",", "")) for cell in cells]
            return dict(zip(instructions.FIGURES, numbers, strict=True))
    return {}


def test_a_line_and_a_connection_take_the_instructions_that_are_written(tmp_path: Path) -> None:
    """Within 5 %, on the interpreters whose builds are in the table; more is a loss of speed, less
    a table that is to be written anew (make bench BENCH=--instructions).
    """
    assert shutil.which("valgrind"), "apt-get install valgrind"
    (about,) = [one for one, path in instructions.interpreters().items() if path == PYTHON]
    wanted = written(about)
    if not wanted:
        pytest.skip(f"docs/performance.md has no figures of Python {about}")
    found = instructions.measure(PYTHON, tmp_path)
    assert found == {name: pytest.approx(figure, rel=0.05) for name, figure in wanted.items()}
