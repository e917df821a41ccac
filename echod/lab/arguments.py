"""The command line of ``echod lab``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass

from echod.config import parsers
from echod.config.options import Option
from echod.errors import UsageError
from echod.lab import requests
from echod.lab.control import default_path
from echod.lab.requests import Request
from echod.lab.weights import Weights, parse
from echod.texts import path

DESCRIPTION = """\
Istio's traffic shifting exercise on this machine: two echods (v1 answers "one", v2 "two") behind a
real Envoy, which splits connections by weight. Walks through the steps, shifts the weights of the
running Envoy, and judges each split as echod probe does.
"""

EPILOG = """\
examples:
  echod lab                                  walk through the exercise, repeatedly
  echod lab --once                           walk once: exit status 0 if every step holds, else 1
  echod lab --serve                          stay, with a page for a browser; from another
                                             terminal: echod lab shift 80/20
  echod lab --route k8s/istio/80-20/route.yaml   stay, with the weights of a manifest; save it to
                                             shift them
"""

STEPS = "100/0,80/20,50/50,0/100"

_OPTIONS = (
    Option(
        "port",
        parsers.port,
        "31400",
        "PORT",
        "Envoy's port on 127.0.0.1; default: 31400; 0: any free port, for the echods too",
    ),
    Option(
        "every",
        parsers.number("a number of seconds over 0, 86400 at most", 0, 86_400),
        "5",
        "SECONDS",
        "seconds between two steps; default: 5",
    ),
    Option(
        "samples",
        parsers.whole(1, 1_000_000),
        "",
        "N",
        "maximum connections per verdict; default: as many as it takes to detect 5 points",
    ),
    Option(
        "page_port",
        parsers.metrics_port,
        "31480",
        "PORT",
        "port of the page on 127.0.0.1 while the lab serves; default: 31480; 0: any free port;"
        " none turns it off",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a lab. Times are in seconds."""

    steps: Sequence[Weights]
    every: float
    samples: int | None
    port: int
    once: bool
    serve: bool
    route: str | None
    prometheus: bool
    page_port: int | None
    socket: str


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A request for a running lab: ``echod lab shift`` and its like."""

    request: Request
    socket: str


def add_to(parser: ArgumentParser) -> None:
    """Give a parser the lab's arguments."""
    parser.usage = (
        "echod lab [options]\n       echod lab shift WEIGHTS [--socket PATH]"
        "\n       echod lab stop|kill|start|drain v1|v2 [--socket PATH]"
        "\n       echod lab traffic RATE|off, or judge [--socket PATH]"
    )
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "words",
        nargs="*",
        metavar="shift WEIGHTS",
        help="change the weights of a running lab (80/20); stop, kill, start or drain v1 or v2"
        " (drain: shift the weights first); set the page's traffic in connections per second;"
        " restart the judgement",
    )
    add(
        "--steps",
        metavar="WEIGHTS,...",
        help=f"weights of v1 and v2 in each step; default: {STEPS}",
    )
    for option in _OPTIONS:
        add(option.flag, metavar=option.metavar, help=option.help)
    add("--once", action="store_true", help="walk through the steps once")
    add("--serve", action="store_true", help="stay at the first step until the weights change")
    add(
        "--route",
        metavar="FILE",
        help="serve with the weights of a VirtualService or TCPRoute, and follow the file",
    )
    add(
        "--prometheus",
        action="store_true",
        help="also run Prometheus, from the path, with the shipped configuration and rules",
    )
    add("--socket", metavar="PATH", help="socket of the running lab; default: one per user")


def settings(flags: Namespace) -> Settings | Asking:
    """The settings of a call. Raises UsageError."""
    socket = path(flags.socket) if flags.socket else default_path()
    if flags.words:
        return _asking(flags, socket)
    values = {option.name: option.of(vars(flags)[option.name]) for option in _OPTIONS}
    serve = flags.serve or bool(flags.route)
    if flags.once and (flags.serve or flags.route):
        raise UsageError("--once: must be given without --serve and --route")
    if flags.page_port is None and not values["port"]:
        values["page_port"] = 0
    elif flags.page_port is not None and not serve:
        raise UsageError("--page-port: must be given with --serve or --route")
    if flags.route == "":
        raise UsageError("--route '': must be the name of a file")
    if flags.route and flags.steps:
        raise UsageError("--route: must be given without --steps")
    steps = [parse("--steps", one) for one in (flags.steps or STEPS).split(",")]
    return Settings(
        steps=steps,
        once=flags.once,
        serve=serve,
        route=flags.route and path(flags.route),
        prometheus=flags.prometheus,
        socket=socket,
        **values,
    )


def _asking(flags: Namespace, socket: str) -> Asking:
    request = requests.parse(flags.words)
    others = [
        name for name, value in vars(flags).items() if value and name not in ("words", "socket")
    ]
    if others:
        option = others[0].replace("_", "-")
        raise UsageError(f"{request.verb}: must be given without --{option}")
    return Asking(request=request, socket=socket)
