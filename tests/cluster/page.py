"""The page's sections for a cluster: their blocks, and what a block is typed as."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from support import ROOT
from support.pages import SHELL, Block, alike, alike_in_any_order, blocks, headings

from cluster.asking import Facts
from cluster.shell import KILL, Shell

PAGE = ROOT / "docs/traffic-shifting.md"
TRANSLATION = PAGE.with_suffix(".zh-CN.md")
TRANSLATED = "All to v1"
"""The section that is read from the translation, whose blocks are the same by tests/qa."""
ENTRANCE = "Both versions"
LAST = "Clean-up"
NEEDS = {
    "All to v1": "Istio's API",
    "A fifth to v2": "Istio's API",
    "Half, and all": "Istio's API",
    "The same with the Gateway API": "Gateway API",
}
"""What must not have been skipped for a section."""
STEP = re.compile(r"(?<=-k k8s/gateway-api/)(?=all-|\d)")


@dataclass(frozen=True)
class Section:
    """The blocks below a heading that need a cluster."""

    title: str
    blocks: list[Block]


def sections() -> list[Section]:
    """From the page's beginning to its end."""
    return list(_sections())


def _sections() -> Iterator[Section]:
    own, translated = blocks(PAGE), blocks(TRANSLATION)
    for number, title in enumerate(headings(PAGE), start=1):
        found = translated if title == TRANSLATED else own
        needed = [one for one in found if one.section == number and _is_for_a_cluster(one)]
        if needed:
            yield Section(title, needed)


def _is_for_a_cluster(block: Block) -> bool:
    return block.language in SHELL and block.needs == "cluster"


def applies(section: Section, block: Block, facts: Facts, shell: Shell) -> bool:
    """Whether a block is for this cluster. The gateway's address is needed only with Istio's API,
    and a forward is ended only if one runs.
    """
    if block.condition not in ("", "load balancer" if facts.balanced else "no load balancer"):
        return False
    if block.condition and section.title == ENTRANCE:
        return "Istio's API" not in facts.skipped
    return bool(shell.jobs) or not KILL.fullmatch(block.text)


def type_in(shell: Shell, block: Block, facts: Facts) -> None:
    """Types a block's commands and compares what they print."""
    for command, expected in block.calls():
        typed = STEP.sub("v1alpha2/", command) if facts.route == "v1alpha2" else command
        status, said = shell.run(typed, strict=block.language == "sh")
        where = f"{PAGE.name}:{block.line}: {typed}\nexit status {status}, printed:\n"
        where += "\n".join(said)
        if block.language == "sh":
            assert status == 0, where
        elif block.unordered:
            assert alike_in_any_order(said, expected), where
        else:
            assert alike(said, expected), where
