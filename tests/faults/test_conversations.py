"""The same bytes as the reference, whatever is said and however it is cut.

With ``--against HOST:PORT`` another server is held to them, whose counters are not compared.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from support import Echod, Start, converse, expected, until
from support.conversations import (
    CORPUS,
    Address,
    Conversation,
    Step,
    address_of,
    corpus,
    cut,
    hold,
    shown,
)

CLIENTS = 8  # at a time
SEED = 7


class Server(NamedTuple):
    address: Address
    echod: Echod | None


@pytest.fixture
def servers(request: pytest.FixtureRequest, start: Start) -> list[Server]:
    """With one and with two handler threads; or the one that the tests are run against."""
    if against := request.config.getoption("--against"):
        return [Server(address_of(against), None)]
    echods = [start("--handler-threads", threads) for threads in ("1", "2")]
    return [Server(("127.0.0.1", echod.port), echod) for echod in echods]


Talk = tuple[Server, Conversation]


def hold_all(talks: Iterable[Talk], judge: Callable[[Conversation, list[bytes]], None]) -> None:
    """Some at a time; a failure shows its conversation, to be held again."""

    def hold_one(talk: Talk) -> None:
        server, conversation = talk
        try:
            judge(conversation, hold(server.address, conversation))
        except (AssertionError, OSError) as error:
            error.add_note(str(conversation)[:4000])
            raise

    with ThreadPoolExecutor(CLIENTS) as clients:
        deque(clients.map(hold_one, talks), maxlen=0)  # the first failure calls off the others


def assert_counted(server: Server, conversations: Iterable[Conversation]) -> None:
    """The exporter's counters are those of the conversations, to the byte."""
    if not (echod := server.echod):
        return
    said = [conversation.said for conversation in conversations] + [b""]
    assert converse(echod.port, b"") == b""  # in its turn: all the others have been accepted
    until(lambda: echod.metrics()("echod_connections_active") == 0)
    metrics = echod.metrics()
    lines = sum(data.count(b"\n") for data in said)
    complete = sum(data.rfind(b"\n") + 1 for data in said)
    assert {
        "opened": len(said),
        "requests": lines,
        "received": sum(map(len, said)),
        "sent": complete + lines * len(b"one "),
        "buffered": 0,
        "closed": sum(map(bool, said)),
        "unused": said.count(b""),
    } == {
        "opened": metrics("echod_connections_opened_total"),
        "requests": metrics("echod_requests_total"),
        "received": metrics("echod_received_bytes_total"),
        "sent": metrics("echod_sent_bytes_total"),
        "buffered": metrics("echod_buffered_bytes"),
        "closed": metrics("echod_connections_closed_total", reason="eof"),
        "unused": metrics("echod_connections_closed_total", reason="unused"),
    }


def test_the_corpus_of_conversations_is_large_readable_and_without_repetition() -> None:
    """Each conversation has a reason of its own, and an end."""
    conversations = corpus()
    assert len(conversations) >= 200
    assert len({one.why for one in conversations}) == len(conversations)
    assert len({tuple(map(str, one.steps)) for one in conversations}) == len(conversations)
    words = {">", "<", "pause", "small-window", "end", "close"}
    for one in conversations:
        assert {step.word for step in one.steps} <= words
        assert [step.word in {"end", "close"} for step in one.steps].index(True) == (
            len(one.steps) - 1
        )
        assert all(one.recorded), f"not recorded:\n{one}"
    assert CORPUS.stat().st_size < 100_000


def test_recorded_conversations_get_the_bytes_that_the_reference_gave(
    servers: list[Server],
) -> None:
    """At every point where the client looked, and by the model as well."""
    conversations = corpus()

    def judge(conversation: Conversation, replies: list[bytes]) -> None:
        assert conversation.recorded == [shown(reply) for reply in replies]
        assert expected(conversation.said) == b"".join(replies)

    hold_all([(server, one) for one in conversations for server in servers], judge)
    for server in servers:
        assert_counted(server, conversations)


# Generated ones.

LETTERS = "a bcdéßü世界אב😀\u2028\x85\r\t\0".encode()


def line(chance: random.Random) -> bytes:
    r"""Mostly short; noise may have newlines in it, and is more than one then."""
    size = chance.choice((0, 1, 2, 5, 20, 60, 200, 600))
    kind = chance.randrange(8)
    if kind < 3:
        return b"%x\n" % chance.getrandbits(4 * size + 1)
    return (
        chance.randbytes(size) + b"\n",
        LETTERS[: size % len(LETTERS)] + b"\r\n",
        b"\0" * size + b"\xff\n",
        bytes([chance.randrange(256)]) * size + b"\n",
        "é世😀".encode() * (size // 9) + b"\n",
    )[kind - 3]


def large(chance: random.Random) -> bytes:
    """Beyond what is read at once, or answered in one step."""
    size = chance.randrange(150_000)
    return (
        b"\n" * size,
        b"x" * size + b"\n",
        chance.randbytes(size),
        b"".join(b"%d\n" % number for number in range(size // 5)),
    )[chance.randrange(4)]


def huge(chance: random.Random) -> bytes:
    """Replies of which the sockets take a part at a time."""
    return b"".join(
        bytes([chance.randrange(128, 256)]) * chance.randrange(1 << 19, 1 << 20) + b"\n"
        for _ in range(5)
    )


def some_data(chance: random.Random) -> bytes:
    count = chance.choice((0, 1, 2, 2, 3, 5, 12))
    data = b"".join(line(chance) for _ in range(count))
    if not chance.randrange(100):
        data += large(chance)
    return data + line(chance)[:-1] if not count or chance.randrange(3) == 0 else data


def in_pieces(chance: random.Random, data: bytes) -> list[bytes]:
    way = chance.randrange(5)
    if way == 0 and len(data) <= 100:
        return cut(data, 1)
    if way <= 2:
        at = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(1, 7)))
        ends = zip([0, *at], [*at, len(data)], strict=True)
        return [data[begin:end] for begin, end in ends if begin < end]
    if way == 3:  # every line comes with the beginning of the next
        return cut(data, max(1, data.find(b"\n") + 2, len(data) // 20))
    return [data] if data else []


def generated(number: int) -> Conversation:
    """The same for the same number: half-closed, or answered and hung up."""
    chance = random.Random(f"{SEED}/{number}")
    slow = not chance.randrange(500)
    steps = [Step("small-window")] if slow else []
    looks = chance.choice((0.0, 0.0, 0.3, 1.0))
    for piece in in_pieces(chance, huge(chance) if slow else some_data(chance)):
        steps.append(Step(">", pieces=[piece]))
        if chance.random() < looks:
            steps.append(Step("<"))
    steps += [Step("<"), Step("close")] if chance.randrange(4) == 0 else [Step("end")]
    return Conversation(f"generated({number}), {SEED=}", steps)


def hold_generated(servers: list[Server], count: int) -> None:
    conversations = [generated(number) for number in range(count)]

    def judge(conversation: Conversation, replies: list[bytes]) -> None:
        assert expected(conversation.said) == b"".join(replies)

    hold_all([(server, one) for one in conversations for server in servers], judge)
    for server in servers:
        assert_counted(server, conversations)


def test_generated_conversations_get_the_bytes_of_the_model(servers: list[Server]) -> None:
    """And what was counted is what was said."""
    hold_generated(servers, 1500)


@pytest.mark.long
def test_ten_thousand_generated_conversations_get_the_bytes_of_the_model(
    servers: list[Server],
) -> None:
    """The same, and more of them."""
    hold_generated(servers, 10_000)
