"""The documents' blocks are what they say, and the translation has the same ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import ROOT
from support.pages import (
    LANGUAGES,
    NEEDS,
    Block,
    alike,
    alike_in_any_order,
    blocks,
    marked,
    pages,
)


def test_every_block_says_its_language() -> None:
    """So that no command hides from the test that runs them."""
    found = [(path, block) for path in pages() for block in blocks(path)]
    assert len(found) > 50
    for path, block in found:
        assert block.language in LANGUAGES, f"{path.name}:{block.line}: {block.info!r}"


def test_a_shell_block_is_run_or_says_what_it_needs() -> None:
    """A cluster, docker or root, and nothing else."""
    for path, block in marked():
        where = f"{path.name}:{block.line}: {block.info!r}"
        assert re.fullmatch(rf"\w+( stays| needs: ({'|'.join(NEEDS)}))?", block.info), where
        assert block.calls(), where


def test_the_translation_has_the_same_blocks() -> None:
    """Text is translated; what is typed and printed is not."""
    original, translation = (
        [(block.info, block.text, block.section) for block in blocks(ROOT / "docs" / name)]
        for name in ("traffic-shifting.md", "traffic-shifting.zh-CN.md")
    )
    assert original == translation
    assert len(original) > 20


def anchors(page: Path) -> set[str]:
    """What a link can name in a page, as GitHub makes it of the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere() -> None:
    """To a file that is there, and to a heading in it."""
    followed = 0
    for page in pages():
        for target in re.findall(r"\]\(([^()\s]+)\)", page.read_text()):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            path = page.parent / name if name else page
            assert path.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(path), f"{page.name}: {target}"
            followed += 1
    assert followed > 30


def test_the_tests_that_a_page_names_are_there() -> None:
    """A promise whose test was renamed or dropped is one that nothing holds."""
    defined = {
        f"{path.stem}::{name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    named = {
        name for page in pages() for name in re.findall(r"`(test_\w+::test_\w+)`", page.read_text())
    }
    assert len(named) > 20
    assert named <= defined


@pytest.mark.parametrize(
    ("said", "expected", "same"),
    [
        (["one Mon Nov 23 09:30:01 UTC 2026"], ["one Tue Dec 1 19:30:01 UTC 2026"], True),
        (["  12 one x", "   3 two x"], ["41 one x", " 9 two x"], True),
        (["1,712 in 0.9 s (1,843/s)"], ["459 in 12.25 s (7/s)"], True),
        (["a", "b", "c"], ["a", "…"], True),
        (["a", "b", "c"], ["…", "c"], True),
        (["a", "c"], ["a", "…", "c"], True),
        (["a", "b"], ["a"], False),
        (["a"], ["a", "b"], False),
        (["two x"], ["one x"], False),
        (["holds: 3"], ["does not hold: 3"], False),
    ],
)
def test_outputs_are_compared_by_their_shape(
    said: list[str], expected: list[str], same: bool
) -> None:
    """Numbers and dates differ from run to run, words do not."""
    assert alike(said, expected) is same


@pytest.mark.parametrize(
    ("said", "same"),
    [
        (["two 7", "one 8", "two 9"], True),
        (["one 1", "one 2", "one 3"], False),
        (["one 1", "two 2"], False),
        (["one 1", "two 2", "three 3"], False),
    ],
)
def test_lines_that_come_in_any_order_are_counted_by_their_shape(
    said: list[str], same: bool
) -> None:
    """Balancers are not strictly in turn; each version answers, and nothing else does."""
    assert alike_in_any_order(said, ["one 1", "two 2", "one 3"]) is same


def test_a_mark_says_what_a_block_needs_and_for_which_clusters_it_is() -> None:
    """And whether the order of its lines counts."""
    plain, ordered, forward = (
        Block(f"console needs: {mark}", "$ a", 1, 1)
        for mark in ("cluster", "cluster; any order", "cluster, no load balancer")
    )
    assert {plain.needs, ordered.needs, forward.needs} == {"cluster"}
    assert (plain.condition, forward.condition) == ("", "no load balancer")
    assert (plain.unordered, ordered.unordered) == (False, True)


def test_a_console_block_is_parsed_into_commands_and_output() -> None:
    """Continued lines belong to their command, what follows is its output."""
    text = "$ one \\\n    more\nout\n$ two\n$ three\na\nb"
    assert Block("console", text, 1, 1).calls() == [
        ("one \\\n    more", ["out"]),
        ("two", []),
        ("three", ["a", "b"]),
    ]
