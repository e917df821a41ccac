"""What a user expects of a split, as text; and what is counted of it."""

from __future__ import annotations

import pytest

from echod.errors import UsageError
from echod.probe.expectation import Expectation, parse
from echod.probe.tally import Latencies


@pytest.mark.parametrize(
    ("texts", "shares", "failures"),
    [
        (["one=80,two=20"], {"one": 0.8, "two": 0.2}, None),
        (["one=4", "two=1"], {"one": 0.8, "two": 0.2}, None),
        (["one=0.5%,two=1.5%"], {"one": 0.25, "two": 0.75}, None),
        (["a b=1, c=0"], {"a b": 1.0, "c": 0.0}, None),
        ([r"x\,y=z=1"], {"x,y=z": 1.0}, None),
        (["one=95,error=5"], {"one": 0.95}, 0.05),
    ],
)
def test_shares_come_in_any_unit(
    texts: list[str], shares: dict[str, float], failures: float | None
) -> None:
    """Names may hold spaces, equal signs and, escaped, commas."""
    made = parse(texts)
    assert made.shares == pytest.approx(shares)
    assert made.failures == pytest.approx(failures)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one", "--expect 'one': must be NAME=SHARE"),
        ("=80", "--expect '=80': must be NAME=SHARE"),
        ("", "--expect '': must be NAME=SHARE"),
        ("one=80,", "--expect '': must be NAME=SHARE"),
        ("one=-1", "--expect 'one=-1': must have a share from 0 to"),
        ("one=nan", "--expect 'one=nan': must have a share"),
        ("one=inf", "--expect 'one=inf': must have a share"),
        ("one=1_0", "--expect 'one=1_0': must have a share"),
        ("one=1e308,two=1", "--expect 'one=1e308': must have a share from 0 to 1,000,000,000,000"),
        ("one=x", "--expect 'one=x': must have a share"),
        ("one=0,two=0", "--expect 'one=0,two=0': must have a share over 0"),
        ("one=1,one=2", "--expect 'one=2': must name each version once"),
        (",".join(f"v{n}=1" for n in range(33)), "must name 32 versions at most"),
    ],
)
def test_wrong_shares_are_named(text: str, message: str) -> None:
    """With the part that is wrong, and what is allowed."""
    with pytest.raises(UsageError) as caught:
        parse([text])
    assert message in str(caught.value)


def test_two_shares_are_one_test() -> None:
    """What one is off, the other is too: halving the level would be for nothing."""
    assert parse(["one=80,two=20"]).tested == {"one": pytest.approx(0.8)}
    assert parse(["one=1,two=0"]).tested == {"one": 1.0}
    assert parse(["one=95,error=5"]).tested == {"one": pytest.approx(0.95)}
    three = {"a": 0.5, "b": 0.25, "c": 0.25}
    assert Expectation(three, None).tested == three
    assert parse(["one=3,two=1,error=4"]).tested == {"one": 0.375, "two": 0.125, "error": 0.5}


def test_latencies_are_known_to_two_per_cent() -> None:
    """In bounded memory, and nothing is known of none."""
    times = Latencies()
    assert times.quantile(0.5) is None
    for number in range(1, 1001):
        times.add(number / 1000)
    times.add(0)
    assert times.quantile(0.5) == pytest.approx(0.5, rel=0.02)
    assert times.quantile(0.99) == pytest.approx(0.99, rel=0.02)
    assert times.quantile(0) == pytest.approx(1e-9, rel=0.02)
