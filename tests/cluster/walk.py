"""The page typed from its beginning to its clean-up, a case for each section."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster.page import LAST, NEEDS, Section, applies, sections, type_in
from cluster.setting import Cluster


@pytest.mark.parametrize(
    "section",
    [one for one in sections() if one.title != LAST],
    ids=lambda section: section.title,
)
def test_the_commands_of_a_section_print_what_it_shows(
    cluster: Cluster, needs: Callable[[str], None], section: Section
) -> None:
    """In order, each in the state that those before it have left."""
    if cluster.failed:
        pytest.skip(f"the section {cluster.failed!r} has failed")
    needs(NEEDS.get(section.title, ""))
    cluster.failed = section.title
    for block in section.blocks:
        if applies(section, block, cluster.facts, cluster.shell):
            type_in(cluster.shell, block, cluster.facts)
    cluster.failed = ""
