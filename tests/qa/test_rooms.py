"""Imports point one way, and each room owns its tools."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

import echod

PACKAGE = ROOT / "echod"

LAYERS = [
    {"texts"},
    {"__init__", "parsers", "counters", "protocol", "poller", "probe", "lab", "probe.binomial"},
    {"config", "tuning", "probe.tally", "probe.webclient"},
    {"runtime", "threads", "timers", "heartbeat", "limits", "health", "capacity"},
    {"lab.processes", "lab.control"},
    {"listeners", "logs", "driver", "signals"},
    {"lab.weights", "lab.envoy"},
    {"lab.route", "lab.prometheus"},
    {"probe.arguments", "probe.expectation", "probe.planning", "probe.target", "probe.servers"},
    {"probe.sampler"},
    {"probe.verdict", "probe.hold"},
    {"probe.report"},
    {"probe.formats", "probe.runs"},
    {"probe.command", "lab.arguments", "lab.lab"},
    {"lab.command"},
    {"reports", "lingering", "metrics", "systemd"},
    {"pages"},
    {"exporter"},
    {"handler"},
    {"server"},
    {"service"},
    {"supervision"},
    {"daemon"},
    {"cli"},
    {"__main__"},
]  # fmt: skip

OWNERS = {
    "signal": {"__main__", "daemon", "signals", "supervision"},
    "prometheus_client": {"metrics", "probe.servers"},
    "structlog": {"logs", "reports"},
    "argparse": {"cli", "lab.arguments", "probe.arguments"},
    "socketserver": {"server", "handler"},
    "selectors": {"poller"},
    "select": {"poller", "logs"},
    "resource": {"runtime"},
}
"""Modules that only these rooms import."""

CALLS: dict[str, set[str]] = {
    "print": set(),
    "exit": {"__main__"},
    "os.environ": {"cli"},  # which hands it to config
    "os.environb": {"cli"},
    "getenv": set(),
    "_exit": set(),
}
"""Names that only these rooms use."""


@functools.cache
def modules() -> list[tuple[str, ast.Module]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found.append((name.removesuffix(".__init__"), ast.parse(path.read_text())))
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


def test_every_module_has_its_place() -> None:
    """A new room is a decision."""
    assert {name for name, _ in modules()} == set().union(*LAYERS)


@pytest.mark.parametrize("name", [name for name, _ in modules()])
def test_imports_point_one_way(name: str) -> None:
    """To layers below; within a layer only from right to left of nobody: no cycles."""
    graph = {module: set(echod_imports(tree)) for module, tree in modules()}
    assert all(layer(other) <= layer(name) for other in graph[name])
    seen, ahead = set(), set(graph[name])
    while ahead:
        seen |= ahead
        ahead = set().union(*(graph[other] for other in ahead)) - seen
    assert name not in seen


def echod_imports(tree: ast.Module) -> Iterator[str]:
    names = {name for name, _ in modules()}
    for module in imported(tree):
        _, _, name = module.partition("echod.")
        if module.startswith("echod.") and name in names:
            yield name


@pytest.mark.parametrize("tool", OWNERS)
def test_each_tool_has_its_room(tool: str) -> None:
    """Whoever looks for signals, metrics or arguments knows where."""
    users = {
        name
        for name, tree in modules()
        if any(module.split(".")[0] == tool for module in imported(tree))
    }
    assert users == OWNERS[tool]


@pytest.mark.parametrize("call", CALLS)
def test_printing_exiting_and_the_environment_have_theirs(call: str) -> None:
    """No module ends the process or speaks to the terminal but the command line."""
    users = set()
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name | ast.Attribute):
                used = ast.unparse(node)
                if used == call or used.endswith(f".{call}"):
                    users.add(name)
    assert users == CALLS[call]


def test_the_tests_run_on_the_installed_package() -> None:
    """What is tested is what a user gets."""
    assert Path(echod.__file__).parent != PACKAGE
    assert not Path(echod.__file__).is_relative_to(PACKAGE)


def test_modules_and_functions_can_be_seen_whole() -> None:
    """300 lines and 40 lines are where a second thing has usually crept in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        assert text.count("\n") <= 300, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 40, f"{path.name}: {node.name}"
