from __future__ import annotations

import signal
import socket
import threading

import pytest
from support import (
    NEVER,
    Clock,
    Metrics,
    Start,
    altered,
    ask,
    connect,
    connections,
    expected,
    get,
    pending,
    read_exactly,
    read_to_end,
    unsent_bytes,
    until,
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_signal_shuts_echod_down_gracefully_and_logs_totals(
    start: Start, number: int
) -> None:
    """Exit status 0, and the last event accounts for every port."""
    echod = start(ports="0,0")
    with connect(echod.port) as client:
        ask(client, b"x\n")
        echod.process.send_signal(number)
        assert read_to_end(client) == b""
    assert echod.wait() == 0
    draining, last = echod.event("draining"), echod.events()[-1]
    assert (draining["signal"], draining["connections"]) == (signal.Signals(number).name, 1)
    assert (last["event"], last["cut"]) == ("stopped", 0)
    assert [total["port"] for total in last["totals"]] == echod.ports
    assert last["totals"][0]["closed"] == last["totals"][0]["opened"] == 1
    (ended,) = echod.events("connection closed")
    assert ended["reason"] == "drain"


def test_echod_keeps_accepting_and_answering_during_the_drain_delay(
    start: Start, clock: Clock
) -> None:
    """Endpoints lag: new connections come for a while after the signal."""
    echod = start(
        "--drain-delay", str(NEVER), "--drain-timeout", str(NEVER), "--idle-timeout", "none",
        command=clock.command,
    )  # fmt: skip
    with connect(echod.port) as before:
        echod.terminate()
        echod.event("draining")
        until(lambda: echod.get("/readyz")[:2] == (503, b"draining\n"))
        with connect(echod.port) as late:
            ask(late, b"late\n")
            ask(before, b"before\n")
            clock.move(NEVER)
            assert echod.wait() == 0
            assert (read_to_end(late), read_to_end(before)) == (b"", b"")


def test_a_half_closed_client_gets_every_reply_however_slowly_it_takes_them(start: Start) -> None:
    """Input that waited behind unsent replies when the signal came is answered as well."""
    echod = start("--drain-timeout", str(NEVER))
    data = b"".join(b"%06d\n" % number for number in range(300_000))
    with connect(echod.port, receive_buffer=4096) as client:

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        until(lambda: echod.metrics()("echod_buffered_bytes") > 0)
        received = [client.recv(1 << 16)]
        while sender.is_alive() or unsent_bytes(client):
            received.append(client.recv(1 << 16))
        echod.terminate()  # now that all of it and the half-close have arrived
        received.append(read_to_end(client))
        assert b"".join(received) == expected(data)
    assert echod.wait() == 0
    assert echod.events()[-1]["cut"] == 0


def test_data_that_arrived_before_the_signal_is_answered(start: Start) -> None:
    """For clients that stay connected too: whole lines, a prefix of their replies, no reset."""
    echod = start("--drain-timeout", str(NEVER))
    data = b"".join(b"%06d\n" % number for number in range(20_000))
    with connections(echod.port, 20) as clients:
        for client in clients:
            ask(client, b"x\n")
            client.sendall(data)
        echod.terminate()
        for client in clients:
            assert expected(data).startswith(received := read_to_end(client))
            assert received.endswith(b"\n")
    assert echod.wait() == 0
    assert echod.events()[-1]["cut"] == 0


def test_clients_that_never_stop_sending_do_not_delay_the_drain(start: Start) -> None:
    """What arrives after the signal is dropped; the connection ends at the end of a line."""
    echod = start("--drain-timeout", str(NEVER))
    outcomes: list[bytes] = []

    def talk() -> None:
        with connect(echod.port) as client:
            reader = threading.Thread(target=lambda: outcomes.append(read_to_end(client)))
            reader.start()
            while reader.is_alive():
                try:
                    client.sendall(b"on and on\n" * 100)
                except ConnectionError:
                    break
            reader.join()

    threads = [threading.Thread(target=talk) for _ in range(4)]
    for thread in threads:
        thread.start()
    # All of them: one that connects too late would be refused.
    until(lambda: echod.metrics()("echod_connections_opened_total") == len(threads))
    until(lambda: echod.metrics()("echod_requests_total") > 1000)
    echod.terminate()
    assert echod.wait() == 0
    assert echod.events()[-1]["cut"] == 0
    for thread in threads:
        thread.join()
    for outcome in outcomes:
        assert outcome == b"one on and on\n" * (len(outcome) // 14)


def test_clients_that_do_not_read_are_cut_off_at_the_drain_timeout(
    start: Start, clock: Clock
) -> None:
    """And counted; not before, and the exit is still in order."""
    echod = start(
        "--drain-timeout", str(NEVER), "--write-timeout", "none", "--idle-timeout", "none",
        command=clock.altered(process__shutdown__LATE_LOOKS=10_000),
    )  # fmt: skip
    with pending(echod), connect(echod.port) as healthy:
        ask(healthy, b"x\n")
        echod.terminate()
        assert read_to_end(healthy) == b""
        clock.move(NEVER / 2)
        assert echod.get("/readyz")[0] == 503
        clock.move(NEVER / 2)
        assert echod.wait() == 0
    last = echod.events()[-1]
    assert (last["event"], last["cut"]) == ("stopped", 1)
    assert last["totals"][0]["opened"] == last["totals"][0]["closed"] == 2  # the thread cut it


def test_a_drain_waits_for_clients_to_close_but_not_for_ever(start: Start) -> None:
    """Nothing more comes from either side."""
    echod = start("--drain-timeout", str(NEVER))
    with connect(echod.port) as client:
        ask(client, b"x\n")
        echod.terminate()
        assert read_to_end(client) == b""
        assert echod.wait() == 0


@pytest.mark.parametrize("timeout", ["0", "0.05", "1.3"])
def test_a_drain_ends_at_any_drain_timeout(start: Start, timeout: str) -> None:
    """With a client that takes nothing, and a scraper that has its answer and stays."""
    echod = start(
        "--drain-timeout", timeout, "--write-timeout", "none",
        command=altered(
            loop__lingering_close__LINGER_SECONDS=NEVER,
            telemetry__exporter__DEADLINE_SECONDS=NEVER,
            process__shutdown__LATE_LOOKS=10_000,
        ),
    )  # fmt: skip
    with pending(echod), connect(echod.metrics_port) as scraper:
        scraper.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert read_to_end(scraper).endswith(b"ok\n")
        echod.terminate()
        assert echod.wait() == 0
    last = echod.events()[-1]
    assert last["cut"] == last["totals"][0]["closed"] == 1


def test_ends_that_come_together_with_the_signal_are_counted_once(start: Start) -> None:
    """Half-closes and a drain in the same round, while other clients keep the thread busy."""
    echod = start("--drain-timeout", str(NEVER))
    stop = threading.Event()

    def pipeline() -> None:
        with connect(echod.port) as client:
            try:
                while not stop.is_set():
                    client.sendall(b"x\n" * 5000)
                    client.recv(1 << 20)
            except ConnectionError:
                pass

    busy = [threading.Thread(target=pipeline) for _ in range(8)]
    for thread in busy:
        thread.start()
    with connections(echod.port, 500) as clients:
        for client in clients:
            ask(client, b"x\n")
        for number, client in enumerate(clients):
            client.shutdown(socket.SHUT_WR)
            if number == 250:
                echod.terminate()
        assert echod.wait() == 0
    stop.set()
    for thread in busy:
        thread.join()
    (total,) = echod.events()[-1]["totals"]
    assert total["closed"] == total["opened"]
    assert {event["level"] for event in echod.events()} == {"info"}


def can_connect(port: int) -> bool:
    try:
        connect(port).close()
    except OSError:
        return False
    return True


def test_the_accept_queue_is_emptied_before_the_port_closes(start: Start) -> None:
    """Connections that were made but not yet accepted when the signal comes are served, too."""
    echod = start(command=altered(echo__server__LAST_ACCEPTS_SECONDS=NEVER))
    port = echod.port
    echod.freeze()
    with connections(port, 250) as waiting:  # more than are accepted at one wake
        for client in waiting:
            client.sendall(b"x\n")
            client.shutdown(socket.SHUT_WR)
        echod.terminate()
        echod.thaw()
        for client in waiting:
            assert read_to_end(client) == b"one x\n"
    assert echod.wait() == 0
    assert echod.events()[-1]["totals"][0]["opened"] == 250
    assert not can_connect(port)


def test_the_port_can_be_bound_again_at_once(start: Start) -> None:
    """A server that closes first leaves TIME_WAIT behind."""
    first = start()
    port = first.port
    with connect(port) as client:
        ask(client, b"x\n")
        first.stop()
    second = start(ports=str(port))
    with connect(second.port) as client:
        ask(client, b"x\n")
    second.stop()


def test_a_stalled_reader_of_the_log_delays_neither_service_nor_stop(start: Start) -> None:
    """Echoing continues, dropped events are counted, and SIGTERM still ends it."""
    theirs, ours = socket.socketpair()
    with theirs, ours:
        echod = start("--log-level", "debug", "--metrics-port", "0", ports="0", stdout=ours)
        log = b""
        while b'"ready"' not in log:
            log += theirs.recv(65536)
        port = int(log.partition(b"listening on [::]:")[2].partition(b",")[0])
        metrics_port = int(log.partition(b"metrics on [::]:")[2].partition(b'"')[0])
        with connect(port) as client:
            for _ in range(50):
                client.sendall(b"line\n" * 100)
                read_exactly(client, 900)
        dropped = Metrics(get(metrics_port, "/metrics")[1].decode())
        assert dropped("echod_log_events_dropped_total") > 0
        assert dropped("echod_requests_total") == 5000
        echod.terminate()
        assert echod.wait() == 0
