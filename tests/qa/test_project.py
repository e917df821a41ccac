"""What the project promises about itself."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re

import pytest
from support import ROOT
from tables import TABLES, filled

import echod

README = (ROOT / "README.md").read_text()


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def names(requirements: str) -> set[str]:
    found = re.findall(
        r"^\s*([A-Za-z][\w-]*)(?:\[\w+\])?\s*(?:[<>=].*)?$", requirements, re.MULTILINE
    )
    return {name.lower() for name in found} - {"tcp-echod"}


def test_the_version_is_the_same_everywhere() -> None:
    """In the package, its metadata and the changelog's newest release."""
    assert importlib.metadata.version("tcp-echod") == echod.__version__
    first = re.search(r"^## (\d\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first
    assert first[1] == echod.__version__


@pytest.mark.parametrize("document", TABLES)
def test_the_tables_of_the_documents_are_those_of_the_code(document: str) -> None:
    """An option or a metric cannot be added without being documented."""
    assert filled(document) == (ROOT / document).read_text(), "run: make tables"


def test_the_readme_has_its_two_commands() -> None:
    """One runs it, one tests it, and both are targets."""
    makefile = (ROOT / "Makefile").read_text()
    for target in ("run", "test"):
        assert re.search(rf"^make {target}$", README, re.MULTILINE)
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_daemon_needs_two_packages_and_each_is_explained() -> None:
    """Dependencies are few, and named with their reason."""
    runtime = names(setup_cfg()["options"]["install_requires"])
    assert runtime == {"prometheus-client", "structlog"}
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    extras = setup_cfg()["options.extras_require"]
    for name in runtime.union(*(names(extras[extra]) for extra in extras)):
        assert re.search(rf"^\| .*\b{name}\b.* \|", contributing, re.MULTILINE), (
            f"{name} has no reason in CONTRIBUTING.md"
        )


@pytest.mark.parametrize("lock", sorted(one.stem for one in (ROOT / "requirements").iterdir()))
def test_the_locks_hold_every_requirement_with_hashes(lock: str) -> None:
    """And no address of the place they were made at."""
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    locked = set(re.findall(r"^([a-z][\w-]*)==", text, re.MULTILINE))
    extras = setup_cfg()["options.extras_require"]
    wanted = {"build": {"setuptools"}, "checkov": {"checkov"}}.get(lock)
    if wanted is None:
        wanted = names(setup_cfg()["options"]["install_requires"]) | names(extras.get(lock, ""))
    assert wanted <= locked
    for entry in re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in entry
    assert "://" not in text


def test_no_document_installs_somebody_elses_program() -> None:
    """echod on the package index is not this one."""
    documents = [path for path in ROOT.rglob("*.md") if ".venv" not in str(path)]
    assert documents
    for path in documents:
        assert not re.search(r"pip install (-\S+ )*echod\b", path.read_text()), path


def test_build_metadata_stays_three_lines() -> None:
    """Everything else is in setup.cfg."""
    assert len((ROOT / "pyproject.toml").read_text().splitlines()) == 3


def test_every_test_says_in_a_sentence_what_must_hold() -> None:
    """A failure is read by somebody who did not write the test."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert (ast.get_docstring(node) or "").endswith((".", ".)")), node.name
