"""What happens to a connection at which time, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

from support import ask, connect, connections, read_to_end, until
from support.running import Timed, connections_of

Make = Callable[..., Timed]


def closed(running: Timed, reason: str) -> float:
    return running.metrics()("echod_connections_closed_total", reason=reason)


def opened(running: Timed) -> int:
    """Those that a handler has begun to serve, by its clock."""
    return sum(len(connections_of(handler)) for handler in running.service.handlers)


def test_connections_made_together_do_not_end_together_at_their_age(timed: Make) -> None:
    """Ages are spread by a tenth to both sides, or all would come back in the same moment."""
    running = timed(max_connection_age="100")
    with connections(running.port, 100):
        until(lambda: opened(running) == 100)
        ended: list[float] = []
        for seconds in (89.8, 5.0, 10.0, 5.4):
            running.move(seconds - 1.1 * bool(ended))
            running.move(1.1)  # the second in which a line might still come
            ended.append(closed(running, "max_age"))
    assert ended[0] == 0
    assert 0 < ended[1] < ended[2] < 100
    assert ended[3] == 100


def test_a_connection_past_its_age_has_a_second_for_one_more_line(timed: Make) -> None:
    """The line is answered, and the connection closes right after it; silent clients are closed
    then.
    """
    running = timed(max_connection_age="10")
    with connect(running.port) as speaking, connect(running.port) as silent:
        for client in (speaking, silent):
            ask(client, b"x\n")
        running.move(11.1)  # past the age of both, whatever it is
        running.move(0.8)
        assert closed(running, "max_age") == 0
        ask(speaking, b"one more\n")
        assert read_to_end(speaking) == b""
        assert closed(running, "max_age") == 1
        running.move(0.4)
        assert read_to_end(silent) == b""
        assert closed(running, "max_age") == 2


def test_a_line_that_has_begun_past_the_age_is_waited_for(timed: Make) -> None:
    """In the same second; a line without its newline gets no answer."""
    running = timed(max_connection_age="10")
    with connect(running.port) as one, connect(running.port) as other:
        for client in (one, other):
            ask(client, b"x\n")
        running.move(11.1)
        for client in (one, other):
            client.sendall(b"half a li")
        received = "echod_received_bytes_total"
        until(lambda: running.metrics()(received) == 2 * len(b"x\nhalf a li"))
        running.move(0.8)
        assert closed(running, "max_age") == 0
        one.sendall(b"ne\n")
        assert read_to_end(one) == b"one half a line\n"
        running.move(0.4)
        assert read_to_end(other) == b""
        assert closed(running, "max_age") == 2


def test_a_drain_waits_a_second_for_the_first_line_of_a_new_client(timed: Make) -> None:
    """Counted from the connect, since its first line may be in flight. Silent clients are closed
    then.
    """
    running = timed()
    with connect(running.port) as asking, connect(running.port) as silent:
        until(lambda: opened(running) == 2)
        running.move(0.5)
        running.service.drain(60)
        running.move(0.4)
        assert closed(running, "drain") == 0
        ask(asking, b"just in time\n")
        assert read_to_end(asking) == b""
        assert closed(running, "drain") == 1
        running.move(0.3)
        assert read_to_end(silent) == b""
        assert closed(running, "drain") == 2


def test_a_client_that_does_not_close_delays_a_drain_by_less_than_half_a_second(
    timed: Make,
) -> None:
    """Past the time to drain; a second before that is what an end is given otherwise."""
    running = timed(handler_threads="1")
    (handler,) = running.service.handlers
    with connect(running.port) as staying:
        ask(staying, b"x\n")
        running.service.drain(0.1)
        running.move(0.3)
        assert read_to_end(staying) == b""
        assert handler.is_alive()  # the time to drain is over, but not for what it may still send
        running.move(0.4)
        assert not handler.is_alive()
