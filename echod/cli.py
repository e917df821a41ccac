"""The command line: arguments in, exit status out."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from echod import __version__
from echod.config.options import EPILOG, OPTIONS, colors_wanted, load, setting
from echod.errors import SystemRefused, UsageError, refusals
from echod.texts import decoded, escaped, write_all

if TYPE_CHECKING:
    from echod.probe.runs import Output

STDOUT, STDERR = 1, 2
START_BYTES = 32 * 1024 * 1024
"""Most of the address space that the daemon needs to load and to start its threads. With less
(``ulimit -v``) the interpreter would fail during an import, in one of many ways."""

Environment = Mapping[str, str]


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError instead of exiting."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # From Python 3.14 on, argparse colors its texts if standard output is a terminal. It would
        # color even the usage, which goes to standard error.
        self.color = False

    def error(self, message: str) -> NoReturn:
        """Raise UsageError, in one line like every other usage error."""
        raise UsageError(f"{escaped(message[:200])} (see {self.prog} --help)")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Return the value ``--`` of ``-n--`` as a string, where Python 3.11 returns a list."""
        if arg_strings == ["--"] and action.option_strings:
            return "--"
        return super()._get_values(action, arg_strings)

    def _print_message(self, message: str, file: object = None) -> None:
        """Write help and version to standard output."""
        say(STDOUT, message)


def say(descriptor: int, text: str) -> None:
    """Write to standard output or error, unbuffered. Errors are ignored: a closed pipe does not
    change the exit status.
    """
    with suppress(OSError):
        write_all(descriptor, text)


def serve_parser() -> Parser:
    """The parser of the daemon's command line, made from the table of options."""
    parser = Parser(
        prog="echod",
        usage="echod PORTS PREFIX [options]\n       echod health [--metrics-port PORT]"
        "\n       echod probe HOST:PORT --expect NAME=SHARE,... [options]",
        description="Answers each line of a TCP client with PREFIX, a space and the line.",
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option in OPTIONS:
        default = f"; default: {option.default}" if option.default else ""
        text = f"{option.help}{default} [{option.environment}]".replace("%", "%%")
        if option.positional:
            parser.add_argument(option.name, nargs="?", metavar=option.metavar, help=text)
        else:
            parser.add_argument(option.flag, metavar=option.metavar, help=text)
    parser.add_argument("--version", action="version", version=f"echod {__version__}")
    return parser


def serve(arguments: Sequence[str], environ: Environment) -> int:
    """Run the daemon: ``echod PORTS PREFIX``."""
    with refusals("cannot load echod"):
        parser = serve_parser()
    if not arguments and not (environ.get("ECHOD_PORTS") or environ.get("ECHOD_PREFIX")):
        say(STDERR, parser.format_usage())
        return 2
    if len(arguments) == 2 and re.fullmatch("-([^-h].*|h.+)", arguments[1], re.DOTALL):
        arguments = ["--", *arguments]  # PORTS and a PREFIX with a dash, as deployments pass them
    with refusals("cannot load echod"):
        flags, unknown = parser.parse_known_args(arguments)
        if flags.prefix is None:
            flags.prefix, unknown = _parted_prefix(unknown)
        if unknown:
            parser.error(_unrecognized(unknown, flags.prefix))
        from echod.process.signals import StopSignals, ignore_others
        from echod.process.systemd import ServiceManager, inherited_sockets

    inherited = inherited_sockets(environ)
    with inherited.blamed():
        config = load(vars(flags), inherited.complete(environ))
        inherited.check(config)
        manager = ServiceManager(environ)
        ignore_others()
        with refusals("cannot install signal handlers"):
            signals = StopSignals()
        with signals:
            with refusals("cannot load echod"):
                from echod.loop.threads import reserve

                reserve(START_BYTES).close()
                from echod.process import daemon  # late: usage errors do not need it

            return daemon.serve(config, signals, inherited, manager)


def _parted_prefix(unknown: list[str]) -> tuple[str | None, list[str]]:
    """A PREFIX that options separate from PORTS, and the other arguments. Before Python 3.14
    argparse does not recognize such a PREFIX.
    """
    after_dashes = unknown[:1] == ["--"]
    rest = unknown[after_dashes:]
    if rest and (after_dashes or not rest[0].startswith("-")):
        return rest[0], rest[1:]
    return None, unknown


def _unrecognized(unknown: Sequence[str], prefix: str | None) -> str:
    """The error for arguments that argparse does not know. A single one may be meant as PREFIX:
    argparse accepts a PREFIX that begins with a dash only after --.
    """
    problem = "unrecognized arguments: " + " ".join(unknown)[:100]
    if prefix is None and len(unknown) == 1:
        return f"{problem} (if it is PREFIX: echod [options] -- PORTS PREFIX)"
    return problem


def health(arguments: Sequence[str], environ: Environment) -> int:
    """Check whether a running daemon is ready: ``echod health``."""
    with refusals("cannot check readiness"):
        return _health(arguments, environ)


def health_parser() -> Parser:
    """The parser of ``echod health``."""
    parser = Parser(
        prog="echod health",
        description="Queries /readyz on this host; exits with 0 if echod is ready, 1 otherwise.",
        allow_abbrev=False,
    )
    for option in OPTIONS:
        if option.name in ("metrics_address", "metrics_port"):
            text = f"as given to the daemon; default: {option.default} [{option.environment}]"
            parser.add_argument(option.flag, metavar=option.metavar, help=text)
    return parser


def _health(arguments: Sequence[str], environ: Environment) -> int:
    flags = health_parser().parse_args(arguments)
    port = setting("metrics_port", flags.metrics_port, environ)
    address = setting("metrics_address", flags.metrics_address, environ)
    if not port:
        say(STDOUT, "not ready: the metrics port is off (--metrics-port)\n")
        return 1
    from echod.process.health_check import ask_ready
    from echod.process.signals import release

    release()
    ready, answer = ask_ready(address, port)
    say(STDOUT, f"{answer}\n")
    return 0 if ready else 1


def probe(arguments: Sequence[str], environ: Environment) -> int:
    """Judge how connections are split between versions: ``echod probe``."""
    try:
        return _probe(arguments, environ)
    except (SystemRefused, OSError, ImportError) as error:  # the last two: no descriptor or memory
        problem = str(error)
    except (MemoryError, SystemError):  # Python 3.13: SystemError after some failed allocations
        problem = "out of memory on this host"
    say(STDERR, f"echod: error: {problem}\n")
    return 3


def probe_parser() -> Parser:
    """The parser of ``echod probe``."""
    from echod.probe.arguments import add_to

    parser = Parser(prog="echod probe", allow_abbrev=False)
    add_to(parser)
    return parser


def _probe(arguments: Sequence[str], environ: Environment) -> int:
    parser = probe_parser()
    if not arguments:
        say(STDERR, parser.format_usage())
        return 2
    from echod.probe.arguments import settings
    from echod.probe.files import print_text
    from echod.process.signals import StopSignals, ignore_others, release

    call = settings(parser.parse_args(arguments))
    output = _output(environ, print_text, quiet=call.quiet)
    if call.plan:
        from echod.probe.command import plan

        release()  # a signal may end it at once: there is no verdict to report
        return plan(call, output)
    with StopSignals() as signals:
        from echod.config.runtime import raise_open_file_limit, share_one_heap
        from echod.probe.command import run

        raise_open_file_limit()
        share_one_heap()
        if call.watch:
            from echod.watch.command import run as watch

            ignore_others()
            return watch(call, signals, colors=colors_wanted(environ))
        return run(call, signals, output)


def _output(environ: Environment, write: Callable[[str], None], *, quiet: bool) -> Output:
    """Where the probe or the lab writes; its progress line only to a terminal, on stderr."""
    from echod.probe.runs import Output

    live = os.isatty(STDERR) and environ.get("TERM") != "dumb" and not quiet
    return Output(
        say=write,
        progress=_Progress() if live else lambda _: None,
        warn=lambda text: say(STDERR, text),
    )


class _Progress:
    """A progress line that the next one overwrites, by spaces: some terminals have no escapes."""

    def __init__(self) -> None:
        self._columns = 0  # of the current line, at most

    def __call__(self, line: str) -> None:
        blanks = " " * (self._columns - len(line))
        self._columns = len(line.encode("utf-8", "backslashreplace"))
        say(STDERR, f"\r{line}{blanks}" + ("" if line else "\r"))


def lab_parser() -> Parser:
    """The parser of ``echod lab``."""
    from echod.lab.arguments import add_to

    parser = Parser(prog="echod lab", allow_abbrev=False)
    add_to(parser)
    return parser


def lab(arguments: Sequence[str], environ: Environment) -> int:
    """Run two versions behind an Envoy on this machine: ``echod lab``."""
    from echod.lab.arguments import Settings, settings

    call = settings(lab_parser().parse_args(arguments))
    from echod.probe.files import print_text
    from echod.process.signals import StopSignals

    try:
        from echod.lab.command import run
    except ModuleNotFoundError as error:
        raise SystemRefused(
            f"{error.name} is missing: install the extra lab (pip install '.[lab]' in a checkout)"
        ) from error
    with StopSignals(quits=True) as signals:
        # A lab that serves goes on without its terminal; any other result must arrive.
        serves = isinstance(call, Settings) and call.serve
        output = _output(environ, partial(say, STDOUT) if serves else print_text, quiet=False)
        # The lab's child processes get the original environment, not the decoded one.
        return run(call, os.environ, signals, output)


COMMANDS: Mapping[str, Callable[[Sequence[str], Environment], int]] = {
    "serve": serve,
    "health": health,
    "probe": probe,
    "lab": lab,
}


def run(argv: Sequence[str], environ: Environment) -> int:
    """Run the command in ``argv`` (without the program's name)."""
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:], environ)
    return serve(argv, environ)


def main(refused: int = 1) -> int:
    """Run ``echod``. Returns the exit status: 2 after a usage error, ``refused`` if the system
    refuses something.
    """
    if sys.platform == "win32":
        say(STDERR, "echod: error: echod runs on Linux and macOS; on Windows, run it in WSL\n")
        return 1
    try:
        with refusals("cannot load echod"):
            from echod.config.runtime import arguments, fill_standard_descriptors
        fill_standard_descriptors()
        environ = {decoded(name): decoded(value) for name, value in os.environb.items()}
        return run(arguments(), environ)
    except SystemExit as done:  # argparse, after --help and --version
        return int(done.code or 0)
    except UsageError as error:
        say(STDERR, f"echod: error: {error}\n")
        return 2
    except KeyboardInterrupt:  # in a command without signal handlers, such as health
        return 130
    except (SystemRefused, OSError, ImportError, MemoryError, SystemError) as error:
        say(STDERR, f"echod: error: {str(error) or 'out of memory'}\n")
        return refused
