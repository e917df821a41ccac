from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import expected

from echod.echo.protocol import STEP_BYTES, LineFormat, LineProtocol

NO_LIMIT = 1 << 20

lines_and_more = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"\n", b"\r\n", b"\n\n\n", b"\0", b"\xff\xfe\n", b"word\n"]),
    ),
    max_size=40,
).map(b"".join)


def run(protocol: LineProtocol, pieces: list[bytes]) -> tuple[bytes, int]:
    """Feeds the pieces as a connection would, until a line is too long."""
    replies, total = [], 0
    for piece in pieces:
        if not piece or protocol.overlong:
            continue
        reply, count = protocol.receive(piece)
        while True:
            replies.append(reply)
            total += count
            if not protocol.waiting:
                break
            reply, count = protocol.resume()
    return b"".join(replies), total


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    cuts_inside = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(cuts_inside)]


@given(lines_and_more, st.lists(st.integers(0, 2000)), st.binary(min_size=1, max_size=20))
def test_any_bytes_in_any_pieces_are_answered_as_the_model_says(
    data: bytes, cuts: list[int], prefix: bytes
) -> None:
    """Replies depend on the bytes alone, not on how they arrive."""
    protocol = LineProtocol(LineFormat(prefix + b" ", NO_LIMIT))
    assert run(protocol, cut(data, cuts)) == (expected(data, prefix), data.count(b"\n"))
    assert protocol.buffered == len(data) - (data.rfind(b"\n") + 1)
    assert protocol.clean == (protocol.buffered == 0)
    assert protocol.in_line == (protocol.buffered > 0)


@given(lines_and_more, st.lists(st.integers(0, 2000)), st.integers(1, 50))
def test_nothing_after_the_first_line_that_is_too_long_is_answered(
    data: bytes, cuts: list[int], limit: int
) -> None:
    """Lines before it are answered; where the pieces were cut makes no difference."""
    protocol = LineProtocol(LineFormat(b"one ", limit))
    reply, count = run(protocol, cut(data, cuts))
    answered = []
    for line in data.split(b"\n"):
        if len(line) > limit:
            break
        answered.append(line)
    else:
        answered.pop()  # the tail
    assert reply == b"".join(b"one " + line + b"\n" for line in answered)
    assert count == len(answered)
    assert protocol.overlong == any(len(line) > limit for line in data.split(b"\n"))


@pytest.mark.parametrize(("length", "overlong"), [(100, False), (101, True)])
@pytest.mark.parametrize("pieces", [1, 2, 101])
def test_the_limit_counts_the_bytes_before_the_newline(
    length: int, overlong: bool, pieces: int
) -> None:
    """A line of exactly the limit passes, one byte more does not."""
    line = b"x" * length + b"\n"
    size = -(-len(line) // pieces)
    protocol = LineProtocol(LineFormat(b"p ", 100))
    run(protocol, [line[at : at + size] for at in range(0, len(line), size)])
    assert protocol.overlong is overlong


def test_an_unfinished_line_over_the_limit_needs_no_newline_to_end_it() -> None:
    """The bytes buffered for one line are bounded."""
    protocol = LineProtocol(LineFormat(b"p ", 10))
    assert protocol.receive(b"a\n" + b"x" * 11) == (b"p a\n", 1)
    assert protocol.overlong
    assert protocol.buffered == 0


@given(st.integers(1, 1025), st.lists(st.sampled_from([b"", b"x" * 30, b"y" * 3000]), min_size=1))
@settings(max_examples=25)
def test_a_step_ends_with_the_line_that_reaches_its_size(
    head_size: int, pattern: list[bytes]
) -> None:
    """No reply is longer than a step and one line more, and all but the last reach the step."""
    head = b"h" * head_size
    block = b"".join(line + b"\n" for line in pattern)
    data = block * (1 + (1 << 16) // len(block))
    protocol = LineProtocol(LineFormat(head, NO_LIMIT))
    replies = [protocol.receive(data)[0]]
    while protocol.waiting:
        assert not protocol.clean
        replies.append(protocol.resume()[0])
    longest = max(map(len, pattern)) + 1 + head_size
    assert all(STEP_BYTES <= len(reply) < STEP_BYTES + longest for reply in replies[:-1])
    assert len(replies[-1]) < STEP_BYTES + longest
    assert b"".join(replies) == data.replace(b"\n", b"\n" + head).join([head, b""])[: -len(head)]
    assert protocol.clean
