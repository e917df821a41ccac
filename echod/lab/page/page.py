"""The page as a whole, which the lab starts, updates and stops."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Protocol

from echod.errors import SystemRefused, UsageError
from echod.lab.judging import Following
from echod.lab.page import manifests
from echod.lab.page.app import App
from echod.lab.page.board import Board
from echod.lab.page.feed import Feed, event
from echod.lab.page.inbox import Inbox
from echod.lab.page.server import HOST, Server
from echod.lab.page.stays import Stays
from echod.lab.page.traffic import Traffic
from echod.lab.page.watch import Said, Watch
from echod.lab.requests import MOST_RATE
from echod.lab.version import State, Version
from echod.lab.weights import VERSIONS, Weights, expectation
from echod.probe.target import Target

FIRST_RATE = 20
EVENT_SECONDS = 0.1
TIMEOUT_SECONDS = 5.0
MOST_NOTES = 6


class Shown(Protocol):
    """The part of a lab that its page uses."""

    port: int
    weights: Weights

    @property
    def versions(self) -> Mapping[str, Version]:
        """The versions of echod by name."""


@dataclass(frozen=True)
class _Company:
    """The parts that run once a tab is open: polling the versions, and long-lived connections."""

    watch: Watch
    stays: Stays


class Page:
    """A page, served from its construction until ``stop``. The caller's thread must call ``poll``.

    It makes no connection before a first tab is open. ``socket`` is the lab's, if it is not the
    default. Raises SystemRefused if the port is in use.
    """

    def __init__(self, lab: Shown, port: int, socket: str = "") -> None:
        self._lab = lab
        self._socket = socket
        self._feed = Feed()
        self._inbox = Inbox()
        self._board = Board()
        self._target = Target("127.0.0.1", lab.port, TIMEOUT_SECONDS)
        self._traffic = Traffic(self._target, self._board.take)
        self._company: _Company | None = None
        self._notes: deque[tuple[float, str]] = deque(maxlen=MOST_NOTES)
        self._states: dict[str, State] = {}
        self._judged: Weights = {}
        self._judge_since = 0.0
        self._problem = ""
        self._said: Mapping[str, Said] = {}
        self._seen: Mapping[str, int] = {}
        self._whole = False
        self._due = 0.0
        self._server = Server(port, App(self._feed, self._inbox.ask))

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self._server.port}"

    def poll(self, answer: Callable[[str], str]) -> None:
        """Answer commands, update the connections, and send events to the tabs. Call it often."""
        self._inbox.poll(answer)
        if not self._company and self._feed.tabs:
            with suppress(SystemRefused):  # the page shows it
                self.set_traffic(FIRST_RATE)
        if self._company:
            self._look_after(self._company)

    def note(self, text: str, *, judged_anew: bool) -> None:
        """Show what was done. After new weights or a fault, restart the judgement."""
        self._notes.append((time(), text))
        self._whole = True
        if judged_anew:
            self._judge_anew()

    def set_traffic(self, rate: int | None) -> None:
        """Set the traffic's rate in connections per second; None: no traffic. Raises SystemRefused
        if this host refuses the traffic.
        """
        if not self._company:
            versions = self._lab.versions.items()
            self._states = {name: version.state for name, version in versions}
            self._company = _Company(
                Watch({name: version.metrics_url for name, version in versions}),
                Stays(self._target, monotonic()),
            )
            self._judge_anew()
        self._traffic.set(rate)
        self._whole = True
        if self._traffic.problem:
            raise SystemRefused(f"traffic {rate}: {self._traffic.problem}")

    def stop(self, reason: str = "") -> None:
        """Stop the page, and send ``reason`` to the tabs."""
        self._feed.close(event(json.dumps({"reason": reason}), "end"))
        self._traffic.stop()
        if self._company:
            self._company.stays.stop()
            self._company.watch.stop()
        self._server.stop()

    def _look_after(self, company: _Company) -> None:
        now = monotonic()
        self._look_at_versions(company)
        refused = company.watch.poll(now)
        if refused:
            self._notes.append((time(), f"/readyz and counts: {refused}"))
        self._count(company)
        self._traffic.poll()
        company.stays.poll(now)
        self._board.tick(int(time()), self._lab.weights)
        if now >= self._due:
            self._due = now + EVENT_SECONDS
            dots = self._board.dots()  # without a tab too, or they would pile up for the next one
            if self._feed.tabs:
                self._publish(dots, company.stays.view(now))

    def _publish(self, dots: tuple[str, int], stays: list[dict[str, Any]]) -> None:
        whole = self._whole or self._feed.wants_all
        self._whole = False
        self._feed.publish(event(json.dumps(self._view(dots, stays, whole=whole))), whole=whole)

    def _judge_anew(self) -> None:
        self._problem = ""
        self._judge_since = time()
        self._judged = dict(self._lab.weights)
        try:
            judge = Following(self._judged, str(self._target)) if self._judged else None
        except UsageError as error:  # weights that no number of connections could distinguish
            judge, self._problem = None, str(error)
        self._board.begin(judge, monotonic())

    def _look_at_versions(self, company: _Company) -> None:
        for name, version in self._lab.versions.items():
            before, state = self._states[name], version.state
            self._states[name] = state
            if state is before:
                continue
            if state is State.ENDED:
                self._notes.append((time(), version.problem or f"{name} has ended"))
            if state is State.STARTING:  # its counters restart at 0
                self._board.forget(VERSIONS[name])
                company.stays.opened[VERSIONS[name]] = 0
            if state is State.RUNNING:
                self.note(f"{name} is ready", judged_anew=True)

    def _count(self, company: _Company) -> None:
        """Record the clients' counts whenever new counts of the versions have been read."""
        said = company.watch.said
        if said is not self._said:
            opened, answered = company.stays.opened, self._board.answered
            self._said = said
            self._seen = {name: answered[one] + opened[one] for name, one in VERSIONS.items()}

    def _view(
        self, dots: tuple[str, int], stays: list[dict[str, Any]], *, whole: bool
    ) -> dict[str, Any]:
        """The changing part of the page's data, or with ``whole`` all of it."""
        verdict = self._board.verdict()
        view: dict[str, Any] = {
            "time": round(time(), 3),
            "weights": self._lab.weights,
            "traffic": {"rate": self._traffic.rate, "problem": self._traffic.problem},
            "dots": dots[0],
            "each": dots[1],
            "verdict": verdict and {**verdict, "since": self._judge_since},
            "problem": self._problem,
            "stays": stays,
            "versions": {name: self._of(name) for name in self._lab.versions},
            "series": self._board.series(whole=whole),
            "notes": list(self._notes),
        }
        return view | (self._rest() if whole else {})

    def _rest(self) -> dict[str, Any]:
        weights, socket = self._judged, self._socket
        target = f"127.0.0.1:{self._lab.port}"
        shift = "/".join(str(weight) for weight in weights.values())
        return {
            "whole": True,
            "most_rate": MOST_RATE,
            "target": target,
            "commands": {
                "shift": manifests.terminal(f"shift {shift}", socket),
                "probe": f"echod probe {target} --expect {expectation(weights)}",
                "judge": manifests.terminal("judge", socket),
                "traffic": manifests.terminal(f"traffic {self._traffic.rate or 'off'}", socket),
                "faults": manifests.faults(socket),
                "virtual_service": manifests.virtual_service(weights),
                "tcp_route": manifests.tcp_route(weights),
            },
        }

    def _of(self, name: str) -> dict[str, Any]:
        version, said = self._lab.versions[name], self._said.get(name, Said())
        return {
            "prefix": VERSIONS[name],
            "state": self._states[name],
            "pid": version.pid,
            "port": version.port,
            "metrics": version.metrics_url,
            "ready": said.ready,
            "text": said.text,
            "connections": said.connections,
            "requests": said.requests,
            "seen": self._seen.get(name, 0),
        }
