"""The fenced blocks of the documents: what a reader types, and what the page says comes of it.

A block's first word is its language. ``sh`` holds commands, ``console`` commands behind ``$`` and
what they print. ``needs: cluster``, ``docker``, ``network`` (a package index) or ``root`` after it
marks a block that no test of one host runs, and ``stays`` one whose command goes on until its
section ends, as in a terminal of its own. A cluster's block may be for clusters with ``load
balancer`` addresses alone, or with ``no load balancer``, and may print its lines in ``any order``.
``make test-cluster`` types those.
tests/mesh/test_services.py types those that need ``services``.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support import ROOT

LANGUAGES = {"console", "json", "sh", "text", "yaml"}
SHELL = {"console", "sh"}
NEEDS = {
    "cluster",
    "cluster; any order",
    "cluster, load balancer",
    "cluster, no load balancer",
    "docker",
    "network",
    "root",
    "services",
}

FENCE = re.compile(r"^( *)```(.*)$")
NAMES = re.compile(
    r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b"
)
OMITTED = "…"
"""A line that stands for any number of lines."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its info string, its text, and the section and line it begins in."""

    info: str
    text: str
    section: int
    line: int

    @property
    def language(self) -> str:
        return self.info.split(" ")[0]

    @property
    def needs(self) -> str:
        """What it takes to run it that a test has not, or nothing."""
        return re.split("[,;]", self.info.partition("needs: ")[2])[0]

    @property
    def condition(self) -> str:
        """Which clusters it is for; nothing if for all."""
        return self.info.partition(", ")[2]

    @property
    def unordered(self) -> bool:
        return self.info.endswith("; any order")

    @property
    def stays(self) -> bool:
        return self.info.endswith(" stays")

    def calls(self) -> list[tuple[str, list[str]]]:
        """The commands, and for each the lines that it prints; of ``sh`` no lines are known."""
        if self.language == "sh":
            return [(self.text, [OMITTED])]
        calls: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                calls.append((line[2:], []))
            elif not calls[-1][1] and calls[-1][0].endswith("\\"):
                calls[-1] = (f"{calls[-1][0]}\n{line}", [])
            else:
                calls[-1][1].append(line)
        return calls


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, from top to bottom."""
    found: list[Block] = []
    section = 0
    opened: tuple[str, str, int] | None = None
    text: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        fence = FENCE.match(line)
        if opened is None:
            section += line.startswith("#")
            if fence:
                opened, text = (fence[1], fence[2], number), []
        elif fence and not fence[2]:
            found.append(Block(opened[1], "\n".join(text), section, opened[2]))
            opened = None
        else:
            text.append(line.removeprefix(opened[0]))
    assert opened is None, f"{path.name}:{opened and opened[2]}: a block without an end"
    return found


def headings(path: Path) -> list[str]:
    """The titles of a page's sections, in the order of their numbers."""
    found = []
    inside = False
    for line in path.read_text().splitlines():
        fence = FENCE.match(line)
        if fence:
            inside = not inside
        elif not inside and line.startswith("#"):
            found.append(line.lstrip("# "))
    return found


def pages() -> list[Path]:
    """Every document of the project."""
    words = ["git", "ls-files", "-co", "--exclude-standard", "*.md"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(ROOT / name for name in listed.split() if (ROOT / name).exists())


def shape(line: str) -> str:
    """A line without what differs from run to run: numbers, names of days, widths of columns.

    A digit after a letter belongs to a name: v1, p99.
    """
    line = NAMES.sub("day", re.sub(r"(?<![a-z])\d[\d,.]*(?<![,.])", "#", line))
    return " ".join(line.split())


def alike(said: list[str], expected: list[str]) -> bool:
    """Whether lines have the expected shapes; ``…`` is any number of lines."""
    patterns = [
        r"(?:.*\n)*?" if line.strip() == OMITTED else re.escape(shape(line)) + r"\n"
        for line in expected
    ]
    return bool(re.fullmatch("".join(patterns), "".join(f"{shape(line)}\n" for line in said)))


def alike_in_any_order(said: list[str], expected: list[str]) -> bool:
    """Whether there are as many lines as expected, and of each expected shape there is one."""
    return len(said) == len(expected) and set(map(shape, said)) == set(map(shape, expected))


def marked() -> Iterator[tuple[Path, Block]]:
    """The shell blocks of all pages."""
    for path in pages():
        for block in blocks(path):
            if block.language in SHELL:
                yield path, block
