from __future__ import annotations

import json
import threading
from argparse import ArgumentParser
from collections.abc import Iterable
from functools import partial
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import yaml
from support import PATIENCE, ROOT, until

from echod.errors import SystemRefused, UsageError
from echod.lab import judging, requests, route
from echod.lab.arguments import Settings, add_to
from echod.lab.arguments import settings as settings_of
from echod.lab.page import app, feed, guard, inbox, manifests, stays, traffic
from echod.lab.page.board import MOST_DOTS, SECONDS, Board
from echod.lab.weights import Weights
from echod.probe.hold import Change
from echod.probe.tally import Outcome
from echod.probe.target import Target
from echod.probe.verdict import Status

PORT = 31480


def shares(one: int, two: int) -> Weights:
    return {"v1": one, "v2": two}


# The requests that a lab accepts.


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("shift 080/20", "shift 80/20"),
        ("stop v1", "stop v1"),
        ("kill v2", "kill v2"),
        ("start v1", "start v1"),
        ("drain v2", "drain v2"),
        ("traffic off", "traffic off"),
        ("traffic 0500", "traffic 500"),
        ("judge", "judge"),
    ],
)
def test_a_request_is_read_and_spelled_in_one_way(words: str, line: str) -> None:
    """The page shows it as it is typed."""
    assert requests.parse(words.split()).line == line


def test_a_request_has_its_argument() -> None:
    """Weights, or a rate: None is no traffic."""
    assert requests.parse(["shift", "3/1"]).weights == shares(3, 1)
    assert requests.parse(["traffic", "7"]).rate == 7
    assert requests.parse(["traffic", "off"]).rate is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "'': must be shift WEIGHTS"),
        ("judge all", "'judge all': must be shift WEIGHTS"),
        ("shift", "'shift': must be shift WEIGHTS, for example shift 80/20"),
        ("shift <script>", "shift '<script>': must be the weights"),
        ("stop v3", "stop 'v3': must be v1 or v2"),
        ("traffic 0", "traffic '0': must be connections a second from 1 to 500, or off"),
        ("traffic 501", "traffic '501': must be"),
        ("traffic \u0661", "traffic '\\u0661': must be"),
    ],
)
def test_a_wrong_request_is_one_line(words: str, message: str) -> None:
    """It names the value, and what is allowed."""
    with pytest.raises(UsageError) as caught:
        requests.parse(words.split())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def settings(*words: str) -> Settings:
    parser = ArgumentParser()
    add_to(parser)
    made = settings_of(parser.parse_args(words))
    assert isinstance(made, Settings)
    return made


@pytest.mark.parametrize(
    ("words", "port"),
    [
        (["--serve"], 31480),
        (["--serve", "--port", "0"], 0),
        (["--serve", "--port", "0", "--page-port", "8080"], 8080),
        (["--route", "file", "--page-port", "none"], None),
    ],
)
def test_the_page_has_its_port_or_any_free_one(words: list[str], port: int | None) -> None:
    """Any, where the lab takes any; none turns it off."""
    assert settings(*words).page_port == port


# The verdict that follows the traffic.


def outcomes(*names: str | None) -> Iterable[Outcome]:
    return cycle([Outcome(name, "" if name else "reset", "cut") for name in names])


def judged(weights: Weights, samples: Iterable[Outcome]) -> judging.Following:
    judge = judging.Following(weights, "127.0.0.1:31400")
    for sample in samples:
        judge.take(sample)
    return judge


def fallen(judge: judging.Following) -> tuple[Status | None, int | None]:
    return judge.status, judge.stopped_at


@pytest.mark.parametrize(
    ("weights", "names", "status", "stops_at", "said"),
    [
        (shares(80, 20), ["one"], Status.DIFFERS, 40, "does not hold: one has 100.0 %"),
        (shares(80, 20), ["two"], Status.DIFFERS, 7, "does not hold: "),
        (shares(80, 20), ["one"] * 4 + ["two"], Status.HOLDS, 399, "holds: 399 connections do not"),
        (shares(100, 0), ["one"], Status.HOLDS, 59, "holds: 59 connections do not contradict"),
        (shares(100, 0), ["two"], Status.DIFFERS, 1, "does not hold: "),
    ],
)
def test_the_verdict_falls_where_the_probes_own_does(
    weights: Weights, names: list[str], status: Status, stops_at: int, said: str
) -> None:
    """At the same sample, in the same words, which then stay."""
    judge = judged(weights, islice(outcomes(*names), stops_at - 1))
    assert (judge.status, judge.stopped_at) == (None, None)
    if stops_at > 1:
        assert judge.lines()[0].startswith("inconclusive: ")
    for sample in islice(outcomes(*names), (stops_at - 1) % len(names), None):
        judge.take(sample)
        if judge.total == stops_at:
            assert (judge.status, judge.stopped_at) == (status, stops_at)
            assert judge.lines()[0].startswith(said)
            words = judge.lines()
        if judge.total == stops_at + 30:
            break
    assert (judge.status, judge.stopped_at, judge.lines()) == (status, stops_at, words)


def test_a_split_that_holds_is_still_tested_against() -> None:
    """The intervals narrow further; if only v2 answers, the verdict turns into a difference."""
    judge = judged(shares(80, 20), islice(outcomes(*["one"] * 4, "two"), 1_000))
    assert fallen(judge) == (Status.HOLDS, 399)
    (row, _) = judge.rows()
    assert row.high - row.low < 0.12
    for sample in islice(outcomes("two"), 300):
        judge.take(sample)
    status, stopped_at = fallen(judge)
    assert status is Status.DIFFERS
    assert 1_000 < (stopped_at or 0) < 1_300


def test_an_unexpected_version_after_a_pass_is_a_difference() -> None:
    """One is enough, and it is shown without its control characters."""
    judge = judged(shares(100, 0), islice(outcomes("one"), 60))
    judge.take(Outcome("<script>\n"))
    assert (judge.status, judge.stopped_at) == (Status.DIFFERS, 61)
    assert "<script>\\n is unexpected" in judge.lines()[0]


def test_failures_are_counted_on_after_the_verdict() -> None:
    """The verdict falls with the first of them."""
    judge = judged(shares(80, 20), islice(outcomes(*["one"] * 4, "two"), 400))
    assert fallen(judge) == (Status.HOLDS, 399)
    judge.take(Outcome(None, "reset", "connection reset"))
    assert fallen(judge) == (Status.ERRORS, 401)
    judge.take(Outcome(None, "reset", "connection reset"))
    assert judge.lines()[0].startswith("too many errors: 2 of 402 connections failed")
    assert judge.failed == 2


def test_weights_that_no_sample_could_tell_apart_are_refused() -> None:
    """A share under a millionth."""
    with pytest.raises(UsageError, match="a millionth"):
        judging.Following(shares(1_000_000, 1), "127.0.0.1:31400")


# Dots, and shares over time.


def test_samples_of_before_a_shift_are_not_judged() -> None:
    """They are still counted and shown."""
    board = Board()
    assert board.verdict() is None
    board.begin(judging.Following(shares(50, 50), "target"), 10.0)
    board.take(Outcome("one"), 9.9)
    board.take(Outcome("two"), 10.0)
    verdict = board.verdict()
    assert verdict
    assert (verdict["total"], verdict["status"], verdict["at"]) == (1, "unsure", None)
    assert [row["seen"] for row in verdict["rows"]] == [0, 1]
    assert board.answered == {"one": 1, "two": 1}
    assert board.dots() == ("12", 1)
    board.forget("one")
    assert board.answered == {"one": 0, "two": 1}


def test_many_samples_share_a_dot() -> None:
    """The number of them is said, and no event is larger for it."""
    board = Board()
    for name in ("one", None, "</script>"):
        board.take(Outcome(name), 0.0)
    assert board.dots() == ("1x?", 1)
    for _ in range(MOST_DOTS * 3):
        board.take(Outcome("one"), 0.0)
    assert board.dots() == ("1" * MOST_DOTS, 3)
    assert board.dots() == ("", 1)


def test_seconds_are_kept_for_five_minutes() -> None:
    """Answers by version, failures and weights of each; new ones are given once."""
    board = Board()
    board.tick(100, shares(80, 20))
    for name in ("one", "one", "two", None, "other"):
        board.take(Outcome(name), 0.0)
    board.tick(100, shares(80, 20))
    assert board.series(whole=False) == []
    board.tick(101, shares(80, 20))
    assert board.series(whole=False) == [[100, 2, 1, 1, 1, 80, 20]]
    assert board.series(whole=False) == []
    for second in range(102, 600):
        board.tick(second, {})
    series = board.series(whole=True)
    assert len(series) == SECONDS
    assert series[-1] == [598, 0, 0, 0, 0, 0, 0]


# Events for tabs.


def took(tab: feed.Tab) -> str:
    return next(tab).decode()


def test_a_tab_begins_with_all_and_follows() -> None:
    """Not before an event that says everything; then with each one."""
    stream = feed.Feed()
    tab = stream.watch()
    assert (stream.tabs, stream.wants_all) == (1, True)
    assert took(tab) == "retry: 1000\n\n"
    stream.publish(feed.event("a part"), whole=False)
    stream.publish(feed.event("all"), whole=True)
    stream.publish(feed.event("more"), whole=False)
    assert took(tab) == "data: all\n\ndata: more\n\n"
    tab.close()
    tab.close()
    assert [stream.tabs, stream.wants_all] == [0, False]


def test_a_tab_that_has_fallen_behind_begins_anew() -> None:
    """It requests a complete event, and gets nothing before it."""
    stream = feed.Feed()
    tab = stream.watch()
    stream.publish(feed.event("all"), whole=True)
    assert (took(tab), took(tab)) == ("retry: 1000\n\n", "data: all\n\n")
    for number in range(feed.KEPT + 1):
        stream.publish(feed.event(str(number)), whole=False)
    assert took(tab) == ":\n\n"
    assert stream.wants_all
    stream.publish(feed.event("all again"), whole=True)
    assert took(tab) == "data: all again\n\n"


def test_the_end_of_a_feed_ends_its_tabs() -> None:
    """After a last event, which newcomers get too."""
    stream = feed.Feed()
    tab = stream.watch()
    threading.Thread(target=lambda: stream.close(feed.event("why", "end"))).start()
    assert "".join(one.decode() for one in tab) == "retry: 1000\n\nevent: end\ndata: why\n\n"


def test_a_silent_feed_sends_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    """By which the server finds out that a tab has gone."""
    monkeypatch.setattr(feed, "ALIVE_SECONDS", 0.01)
    tab = feed.Feed().watch()
    assert (took(tab), took(tab)) == ("retry: 1000\n\n", ":\n\n")


def test_tabs_are_limited() -> None:
    """One that leaves makes room."""
    stream = feed.Feed()
    tabs = [stream.watch() for _ in range(feed.MOST_TABS)]
    with pytest.raises(feed.Full):
        stream.watch()
    tabs[0].close()
    stream.watch()


# Commands from tabs.


def test_commands_are_answered_by_the_labs_own_thread() -> None:
    """Each asker gets its own answer."""
    box, answers = inbox.Inbox(), []
    threads = [
        threading.Thread(target=lambda one=one: answers.append(box.ask(one))) for one in "ab"
    ]
    for thread in threads:
        thread.start()

    def answered() -> bool:
        box.poll(lambda line: f"did {line}")
        return len(answers) == 2

    until(answered)
    assert sorted(answers) == ["did a", "did b"]


def test_a_command_that_is_answered_as_busy_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is withdrawn, so that a second click does it once."""
    monkeypatch.setattr(inbox, "PATIENCE_SECONDS", 0.001)
    box = inbox.Inbox()
    done: list[str] = []
    for _ in range(inbox.MOST_WAITING + 1):
        assert box.ask("kill v1") == inbox.BUSY

    def do(line: str) -> str:
        done.append(line)
        return "did it"

    box.poll(do)
    assert done == []


def test_a_lab_with_many_waiting_commands_is_busy_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait are done in order."""
    box = inbox.Inbox()
    done: list[str] = []

    class Patient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return True  # at once, instead of a thread for each

    def do(line: str) -> str:
        done.append(line)
        return "did it"

    monkeypatch.setattr(inbox, "Event", Patient)
    lines = [f"traffic {number}" for number in range(1, inbox.MOST_WAITING + 1)]
    for line in lines:
        box.ask(line)
    assert box.ask("one more") == inbox.BUSY
    box.poll(do)
    assert done == lines


def test_a_command_that_is_being_done_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes: it is not called busy."""
    box = inbox.Inbox()
    answers: list[str] = []
    being_done, waits_on = threading.Event(), threading.Event()

    class Late(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout is None:
                waits_on.set()
                return super().wait(PATIENCE)
            being_done.wait(PATIENCE)
            return False

    monkeypatch.setattr(inbox, "Event", Late)
    asking = threading.Thread(target=lambda: answers.append(box.ask("shift 80/20")))
    asking.start()

    def take_long(line: str) -> str:
        being_done.set()
        until(lambda: waits_on.is_set() or answers)
        return f"did {line}"

    until(lambda: box.poll(take_long) or being_done.is_set())  # type: ignore[func-returns-value]
    asking.join(PATIENCE)
    assert answers == ["did shift 80/20"]


def test_a_command_that_ends_the_lab_is_answered() -> None:
    """Not as busy: there is no lab for another try."""
    box = inbox.Inbox()
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(box.ask("b")))
    asking.start()

    def fail(line: str) -> str:
        raise SystemRefused(line)

    def failed() -> bool:
        try:
            box.poll(fail)
        except SystemRefused:
            return True
        return False

    until(failed)
    asking.join(PATIENCE)
    assert answers == [inbox.ENDED]


# Requests.


class Answered:
    """What an application has answered to a request."""

    def __init__(self, served: app.App, method: str, path: str, body: bytes, **more: str) -> None:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "HTTP_HOST": f"127.0.0.1:{PORT}",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": BytesIO(body),
            **more,
        }
        self.status = 0
        self.headers: dict[str, str] = {}
        self.pieces = served(environ, self.start)

    def start(self, status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
        self.status, self.headers = int(status[:3]), dict(headers)

    @property
    def text(self) -> str:
        return b"".join(self.pieces).decode()


JSON = {"CONTENT_TYPE": "application/json"}


class Page:
    """An application, and the commands that it has passed to the lab."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.feed = feed.Feed()
        self.app = app.App(self.feed, self.answer)
        self.app.port = PORT

    def answer(self, line: str) -> str:
        self.asked.append(line)
        return "error: no" if line == "wrong" else f"did {line}"

    def get(self, path: str, **more: str) -> Answered:
        return Answered(self.app, "GET", path, b"", **more)

    def post(self, body: bytes = b'{"command": "judge"}', /, **more: str) -> Answered:
        return Answered(self.app, "POST", "/command", body, **{**JSON, **more})


@pytest.fixture
def page() -> Page:
    return Page()


def test_the_page_and_its_files_are_served(page: Page) -> None:
    """With a policy that allows nothing else, under 150 KB in all, without another host."""
    files = app.files()
    assert "/" in files
    assert sum(len(content) for _, content in files.values()) < 150_000
    for path, (kind, content) in files.items():
        answer = page.get(path)
        assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        text = answer.text
        assert text.encode() == content
        places = set(text.split("://")[1:])
        assert all(one.startswith("www.w3.org/2000/svg") for one in places), path
    html = page.get("/").text
    assert " style=" not in html
    assert "<script>" not in html
    assert not any(f" on{name}=" in html for name in ("click", "load", "error"))


@pytest.mark.parametrize("path", ["/", "/page.js", "/nothing", "/events", "/command"])
@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", "evil.example"])
def test_a_head_request_has_the_headers_alone(page: Page, path: str, host: str) -> None:
    """A body would be taken for the next response."""
    head = Answered(page.app, "HEAD", path, b"", HTTP_HOST=host)
    assert list(head.pieces) == []
    if path in app.files():
        get = page.get(path, HTTP_HOST=host)
        assert (head.status, head.headers) == (get.status, get.headers)
        assert int(head.headers["Content-Length"]) == len(get.text.encode())


def test_scripts_never_make_markup_of_text() -> None:
    """What servers and files say is put in as text."""
    for path, (_, content) in app.files().items():
        for word in (
            b"innerHTML",
            b"outerHTML",
            b"insertAdjacentHTML",
            b"document.write",
            b"eval(",
        ):
            assert word not in content, path


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_the_page_answers_under_the_names_of_this_host(page: Page, host: str) -> None:
    """Each with the port."""
    assert page.get("/", HTTP_HOST=f"{host}:{PORT}").status == 200
    assert page.post(HTTP_HOST=f"{host}:{PORT}", HTTP_ORIGIN=f"http://{host}:{PORT}").status == 200


@pytest.mark.parametrize(
    "more",
    [
        {"HTTP_HOST": ""},
        {"HTTP_HOST": "127.0.0.1"},
        {"HTTP_HOST": "127.0.0.1:80"},
        {"HTTP_HOST": f"evil.example:{PORT}"},
        {"HTTP_HOST": f"127.0.0.1.evil.example:{PORT}"},
        {"HTTP_HOST": f"127.0.0.1:{PORT}, evil.example"},
        {"HTTP_ORIGIN": "http://evil.example"},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_ORIGIN": f"https://127.0.0.1:{PORT}"},
        {"HTTP_ORIGIN": "http://127.0.0.1:80"},
        {"HTTP_ORIGIN": f"http://localhost:{PORT}"},
        {"HTTP_SEC_FETCH_SITE": "cross-site"},
        {"HTTP_SEC_FETCH_SITE": "same-site"},
        {"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_SEC_FETCH_MODE": "navigate"},
    ],
)
def test_requests_of_other_sites_are_refused(page: Page, more: dict[str, str]) -> None:
    """Whatever they ask for, and nothing is done."""
    for answer in (page.post(**more), page.get("/events", **more), page.get("/", **more)):
        assert answer.status == 403
        assert answer.text.count("\n") == 1
    assert page.asked == []
    assert page.feed.tabs == 0


def test_a_link_on_another_site_opens_the_page_and_nothing_else(page: Page) -> None:
    """That is how a chat or a document leads to it."""
    link = {
        "HTTP_SEC_FETCH_SITE": "cross-site",
        "HTTP_SEC_FETCH_MODE": "navigate",
        "HTTP_SEC_FETCH_DEST": "document",
    }
    assert page.get("/", **link).status == 200
    assert page.get("/events", **link).status == 403
    assert page.post(**link).status == 403
    assert page.get("/", **{**link, "HTTP_SEC_FETCH_DEST": "iframe"}).status == 403


def test_a_command_is_handed_to_the_lab(page: Page) -> None:
    """Its answer comes back, with a status that says whether it was done."""
    done = page.post(b'{"command": "shift 80/20"}', HTTP_SEC_FETCH_SITE="same-origin")
    assert (done.status, json.loads(done.text)) == (200, {"answer": "did shift 80/20"})
    wrong = page.post(b'{"command": "wrong"}')
    assert (wrong.status, json.loads(wrong.text)) == (409, {"answer": "no"})
    assert page.asked == ["shift 80/20", "wrong"]


@pytest.mark.parametrize(
    ("body", "more", "status"),
    [
        (b"shift", {}, 400),
        (b"[]", {}, 400),
        (b"{}", {}, 400),
        (b'{"command": 5}', {}, 400),
        (b"\xff", {}, 400),
        (b"[" * 1_000, {}, 400),
        (b"x" * 1_025, {}, 413),
        (b"", {"CONTENT_LENGTH": "99999"}, 413),
        (b"", {"CONTENT_LENGTH": ""}, 411),
        (b"", {"CONTENT_LENGTH": "-1"}, 411),
        (b'{"command": "judge"}', {"CONTENT_TYPE": "text/plain"}, 415),
        (b'{"command": "judge"}', {"CONTENT_TYPE": "application/x-www-form-urlencoded"}, 415),
        (b'{"command": "judge"}', {"CONTENT_TYPE": ""}, 415),
    ],
)
def test_a_body_that_is_no_command_is_refused(
    page: Page, body: bytes, more: dict[str, str], status: int
) -> None:
    """In one line, and nothing is done."""
    answer = page.post(body, **more)
    assert (answer.status, answer.text.count("\n")) == (status, 1)
    assert page.asked == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/command", 405),
        ("POST", "/events", 405),
        ("POST", "/", 405),
        ("GET", "/../page.py", 404),
        ("GET", "/index.html", 404),
        ("OPTIONS", "/command", 405),
    ],
)
def test_other_methods_and_paths_are_refused(
    page: Page, method: str, path: str, status: int
) -> None:
    """A method with those that are allowed."""
    answer = Answered(page.app, method, path, b"")
    assert answer.status == status
    assert ("Allow" in answer.headers) is (status == 405)


def test_the_stream_is_for_so_many_tabs(page: Page) -> None:
    """One more is refused, and has no place."""
    for _ in range(feed.MOST_TABS):
        assert page.get("/events").headers["Content-Type"] == "text/event-stream"
    assert page.get("/events").status == 503
    assert page.feed.tabs == feed.MOST_TABS


def test_the_guard_knows_the_port_alone() -> None:
    """Nothing else is let in."""
    assert guard.hosts(1) == {"127.0.0.1:1", "localhost:1", "[::1]:1"}


# The same in a cluster.

STEPS = {
    "all-v1": shares(100, 0),
    "80-20": shares(80, 20),
    "50-50": shares(50, 50),
    "all-v2": shares(0, 100),
}


@pytest.mark.parametrize("step", STEPS)
def test_the_shown_routes_are_those_of_the_exercise(step: str, tmp_path: Path) -> None:
    """As k8s/ applies them, with its namespace, and the lab itself reads them."""
    for kind, text in (
        ("istio", manifests.virtual_service(STEPS[step])),
        ("gateway-api", manifests.tcp_route(STEPS[step])),
    ):
        directory = ROOT / "k8s" / kind / step
        shipped = list(yaml.safe_load_all((directory / "route.yaml").read_text()))
        settings = yaml.safe_load((directory / "kustomization.yaml").read_text())
        for one in shipped:
            one["metadata"]["namespace"] = settings["namespace"]
        assert list(yaml.safe_load_all(text)) == shipped
        (tmp_path / "route.yaml").write_text(text)
        read = route.read(str(tmp_path / "route.yaml"))
        total = sum(read.values())
        assert {name: 100 * weight // total for name, weight in read.items()} == STEPS[step]


def test_commands_name_the_socket_of_the_lab() -> None:
    """If it is not the usual one, and quoted as a shell needs it."""
    assert manifests.terminal("judge") == "echod lab judge"
    assert manifests.terminal("judge", "a b") == "echod lab judge --socket 'a b'"
    rows = manifests.faults()
    assert [row["do"] for row in rows[:4]] == ["stop v1", "kill v1", "start v1", "drain v1"]


def test_faults_in_a_cluster_need_nothing_but_a_checkout() -> None:
    """No variable of a shell; namespace, names and labels are those of k8s/."""
    (made,) = yaml.safe_load_all((ROOT / "k8s/mesh/namespace.yaml").read_text())
    namespace = made["metadata"]["name"]
    for row in manifests.faults():
        verb, version = row["do"].split()
        deployment = next(
            one
            for one in yaml.safe_load_all((ROOT / f"k8s/base/{version}.yaml").read_text())
            if one["kind"] == "Deployment"
        )
        text, name = row["cluster"], deployment["metadata"]["name"]
        assert "$" not in text
        *first, last = text.split(" && ")
        assert last.startswith(f"kubectl -n {namespace} ")
        labels = ",".join(
            f"{key}={value}" for key, value in deployment["spec"]["selector"]["matchLabels"].items()
        )
        ends = {
            "stop": f"scale deployment/{name} --replicas=0",
            "drain": f"scale deployment/{name} --replicas=0",
            "start": f"scale deployment/{name} --replicas={deployment['spec']['replicas']}",
            "kill": f"delete pod -l {labels} --grace-period=0 --force",
        }
        assert last.endswith(f" {ends[verb]}")
        other = {"v1": "all-v2", "v2": "all-v1"}[version]
        assert first == ([f"kubectl apply -k k8s/istio/{other}"] if verb == "drain" else [])
        assert (ROOT / "k8s/istio" / other).is_dir()


# What this host may refuse.


def refuse(*_: Any, **__: Any) -> Any:
    raise SystemRefused("cannot start thread 1 of 1")


def test_traffic_that_this_host_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no traffic; the next rate tries again."""
    monkeypatch.setattr(traffic, "Sampler", refuse)
    made = traffic.Traffic(Target("127.0.0.1", 1, 1.0), Board().take)
    made.set(5)
    assert (made.rate, made.problem) == (None, "cannot start thread 1 of 1")
    made.set(None)
    assert made.problem == ""
    made.poll()


def test_traffic_that_ends_for_want_of_descriptors_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sampler's own reason."""

    class Refused:
        refused = SystemRefused("no free file descriptor")

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def stop(self) -> None:
            pass

    monkeypatch.setattr(traffic, "Sampler", Refused)
    made = traffic.Traffic(Target("127.0.0.1", 1, 1.0), Board().take)
    made.set(5)
    assert (made.rate, made.problem) == (5, "")
    made.poll()
    assert [made.rate, made.problem] == [None, "no free file descriptor"]


class Held:
    """A held connection without one: the test puts in what happens to it."""

    def __init__(self, made: list[Held], *_: Any) -> None:
        self.changes: SimpleQueue[Change] = SimpleQueue()
        self.refused: SystemRefused | None = None
        self.stopped = False
        made.append(self)

    def become(self, before: str | None, version: str | None, detail: str = "") -> None:
        self.changes.put(Change(1, before, version, detail, 1.0))

    def stop(self, timeout: float) -> None:
        self.stopped = True


def test_a_connection_that_stays_comes_back_when_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a moment in which that can be seen; its cuts and its opened ones are counted."""
    made: list[Held] = []
    monkeypatch.setattr(stays, "Held", partial(Held, made))
    kept = stays.Stays(Target("127.0.0.1", 1, 1.0), 100.0, count=1)
    kept.poll(100.0)
    assert len(made) == 1
    made[0].become(None, "one")
    kept.poll(101.0)
    assert kept.view(105.0) == [{"version": "one", "age": 4, "cuts": 0, "why": ""}]
    made[0].become("one", None, "closed: closed before a reply")
    kept.poll(110.0)
    assert kept.view(110.0)[0] == {
        "version": None, "age": 0, "cuts": 1, "why": "closed: closed before a reply",
    }  # fmt: skip
    kept.poll(110.5)
    assert len(made) == 1
    kept.poll(111.0)
    made[1].become(None, "<b>")
    kept.poll(111.0)
    assert kept.view(111.0)[0]["version"] == "?"
    assert kept.opened == {"one": 1, "two": 0, "?": 1}
    made[1].become("<b>", "two")
    kept.poll(112.0)
    assert kept.opened["two"] == 0
    kept.stop()
    assert made[1].stopped


def test_a_connection_that_this_host_refuses_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At its start, or later without a free descriptor; the reason is shown."""
    made: list[Held] = []
    monkeypatch.setattr(stays, "Held", refuse)
    kept = stays.Stays(Target("127.0.0.1", 1, 1.0), 100.0, count=1)
    kept.poll(100.0)
    assert kept.view(100.0)[0]["why"] == "cannot start thread 1 of 1"
    kept.stop()
    monkeypatch.setattr(stays, "Held", partial(Held, made))
    kept.poll(101.0)
    made[0].refused = SystemRefused("no free file descriptor")
    kept.poll(101.0)
    assert kept.view(101.0)[0]["why"] == "no free file descriptor"
    kept.poll(102.0)
    assert len(made) == 2
