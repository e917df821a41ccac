"""The lab's page as it is served: real requests and versions, and one echod in place of Envoy."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, clean_environment, until

from echod.errors import SystemRefused
from echod.lab.page import page, server, watch
from echod.lab.page.app import App
from echod.lab.page.board import MOST_DOTS
from echod.lab.page.feed import MOST_TABS, Feed, event
from echod.lab.page.page import FIRST_RATE, Page
from echod.lab.page.server import LIMITS, Server
from echod.lab.page.traffic import THREADS
from echod.lab.page.watch import Said, ask
from echod.lab.processes import free_port
from echod.lab.version import State, Version
from echod.lab.weights import Weights
from echod.loop.threads import start
from echod.probe import hold, sampler
from echod.probe.sampler import AHEAD


@pytest.fixture
def version(tmp_path: Path) -> Iterator[Version]:
    ports = free_port(), free_port()  # it is started again on them
    made = Version("v1", ports, tmp_path, clean_environment(), drain_delay=0.1)
    made.wait()
    yield made
    made.stop()


def is_in(version: Version, state: State) -> bool:
    version.check()
    return version.state is state


def test_a_version_is_stopped_killed_and_started_again(version: Version) -> None:
    """On the same ports; a requested stop is no error of the lab."""
    ports, pid = (version.port, version.metrics_port), version.pid
    assert version.state is State.RUNNING
    with pytest.raises(SystemRefused, match="start v1: it is running"):
        version.start()
    version.terminate()
    until(partial(is_in, version, State.ENDED))
    with pytest.raises(SystemRefused, match="kill v1: it has ended"):
        version.kill()
    version.start()
    until(partial(is_in, version, State.RUNNING))
    assert (version.port, version.metrics_port) == ports
    assert version.pid != pid
    version.kill()
    until(partial(is_in, version, State.ENDED))
    for verb in ("stop", "drain"):
        with pytest.raises(SystemRefused, match=f"{verb} v1: it has ended"):
            version.terminate(verb)


def test_a_version_that_ends_unasked_is_an_error(version: Version) -> None:
    """As before: the lab ends with it."""
    os.kill(version.pid, 9)
    until(lambda: version.state is State.ENDED)
    with pytest.raises(SystemRefused, match="v1 has ended with status -9"):
        version.check()


def test_a_version_whose_port_is_taken_meanwhile_says_so(version: Version) -> None:
    """The lab continues, and the version can be started once the port is free."""
    version.kill()
    until(partial(is_in, version, State.ENDED))
    with socket.create_server(("127.0.0.1", version.port)):
        version.start()
        until(partial(is_in, version, State.ENDED))
        assert version.problem.startswith("v1 cannot be started: ")
    version.start()
    until(partial(is_in, version, State.RUNNING))
    assert version.problem == ""


def test_a_version_says_whether_it_is_ready_and_what_it_counted(version: Version) -> None:
    """Nothing once it has ended, and no counters of another server."""
    assert ask(version.metrics_url) == Said(200, "ok", 0, 0)
    version.kill()
    until(partial(is_in, version, State.ENDED))
    assert ask(version.metrics_url) == Said()


def test_a_server_without_counters_is_shown_as_such(served: Served) -> None:
    """Its answer to /readyz alone."""
    said = ask(f"http://127.0.0.1:{served.server.port}/metrics")
    assert said == Said(404, "not found; the page is at /", None, None)


@dataclass
class Served:
    """A page's server, without a lab."""

    feed: Feed = field(default_factory=Feed)
    server: Server = field(init=False)

    def __post_init__(self) -> None:
        self.server = Server(0, App(self.feed, lambda line: f"did {line}"))

    def request(self, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def watch(self) -> socket.socket:
        """A tab: a stream that has begun."""
        tab = socket.create_connection(("127.0.0.1", self.server.port), PATIENCE)
        host = f"Host: 127.0.0.1:{self.server.port}"
        tab.sendall(f"GET /events HTTP/1.1\r\n{host}\r\n\r\n".encode())
        return tab


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.feed.close(event("", "end"))
    made.server.stop()


def receive(tab: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end) and (piece := tab.recv(65536)):
        data += piece
    return data


def test_requests_are_answered_on_the_loopback_address_alone(served: Served) -> None:
    """Under the names of this host, with limits."""
    assert served.request("GET", "/")[0] == 200
    assert served.request("GET", "/", Host="evil.example")[0] == 403
    json_type = {"Content-Type": "application/json"}
    status, text = served.request("POST", "/command", '{"command": "judge"}', **json_type)
    assert (status, json.loads(text)) == (200, {"answer": "did judge"})
    assert served.request("POST", "/command", " " * 2_000, **json_type)[0] == 413
    too_long = {**json_type, "Content-Length": "20000"}
    assert served.request("POST", "/command", **too_long)[0] == 413
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", served.server.port))


def test_a_connection_goes_on_after_a_head_request(served: Served) -> None:
    """The next answer is that of the next request."""
    host = {"Host": f"127.0.0.1:{served.server.port}"}
    with closing(HTTPConnection("127.0.0.1", served.server.port, timeout=PATIENCE)) as connection:
        for path, status in (("/", 200), ("/nothing", 404), ("/events", 405)):
            connection.request("HEAD", path, headers=host)
            response = connection.getresponse()
            assert (response.status, response.read()) == (status, b"")
            assert connection.sock, path  # kept alive
        connection.request("GET", "/icon.svg", headers=host)
        assert connection.getresponse().read().startswith(b"<svg")


def test_a_taken_port_is_refused_in_one_line(served: Served) -> None:
    """It names the option and the port."""
    with pytest.raises(SystemRefused, match=rf"^--page-port {served.server.port}: .* in use"):
        Server(served.server.port, App(Feed(), str))


@pytest.mark.parametrize("number", [1, 3, LIMITS["threads"] + 1])
def test_a_thread_that_cannot_start_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever it is; those that run already end, and the port is free again."""
    left = number
    before = {one.name for one in threading.enumerate()}
    port = free_port()

    def start_or_refuse(threads: list[threading.Thread]) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise SystemRefused("cannot start thread 1 of 1: it does not run")
        start(threads)

    monkeypatch.setattr(server, "start", start_or_refuse)
    with pytest.raises(SystemRefused, match=rf"^--page-port {port}: cannot start thread 1 of 1: "):
        Server(port, App(Feed(), str))
    until(lambda: {one.name for one in threading.enumerate()} <= before)
    socket.create_server(("127.0.0.1", port)).close()


def test_a_tab_that_leaves_makes_room(served: Served) -> None:
    """With the next event at the latest; commands are answered whatever number of tabs there is."""
    tabs = [served.watch() for _ in range(MOST_TABS)]
    until(lambda: served.feed.tabs == MOST_TABS)
    assert served.request("GET", "/events")[0] == 503
    assert served.request("GET", "/")[0] == 200
    for tab in tabs:
        tab.close()

    def all_left() -> bool:
        served.feed.publish(event("more"), whole=True)
        return served.feed.tabs == 0

    until(all_left)


def test_an_unfinished_request_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, so that no client occupies the page's connections for long."""
    assert LIMITS["channel_timeout"] == 10
    own = dict(LIMITS, channel_timeout=0.1, cleanup_interval=0)
    monkeypatch.setattr("echod.lab.page.server.LIMITS", own)
    quick = Served()
    with socket.create_connection(("127.0.0.1", quick.server.port), PATIENCE) as client:
        client.sendall(b"GET / HTT")
        with suppress(ConnectionResetError):
            assert receive(client, b"never") == b""
    quick.feed.close(event("", "end"))
    quick.server.stop()


def test_the_end_is_told_to_a_tab(served: Served) -> None:
    """The last event, and then the end of the stream: no reset."""
    with served.watch() as tab:
        receive(tab, b"retry: 1000\n\n\r\n")
        served.feed.close(event("why", "end"))
        served.server.stop()
        assert receive(tab, b"never").endswith(b"event: end\ndata: why\n\n\r\n0\r\n\r\n")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.server.port))


def test_a_stop_writes_to_no_descriptor_that_is_not_its_own(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that has just answered wakes the server at the same time, as a stop does."""
    trigger, thread = served.server._server.trigger, served.server._thread
    pull, written = trigger._physical_pull, []

    def second() -> None:
        pull()
        thread.join(0.2)  # the server's thread makes the call of the stop, if it may
        written.append(trigger._fds != [])
        pull()

    monkeypatch.setattr(trigger, "_physical_pull", second)
    served.server.stop()
    assert written == [True]
    with pytest.raises(OSError, match="Bad file descriptor"):
        pull()  # a thread that the stop has abandoned: not whatever has the number now
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.server.port))


# A page with a lab, in which one echod answers for Envoy.


@dataclass
class Lab:
    """What a page sees of a lab."""

    port: int
    versions: dict[str, Version]
    weights: Weights = field(default_factory=lambda: {"v1": 100, "v2": 0})


@dataclass
class Shown:
    """A page that is polled by the test, and what it answers to commands."""

    lab: Lab
    page: Page
    commands: list[str] = field(default_factory=list)
    tabs: list[Tab] = field(default_factory=list)

    def answer(self, line: str) -> str:
        self.commands.append(line)
        return f"did {line}"

    def until(self, done: Callable[[], object]) -> None:
        def look() -> object:
            self.page.poll(self.answer)
            return done()

        until(look)

    @property
    def port(self) -> int:
        return int(self.page.url.rpartition(":")[2])


class Tab:
    """A tab of a page: a thread that keeps what the last event said."""

    def __init__(self, shown: Shown) -> None:
        self.shown = shown
        self.state: dict[str, Any] = {}
        self.whole: dict[str, Any] = {}
        self.dots = ""
        self.seconds: list[list[float]] = []
        self.end: dict[str, Any] | None = None
        self.connection = HTTPConnection("127.0.0.1", shown.port, timeout=PATIENCE)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        shown.tabs.append(self)

    def read(self) -> None:
        with closing(self.connection), closing(self.open()) as response:
            self.follow(response)

    def open(self) -> HTTPResponse:
        self.connection.request("GET", "/events")
        return self.connection.getresponse()

    def follow(self, response: HTTPResponse) -> None:
        name = ""
        while line := response.readline().decode():
            if line.startswith("event: "):
                name = line[7:].strip()
            elif line.startswith("data: "):
                data = json.loads(line[6:])
                if name == "end":
                    self.end = data
                    return
                self.dots += data["dots"]
                self.seconds += data["series"]
                self.whole = data if data.get("whole") else self.whole
                self.state = data  # last: others look at it

    def until(self, done: Callable[[dict[str, Any]], object]) -> None:
        self.shown.until(lambda: self.state and done(self.state))


@pytest.fixture
def shown(version: Version, tmp_path: Path) -> Iterator[Shown]:
    other = Version("v2", (0, 0), tmp_path, clean_environment())
    other.wait()
    lab = Lab(version.port, {"v1": version, "v2": other})
    made = Shown(lab, Page(lab, 0, "/own socket"))
    yield made
    made.page.stop("done")
    for tab in made.tabs:
        tab.thread.join(PATIENCE)
    other.stop()


def test_a_page_without_a_tab_makes_no_connection(shown: Shown) -> None:
    """It can be polled as often as one likes, and ended."""
    for _ in range(10):
        shown.page.poll(shown.answer)
    assert ask(shown.lab.versions["v1"].metrics_url).connections == 0


def test_a_tab_sees_traffic_judged(shown: Shown) -> None:
    """From the first event on: dots, the verdict, counts of both sides, and what to copy."""
    tab = Tab(shown)
    tab.until(lambda state: state["traffic"]["rate"] == FIRST_RATE)
    shown.page.set_traffic(200)
    tab.until(lambda state: state["verdict"]["status"] == "holds")
    assert tab.state["verdict"]["at"] == 59
    assert tab.state["verdict"]["lines"][0].startswith("holds: 59 connections do not contradict")
    assert set(tab.dots) == {"1"}
    tab.until(lambda state: all(one["version"] == "one" for one in state["stays"]))
    tab.until(lambda state: (state["versions"]["v1"]["connections"] or 0) > 59)
    tab.until(lambda _: sum(second[1] for second in tab.seconds) > 59)
    v1, v2 = tab.state["versions"]["v1"], tab.state["versions"]["v2"]
    assert (v1["state"], v1["ready"], v1["text"]) == ("running", 200, "ok")
    assert (v2["connections"], v2["seen"]) == (0, 0)
    commands = tab.whole["commands"]
    assert commands["shift"] == "echod lab shift 100/0 --socket '/own socket'"
    assert commands["probe"] == f"echod probe 127.0.0.1:{shown.lab.port} --expect one=100,two=0"
    shown.page.set_traffic(None)
    tab.until(lambda state: state["traffic"]["rate"] is None)

    def agree(state: dict[str, Any]) -> bool:
        v1 = state["versions"]["v1"]
        # Without those that a change found under way, or ended behind one that was.
        return bool(0 <= v1["connections"] - v1["seen"] <= 2 * AHEAD * THREADS)

    tab.until(agree)


def test_traffic_that_no_tab_sees_is_not_kept(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next tab's first dots are of now."""
    monkeypatch.setattr(page, "EVENT_SECONDS", 0.0)
    shown.page.set_traffic(200)
    metrics = shown.lab.versions["v1"].metrics_url
    shown.until(lambda: (ask(metrics).connections or 0) > 3 * MOST_DOTS)
    shown.page.set_traffic(None)  # ends all samples, so that there is none of now
    shown.page.poll(shown.answer)
    tab = Tab(shown)
    tab.until(lambda state: state["traffic"]["rate"] is None)
    assert (tab.whole["dots"], tab.whole["each"]) == ("", 1)


def refuse(*_: object, **__: object) -> None:
    raise SystemRefused("cannot start thread 1 of 1: no memory")


def test_a_first_tab_on_a_host_without_threads_says_so(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lab goes on, and starts what was refused when it can."""
    monkeypatch.setattr(watch, "start", refuse)
    monkeypatch.setattr(sampler, "start", refuse)
    monkeypatch.setattr(hold, "start", refuse)
    monkeypatch.setattr(watch, "AGAIN_SECONDS", 0.0)
    tab = Tab(shown)
    tab.until(lambda state: state["traffic"]["problem"])
    assert tab.state["traffic"]["problem"] == "cannot start thread 1 of 1: no memory"
    assert tab.state["traffic"]["rate"] is None
    texts = [text for _, text in tab.state["notes"]]
    assert texts == ["/readyz and counts: cannot start thread 1 of 1: no memory"]
    with pytest.raises(SystemRefused, match=r"^traffic 5: cannot start thread"):
        shown.page.set_traffic(5)
    other = watch.Watch({})
    assert [other.poll(0.0), other.poll(1.0)] == ["cannot start thread 1 of 1: no memory", ""]
    other.stop()
    monkeypatch.undo()
    tab.until(lambda state: state["versions"]["v1"]["ready"] == 200)
    shown.page.set_traffic(100)
    tab.until(lambda state: state["traffic"] == {"rate": 100, "problem": ""})
    tab.until(lambda state: state["verdict"]["total"])
    assert tab.whole["commands"]["traffic"].startswith("echod lab traffic 100")


def test_other_weights_and_faults_are_judged_anew(shown: Shown) -> None:
    """The verdict begins at nothing; new counters begin with a new process."""
    shown.page.set_traffic(100)
    tab = Tab(shown)
    tab.until(lambda state: state["verdict"]["status"] == "holds")
    tab.until(lambda state: all(one["version"] == "one" for one in state["stays"]))
    shown.lab.weights = {"v1": 0, "v2": 100}
    shown.page.note("now v1 0, v2 100", judged_anew=True)
    tab.until(lambda state: state["verdict"]["status"] == "differs")
    assert tab.state["verdict"]["at"] == 1
    assert [text for _, text in tab.state["notes"]] == ["now v1 0, v2 100"]
    shown.lab.weights = {"v1": 100, "v2": 0}
    shown.lab.versions["v1"].kill()
    shown.page.note("v1 is killed", judged_anew=True)
    tab.until(lambda state: state["verdict"]["status"] == "errors")
    tab.until(lambda _: "x" in tab.dots)
    tab.until(lambda state: all(one["version"] is None for one in state["stays"]))
    assert all(one["cuts"] == 1 for one in tab.state["stays"])
    tab.until(lambda state: state["versions"]["v1"]["ready"] == 0)
    assert tab.state["versions"]["v1"]["state"] == "ended"
    shown.lab.versions["v1"].start()
    tab.until(lambda state: state["verdict"]["status"] == "holds")
    texts = [text for _, text in tab.state["notes"]]
    assert texts[-2:] == ["v1 has ended", "v1 is ready"]
    tab.until(lambda state: all(one["version"] == "one" for one in state["stays"]))


def test_weights_without_a_verdict_say_why(shown: Shown) -> None:
    """Those that no number of connections could tell apart, and those that are not known."""
    tab = Tab(shown)
    tab.until(lambda state: state["verdict"])
    shown.lab.weights = {"v1": 1_000_000, "v2": 1}
    shown.page.note("now v1 1000000, v2 1", judged_anew=True)
    tab.until(lambda state: not state["verdict"])
    assert "at least a millionth of all" in tab.state["problem"]
    shown.lab.weights = {}
    shown.page.note("envoy does not take it", judged_anew=False)
    shown.page.note("judging anew", judged_anew=True)
    tab.until(lambda state: state["weights"] == {} and not state["problem"])


def test_tabs_agree_and_commands_reach_the_lab(shown: Shown) -> None:
    """Each tab sees the same; a command is done by the lab's own thread."""
    first, second = Tab(shown), Tab(shown)
    shown.until(lambda: first.state.get("time") == second.state.get("time") is not None)
    answers: list[str] = []

    def post() -> None:
        body = json.dumps({"command": "shift 50/50"})
        with closing(HTTPConnection("127.0.0.1", shown.port, timeout=PATIENCE)) as connection:
            connection.request("POST", "/command", body, {"Content-Type": "application/json"})
            answers.append(connection.getresponse().read().decode())

    asking = threading.Thread(target=post)
    asking.start()
    shown.until(lambda: answers)
    asking.join(PATIENCE)
    assert json.loads(answers[0]) == {"answer": "did shift 50/50"}
    assert shown.commands == ["shift 50/50"]


def test_a_tab_is_told_why_the_lab_ends(shown: Shown) -> None:
    """And the end does not wait for it."""
    tab = Tab(shown)
    tab.until(lambda state: state["time"])
    shown.page.stop("envoy has ended with status -9")
    tab.thread.join(PATIENCE)
    assert tab.end == {"reason": "envoy has ended with status -9"}


def test_the_watch_goes_on_when_a_version_does_not_answer(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks again, until it is stopped."""
    monkeypatch.setattr(watch, "EVERY_SECONDS", 0.01)
    watching = watch.Watch({"v1": version.metrics_url})
    assert watching.poll(0.0) == ""
    until(lambda: watching.said["v1"].ready == 200)
    version.kill()
    until(lambda: watching.said["v1"] == Said())
    watching.stop()
