"""The command ``echod lab``: walking through the steps, serving, and requests to a lab."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic

from echod.errors import SystemRefused, UsageError
from echod.lab import control, requests, route
from echod.lab.arguments import Asking, Settings
from echod.lab.judging import ALPHA, rules_of
from echod.lab.lab import Lab
from echod.lab.page.manifests import terminal
from echod.lab.page.page import Page
from echod.lab.requests import Request
from echod.lab.version import State
from echod.lab.weights import VERSIONS, Weights, described
from echod.probe import report, servers
from echod.probe.judge import Sequential
from echod.probe.planning import limit
from echod.probe.result import Result
from echod.probe.runs import Output, Pace, Signals, sample
from echod.probe.target import Target
from echod.probe.verdict import Status

TIMEOUT_SECONDS = 5.0
DRAIN_DELAY_SECONDS = 1.0
"""With a page, a stopped version keeps serving this long while /readyz returns 503, to show it."""

_LOOK_SECONDS = 0.1
_PAGE_LOOK_SECONDS = 0.05


def run(
    call: Settings | Asking, environ: Mapping[str, str], signals: Signals, output: Output
) -> int:
    """Run the command; return the exit status. Raises UsageError and SystemRefused."""
    if isinstance(call, Asking):
        output.say(control.ask(call.socket, call.request.line) + "\n")
        return 0
    seen = _stamp(call.route)  # before the file is read, so that no later change is missed
    first = route.read(call.route) if call.route else call.steps[0]
    with_page = call.serve and call.page_port is not None
    delay = DRAIN_DELAY_SECONDS if with_page else 0.0
    control_socket = control.Control(call.socket)
    try:
        lab = Lab(call.port, first, environ, with_prometheus=call.prometheus, drain_delay=delay)
        page, problem = None, ""
        try:
            page = _page(call, lab, output) if with_page else None
            course = _Course(call, lab, page, control_socket, signals, output)
            return course.serve(seen) if call.serve else course.walk()
        except SystemRefused as error:
            problem = str(error)
            raise
        finally:
            output.progress("")
            try:
                if page:
                    page.stop(problem)
            finally:
                lab.stop()
    finally:
        control_socket.close()


def _page(call: Settings, lab: Lab, output: Output) -> Page | None:
    """The page. If it cannot be served, warn and run without a page."""
    try:
        return Page(lab, call.page_port or 0, _own_socket(call))
    except SystemRefused as error:
        output.warn(f"echod: warning: {error}; the lab runs without its page\n")
        return None


Stamp = tuple[int, int] | None


class _Interrupted(Exception):
    """A signal was received."""


class _Course:
    """A running lab, which walks through its steps or serves."""

    def __init__(
        self,
        settings: Settings,
        lab: Lab,
        page: Page | None,
        control_socket: control.Control,
        signals: Signals,
        output: Output,
    ) -> None:
        self._settings = settings
        self._lab = lab
        self._page = page
        self._control = control_socket
        self._signals = signals
        self._output = output
        output.say(f"Envoy on 127.0.0.1:{lab.port} splits connections between\n")
        for name, version in lab.versions.items():
            output.say(f"  {name} on 127.0.0.1:{version.port}, {version.metrics_url}\n")
        if lab.prometheus:
            output.say(f"Prometheus on http://127.0.0.1:{lab.prometheus.port}\n")
        if page:
            output.say(f"Page on {page.url}\n")

    def walk(self) -> int:
        """Walk through the steps, once or until a signal."""
        steps = self._settings.steps
        failed = False
        try:
            for number in itertools.count():
                if self._settings.once and number == len(steps):
                    break
                if number:
                    self._wait_for(self._settings.every)
                weights = steps[number % len(steps)]
                self._lab.shift(weights)
                self._output.say(f"\nstep {number % len(steps) + 1}: {described(weights)}\n")
                result = self._judge(weights)
                self._output.progress("")
                self._output.say(report.text(result))
                failed |= result.status is not Status.HOLDS
                if self._lab.weights != weights:
                    self._output.say("does not hold: the weights were changed meanwhile\n")
                    failed = True
        except _Interrupted:
            return 130 if self._settings.once else 0
        return int(failed)

    def serve(self, seen: Stamp) -> int:
        """Serve until a signal, and follow the route file."""
        settings, lab = self._settings, self._lab
        shift = terminal("shift 80/20", _own_socket(settings))
        self._output.say(f"{described(lab.weights)}; shift with: {shift}\n")
        with suppress(_Interrupted):
            while True:
                self._wait(_PAGE_LOOK_SECONDS if self._page else _LOOK_SECONDS)
                if settings.route and (now := _stamp(settings.route)) != seen:
                    seen = now
                    try:
                        self._shift(route.read(settings.route))
                    except (UsageError, SystemRefused) as error:
                        self._output.say(f"{error}; {described(lab.weights)} stay\n")
        return 0

    def _wait(self, seconds: float = _LOOK_SECONDS) -> None:
        """Wait, check the lab's processes, and answer requests."""
        if self._signals.wait(seconds):
            raise _Interrupted
        self._lab.check()
        self._control.poll(self._answer)
        if self._page:
            self._page.poll(self._answer)

    def _wait_for(self, seconds: float) -> None:
        end = monotonic() + seconds
        while monotonic() < end:
            self._wait(min(_LOOK_SECONDS, max(0.001, end - monotonic())))

    def _answer(self, line: str) -> str:
        """The answer to a line from another terminal or from the page."""
        try:
            return self._do(requests.parse(line.split()))
        except (UsageError, SystemRefused) as error:
            return f"{control.ERROR}{error}"

    def _do(self, request: Request) -> str:
        """Carry out a request; return what was done."""
        if request.verb == "shift":
            self._shift(request.weights)
            return f"now {described(self._lab.weights)}"
        if request.verb in ("traffic", "judge"):
            if not self._page:
                raise SystemRefused(f"{request.verb}: the lab runs without its page")
            if request.verb == "traffic":
                self._page.set_traffic(request.rate)
                return self._done(f"traffic {request.argument}", judged_anew=False)
            return self._done("judging anew")
        if not self._settings.serve:
            raise SystemRefused(f"{request.line}: the lab does not serve (--serve)")
        return self._fault(request.verb, request.argument)

    def _fault(self, verb: str, name: str) -> str:
        """Stop, kill, start or drain a version."""
        version = self._lab.versions[name]
        if verb == "drain":
            version.must_run(verb)  # a refused drain must not shift
            (other,) = set(VERSIONS) - {name}
            if self._lab.versions[other].state is not State.RUNNING:
                raise SystemRefused(f"drain {name}: {other} does not run")
            self._shift({one: 0 if one == name else 100 for one in VERSIONS})
        if verb == "start":
            version.start()
            return self._done(f"{name} is starting")
        if verb == "kill":
            version.kill()
            return self._done(f"{name} is killed")
        version.terminate(verb)
        return self._done(f"{name} is {'draining' if verb == 'drain' else 'stopping'}")

    def _done(self, text: str, *, judged_anew: bool = True) -> str:
        """Print what was done, and note it on the page."""
        self._output.progress("")
        self._output.say(f"{text}\n")
        if self._page:
            self._page.note(text, judged_anew=judged_anew)
        return text

    def _shift(self, weights: Weights) -> None:
        if weights != self._lab.weights:
            self._lab.shift(weights)
            self._done(f"now {described(weights)}")

    def _counts(self) -> servers.Counts:
        """The versions' counts so far."""
        self._lab.check()  # its error for an ended version says more than that of a failed read
        return servers.read(self._lab.metrics_urls)

    def _judge(self, weights: Weights) -> Result:
        """Judge whether connections follow these weights and the versions' counts match."""
        rules = rules_of(weights, ALPHA / len(self._settings.steps))
        before = self._counts()
        target = Target("127.0.0.1", self._lab.port, TIMEOUT_SECONDS)
        cap = self._settings.samples or limit(list(rules.tests.values()))
        pace = Pace(cap=cap, counted=True)
        judge = Sequential(rules)
        result = sample(target, rules, judge, pace, self._output, self._look_after)
        return replace(result, servers=self._counts().since(before))

    def _look_after(self) -> bool:
        """Called while samples are taken; an exception interrupts them."""
        self._wait(0.001)
        return False


def _own_socket(settings: Settings) -> str:
    """The lab's socket if it is not the default."""
    return "" if settings.socket == control.default_path() else settings.socket


def _stamp(path: str | None) -> Stamp:
    """A value that changes when the file is written or replaced."""
    if path is None:
        return None
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
