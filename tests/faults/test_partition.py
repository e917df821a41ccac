"""Two hosts and a network between them: it loses packets, stands still for a while, or ends.

Counters are read inside echod's host, whose loopback loses nothing.
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from support import (
    PATIENCE,
    Echod,
    Metrics,
    Start,
    ask,
    command,
    expected,
    pause,
    read_exactly,
    read_to_end,
    until,
)

pytestmark = pytest.mark.long

LONGEST = 200.0  # seconds: for what waits for retransmissions, or for keep-alive
OUTAGE_SECONDS = 10.0
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def move_thread(namespace: int) -> None:
    # os.setns came with Python 3.12.
    if LIBC.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Host:
    """A network namespace. It ends with the process that holds it, and that one with this one."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        self.pid = self._holder.pid
        self._namespace = Path(f"/proc/{self.pid}/ns/net")
        self.enter = ["nsenter", "-t", str(self.pid), "--net"]
        home = Path("/proc/self/ns/net").readlink()
        until(lambda: self._namespace.readlink() != home)

    def run(self, script: str) -> str:
        result = subprocess.run(
            [*self.enter, "sh", "-euc", script],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The sockets that this thread makes meanwhile are of this host."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(self._namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            move_thread(there)
            try:
                yield
            finally:
                move_thread(home)
        finally:
            os.close(there)
            os.close(home)

    def close(self) -> None:
        assert self._holder.stdin
        self._holder.stdin.close()
        self._holder.wait(PATIENCE)


class Network:
    """Echod's host, its clients' host, and a wire."""

    addresses = ("10.9.0.1", "fd99::1")  # of echod's host

    def __init__(self, closing: ExitStack) -> None:
        self.server, self.clients = Host(), Host()
        closing.callback(self.clients.close)
        closing.callback(self.server.close)
        self.server.run(f"ip link add name wire type veth peer name wire netns {self.clients.pid}")
        for number, host in enumerate((self.server, self.clients), 1):
            # Segments of their own: what is lost is a packet, not a batch of forty. Neighbours
            # that are known: where three solicitations are lost, a host has "no route".
            peer = 3 - number
            host.run(f"""
                ip link set dev lo up
                ip address add 10.9.0.{number}/24 dev wire
                ip address add fd99::{number}/64 dev wire nodad
                ip link set dev wire address 02:00:00:00:00:0{number} gso_max_segs 1 up
                for address in 10.9.0.{peer} fd99::{peer}; do
                    ip neighbour add $address lladdr 02:00:00:00:00:0{peer} dev wire nud permanent
                done
            """)

    def lose(self, what: str = "", *hosts: Host) -> None:
        """From now on what arrives (at these hosts, or at both) vanishes."""
        # Not where it is sent: the sender would get an error.
        for host in hosts or (self.server, self.clients):
            host.run(f"""nft '
                table inet faults
                flush table inet faults
                table inet faults {{
                    chain arriving {{
                        type filter hook prerouting priority 0
                        iifname wire {what} counter drop
                    }}
                }}
            '""")

    def lost(self) -> int:
        """The packets that have vanished since."""
        hosts = (self.server, self.clients)
        rules = "".join(host.run("nft list table inet faults") for host in hosts)
        return sum(map(int, re.findall(r"packets (\d+)", rules)))

    def mend(self) -> None:
        for host in (self.server, self.clients):
            host.run("nft 'table inet faults; delete table inet faults'")


class Said(NamedTuple):
    """What a client has sent on a connection of its own; all of it was answered."""

    lines: int
    size: int


def said(data: bytes) -> Said:
    return Said(data.count(b"\n"), len(data))


class Scene:
    """An echod in a network of its own."""

    def __init__(
        self, start: Start, closing: ExitStack, *options: str, prefix: str = "one"
    ) -> None:
        self.network = network = Network(closing)
        self.prefix = prefix.encode()
        self.echod: Echod = start(
            *options,
            command=lambda *more: [*network.server.enter, *command(*more)],
            prefix=prefix,
        )
        self.port = self.echod.port
        self.files = self.echod.open_files()

    def client(self, host: str, **options: int) -> socket.socket:
        with self.network.clients.entered():
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            client = socket.socket(family, socket.SOCK_STREAM)
        client.settimeout(LONGEST)
        if "receive_buffer" in options:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["receive_buffer"])
        try:
            client.connect((host, self.port))
        except BaseException:
            client.close()
            raise
        return client

    def metrics(self) -> Metrics:
        with self.network.server.entered():
            return self.echod.metrics()

    def counted(self) -> dict[str, float]:
        names = (
            "connections_opened",
            "connections_closed",
            "requests",
            "received_bytes",
            "sent_bytes",
        )
        metrics = self.metrics()
        return {name: metrics(f"echod_{name}_total", port=self.port) for name in names}

    def wait_for_ends(self, count: int) -> None:
        def look() -> bool:
            pause(0.3, "scrapes without a pause are a load, for several minutes")
            return self.counted()["connections_closed"] >= count

        until(look, timeout=LONGEST)

    def must_have_counted(self, conversations: list[Said]) -> None:
        """That all of it was said on connections which have ended, by their clients, and once."""
        lines = sum(one.lines for one in conversations)
        size = sum(one.size for one in conversations)
        wanted = {
            "connections_opened": len(conversations),
            "connections_closed": len(conversations),
            "requests": lines,
            "received_bytes": size,
            "sent_bytes": size + lines * (len(self.prefix) + 1),
        }
        self.wait_for_ends(len(conversations))
        assert self.counted() == wanted
        self.must_have_let_go(eof=len(conversations))

    def must_have_let_go(self, **reasons: int) -> None:
        """That connections have ended for these reasons alone, and nothing of them is left."""
        metrics = self.metrics()
        for reason, count in reasons.items():
            assert metrics("echod_connections_closed_total", reason=reason) == count
        assert metrics("echod_connections_closed_total") == sum(reasons.values())
        assert metrics("echod_connections_active") == metrics("echod_buffered_bytes") == 0
        until(lambda: self.echod.open_files() == self.files)


def some_lines(number: int, count: int) -> bytes:
    chance = random.Random(number)
    return b"".join(b"%d %s\n" % (number, b"x" * chance.randrange(60)) for _ in range(count))


def half_closing(scene: Scene, host: str, data: bytes) -> Said:
    with scene.client(host) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == expected(data)
    return said(data)


def line_by_line(scene: Scene, host: str, data: bytes) -> Said:
    with scene.client(host) as client:
        for line in data.splitlines(keepends=True):
            ask(client, line)
    return said(data)


# Packets are lost.


def loss(scene: Scene) -> None:
    def talk(number: int) -> list[Said]:
        host = scene.network.addresses[number % 2]
        return [
            half_closing(scene, host, some_lines(number, 2000)),
            line_by_line(scene, host, some_lines(number, 30)),
            *(half_closing(scene, host, b"hello %d\n" % number) for _ in range(5)),
        ]

    scene.network.lose("numgen random mod 100 < 10")
    with ThreadPoolExecutor(60) as pool:
        conversations = [one for several in pool.map(talk, range(60)) for one in several]
    scene.must_have_counted(conversations)
    assert scene.network.lost() > len(conversations)


# The network stands still for a while.


class Outage:
    """Clients whose conversations it meets at every stage."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.begun, self.over = threading.Event(), threading.Event()

    def chat(self, host: str) -> Said:
        """A line now and then, before and after."""
        line, count, after = b"on and on\n", 0, 0
        with self.scene.client(host) as client:
            while after < 10:
                ask(client, line)
                count += 1
                after += self.over.is_set()
                self.over.wait(0.05)
        return said(line * count)

    def transfer(self, host: str) -> Said:
        """Block after block."""
        block, count, after = some_lines(7, 1500), 0, 0
        with self.scene.client(host) as client:
            while after < 10:
                client.sendall(block)
                assert read_exactly(client, len(expected(block))) == expected(block)
                count += 1
                after += self.over.is_set()
        return Said(block.count(b"\n") * count, len(block) * count)

    def take_slowly(self, host: str) -> Said:
        """Replies wait in echod when it begins."""
        data = b"".join(b"%06d\n" % number for number in range(300_000))
        with self.scene.client(host, receive_buffer=32768) as client:

            def send() -> None:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)

            with ThreadPoolExecutor(1) as pool:
                sending = pool.submit(send)
                received = []
                while not self.over.wait(0.05):
                    received.append(client.recv(1024))
                received.append(read_to_end(client))
                sending.result()
        assert b"".join(received) == expected(data)
        return said(data)

    def part(self, host: str) -> Said:
        """The last line and the half-close are sent into it."""
        with self.scene.client(host) as client:
            ask(client, b"x\n")
            assert self.begun.wait(LONGEST)
            client.sendall(b"last\n")
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == b"one last\n"
        return said(b"x\nlast\n")

    def vanish(self, host: str) -> Said:
        """Closed while it lasts."""
        with self.scene.client(host) as client:
            ask(client, b"x\n")
            assert self.begun.wait(LONGEST)
        return said(b"x\n")

    def keep_silent(self, host: str) -> Said:
        with self.scene.client(host) as client:
            ask(client, b"before\n")
            assert self.over.wait(LONGEST)
            ask(client, b"after\n")
        return said(b"before\nafter\n")

    def come(self, host: str) -> Said:
        """Connects while it lasts."""
        assert self.begun.wait(LONGEST)
        return half_closing(self.scene, host, b"hello\n")


def outage(scene: Scene) -> None:
    it = Outage(scene)
    ways: list[Callable[[str], Said]] = [
        *[it.chat] * 10,
        *[it.transfer] * 2,
        *[it.take_slowly] * 2,
        *[it.part, it.vanish, it.keep_silent, it.come] * 5,
    ]
    early = len(ways) - 5
    with ThreadPoolExecutor(2 * len(ways)) as pool:
        try:
            talking = [pool.submit(way, host) for way in ways for host in scene.network.addresses]
            until(lambda: scene.counted()["connections_opened"] == 2 * early)
            until(lambda: scene.counted()["requests"] > 20_000)
            until(lambda: scene.metrics()("echod_buffered_bytes") > 0)
            scene.network.lose()
            began = scene.counted()
            it.begun.set()
            pause(0.5, "for what was under way inside echod's host")
            before = scene.counted()
            pause(OUTAGE_SECONDS, "the outage")
            assert scene.counted() == before
            assert before["connections_closed"] == began["connections_closed"] == 0
        finally:
            scene.network.mend()
            it.begun.set()
            it.over.set()
        scene.must_have_counted([one.result(LONGEST) for one in talking])


# The clients are gone for good.

REJECT = """nft '
    table inet wall {
        chain arriving {
            type filter hook input priority 0
            iifname wire meta nfproto ipv4 reject with icmp port-unreachable
            iifname wire meta l4proto tcp reject with icmpv6 admin-prohibited
        }
    }
    delete table inet faults
'"""
DISAPPEARING: dict[str, Callable[[Network], object]] = {
    "dropped": lambda network: network.lose(),
    "unplugged": lambda network: network.clients.run("ip link set dev wire down"),
    "removed": lambda network: network.clients.run("ip link delete dev wire"),
    "rejected": lambda network: network.clients.run(REJECT),
}


def gone(scene: Scene, disappear: Callable[[Network], object]) -> None:
    network = scene.network
    # About 50 s of retransmissions, instead of a quarter of an hour.
    network.server.run("sysctl -qw net.ipv4.tcp_retries2=7")
    with ExitStack() as closing:
        idle, waiting = (
            [closing.enter_context(scene.client(host)) for host in network.addresses * 3]
            for _ in range(2)
        )
        for client in idle + waiting:
            ask(client, b"x\n", scene.prefix)
        stuck = closing.enter_context(scene.client(network.addresses[0], receive_buffer=4096))
        stuck.sendall(b"\n" * 60_000)
        until(lambda: scene.metrics()("echod_buffered_bytes") > 0)
        requests = scene.counted()["requests"]
        network.lose("", network.clients)
        for client in waiting:
            client.sendall(b"the reply to this is lost\n")
        until(lambda: scene.counted()["requests"] == requests + len(waiting))
        disappear(network)
        count = len(idle) + len(waiting) + 1
        scene.wait_for_ends(count)
    assert scene.counted()["connections_opened"] == count
    scene.must_have_let_go(timeout=count - 1, write_timeout=1)


@pytest.fixture(scope="module")
def acts(start_once: Start) -> Iterator[dict[str, Future[None]]]:
    """All at the same time: most of it is waiting."""
    assert os.geteuid() == 0, "these tests need root: hosts of their own"
    with ExitStack() as closing:
        lossy, still = Scene(start_once, closing), Scene(start_once, closing)
        # Long before the kernel gives up, so that it is certain which of them ends a connection.
        words = ("--write-timeout", "10")
        left = {way: Scene(start_once, closing, *words, prefix="x" * 1024) for way in DISAPPEARING}
        pool = closing.enter_context(ThreadPoolExecutor(2 + len(left)))  # waited for first
        yield {
            "loss": pool.submit(loss, lossy),
            "outage": pool.submit(outage, still),
            **{way: pool.submit(gone, left[way], DISAPPEARING[way]) for way in DISAPPEARING},
        }


def test_clients_get_every_byte_when_a_tenth_of_all_packets_is_lost(
    acts: dict[str, Future[None]],
) -> None:
    """In both directions: every client gets every byte, and all of it is counted once."""
    acts["loss"].result()


def test_conversations_go_on_after_ten_seconds_without_a_network(
    acts: dict[str, Future[None]],
) -> None:
    """Nothing is lost, nothing is counted twice, and no connection has closed meanwhile."""
    acts["outage"].result()


@pytest.mark.parametrize("way", DISAPPEARING)
def test_connections_of_clients_that_vanished_are_detected_and_closed(
    acts: dict[str, Future[None]], way: str
) -> None:
    """Found by keep-alive, or by a reply that is not acknowledged; by any error."""
    acts[way].result()
