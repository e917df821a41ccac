"""Imports point one way, and each tool has its module."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

import echod

PACKAGE = ROOT / "echod"

ORDER = ("__main__", "cli", "process", "echo", "telemetry", "loop", "config", "errors", "texts")
"""The daemon: each imports what stands behind it."""

BESIDE = {
    "probe": {"probe", "loop.threads", "loop.tuning", "config", "errors", "texts"},
    "watch": {"watch", "probe", "telemetry", "loop", "config", "errors", "texts"},
    "lab": {"lab", "probe", "loop.listeners", "loop.threads", "config", "errors", "texts"},
}
"""The tools beside it, and what they may import."""

OWNERS = {
    "signal": {
        "probe.match_child",  # a process of its own
        "__main__",
        "process.daemon",
        "process.signals",
        "process.main_loop",
        "process.shutdown",
    },
    "prometheus_client": {"telemetry.metrics", "probe.servers"},
    "structlog": {"telemetry.events", "telemetry.log_writer"},
    "argparse": {"cli", "lab.arguments", "probe.arguments", "probe.watch_options"},
    "socketserver": {"echo.server", "echo.handler"},
    "selectors": {"loop.poller"},
    "select": {"loop.poller", "telemetry.log_writer"},
    "resource": {"config.runtime"},
}
"""Modules that only these import."""

CALLS: dict[str, set[str]] = {
    "print": set(),
    "exit": {"__main__"},
    "os.environ": {"cli"},  # which hands it to config
    "os.environb": {"cli"},
    "getenv": set(),
    "_exit": set(),
}
"""Names that only these modules use."""


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


def package(name: str) -> str:
    """The package that a module is in, or the module itself at the top."""
    return name.partition(".")[0]


def allowed(name: str) -> set[str]:
    """Packages and modules that a module may import."""
    if package(name) in BESIDE:
        return BESIDE[package(name)]
    if name == "cli":
        return {*ORDER[1:], *BESIDE}
    return set(ORDER[ORDER.index(package(name)) :])


@pytest.mark.parametrize("name", [name for name, _ in modules() if name != "__init__"])
def test_imports_point_one_way(name: str) -> None:
    """To packages behind it, and within a package never in a circle."""
    graph = {module: set(echod_imports(tree)) for module, tree in modules()}
    permitted = allowed(name)
    assert all(package(other) in permitted or other in permitted for other in graph[name])
    seen, ahead = set(), set(graph[name])
    while ahead:
        seen |= ahead
        ahead = set().union(*(graph[other] for other in ahead)) - seen
    assert name not in seen


ARROW = re.compile(r"^(\w+) +──► +(.*)$", re.MULTILINE)
"""A row of the picture in docs/architecture.md."""


def test_the_picture_shows_the_imports_between_packages() -> None:
    """All of them, and no other."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    shown = {(name, other) for name, others in ARROW.findall(page) for other in others.split()}
    real = {
        (package(name), package(other))
        for name, tree in modules()
        for other in echod_imports(tree)
        if package(name) != package(other)
    }
    assert shown == real


@pytest.mark.parametrize("name", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_the_table_of_packages_repeats_their_docstrings(name: str) -> None:
    """What a package knows, and must not know, is the same in both."""
    docstring = (ast.get_docstring(dict(modules())[name]) or "").split()
    table = (ROOT / "CONTRIBUTING.md").read_text()
    assert f"| `{name}` | {' '.join(docstring)} |\n" in table


def echod_imports(tree: ast.Module) -> Iterator[str]:
    names = {name for name, _ in modules()}
    for module in imported(tree):
        _, _, name = module.partition("echod.")
        if module.startswith("echod.") and name in names:
            yield name


@pytest.mark.parametrize("tool", OWNERS)
def test_each_tool_has_its_modules(tool: str) -> None:
    """Signals, metrics and arguments each have their modules."""
    users = {
        name
        for name, tree in modules()
        if any(module.split(".")[0] == tool for module in imported(tree))
    }
    assert users == OWNERS[tool]


@pytest.mark.parametrize("call", CALLS)
def test_printing_exiting_and_the_environment_have_their_modules(call: str) -> None:
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
    """320 lines and 40 lines are where a second thing has usually crept in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        assert text.count("\n") <= 320, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 40, f"{path.name}: {node.name}"


def test_accepted_sockets_are_read_and_written_without_waiting() -> None:
    """They are blocking ones: a call without DONT_WAIT would stop its event loop."""
    calls = set()
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and module != "loop.inbox":  # its sockets are its own
                call = ast.unparse(node)
                if re.match(r"self\.request\.(recv|send)", call):
                    assert call.endswith(", DONT_WAIT)"), (module, call)
                    calls.add(module)
    assert calls == {"echo.handler", "loop.lingering_close", "telemetry.exporter"}


@pytest.mark.parametrize("name", ["echo", "loop", "telemetry", "process"])
def test_the_daemon_holds_no_lock_by_a_with_statement(name: str) -> None:
    """To leave it may take memory; without any the lock would be held for ever."""
    for module, tree in modules():
        if package(module) == name:
            for node in ast.walk(tree):
                if isinstance(node, ast.With):
                    for item in node.items:
                        held = ast.unparse(item.context_expr)
                        assert not re.fullmatch(r"[\w.]*(lock|accepting)", held), (module, held)
