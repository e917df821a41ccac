from __future__ import annotations

import pytest

from fuzz.corpus import CORPUS, TARGETS, inputs

MOST_BYTES = 64 * 1024


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_fuzzer_has_kept_holds_again(target: str) -> None:
    """The inputs that reach furthest, and those that once broke something."""
    found = inputs(target)
    assert found
    for path in found:
        TARGETS[target](path.read_bytes())


def test_corpora_are_small_and_belong_to_targets() -> None:
    """They are a part of the source."""
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    for target in TARGETS:
        assert sum(path.stat().st_size for path in inputs(target)) <= MOST_BYTES
