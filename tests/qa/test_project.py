"""What the project promises about itself."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import release
from rules import made
from support import ROOT, call
from support.pages import blocks, pages

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


def test_the_changelog_tells_each_change_once() -> None:
    """In each section: a release publishes its own as notes."""
    text = (ROOT / "CHANGELOG.md").read_text()
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        entries = re.split(r"^- ", section, flags=re.MULTILINE)[1:]
        words = [set(re.findall(r"\w{4,}", entry.lower())) for entry in entries]
        for number, one in enumerate(words):
            for other in words[:number]:
                assert len(one & other) < 0.7 * min(len(one), len(other)) + 3, (one, other)


def test_files_name_the_version_of_this_release() -> None:
    """In calls to copy, manifests and the build."""
    found = release.places()
    assert {"README.md", "Dockerfile", "k8s/base/kustomization.yaml"} < set(found)
    for name, versions in found.items():
        assert set(versions) == {echod.__version__}, name


def test_a_release_names_its_version_everywhere(tmp_path: Path) -> None:
    """And dates the changelog; what is not of echod's version stays."""
    texts = {
        "CHANGELOG.md": "# Changes\n\n## Unreleased\n\n- New.\n\n## 0.1.0\n\nFirst: IMAGE:0.1.0.\n",
        "page.md": "run IMAGE:0.1.0 or\n  - newName: HOST/IMAGE\n    newTag: 0.1.0  # yes\n",
        "other.md": "  - name: curl\n    newTag: 0.1.0\n",
    }
    texts = {name: text.replace("IMAGE", "echod") for name, text in texts.items()}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit, match=r"must be a checkout of git: .+"):
        release.release("0.20.3", tmp_path)
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    release.release("0.20.3", tmp_path)
    today = datetime.now(UTC).date()
    assert (tmp_path / "CHANGELOG.md").read_text() == (
        f"# Changes\n\n## Unreleased\n\n## 0.20.3 - {today}\n\n- New.\n\n"
        "## 0.1.0\n\nFirst: echod" + ":0.1.0.\n"
    )
    assert (tmp_path / "page.md").read_text() == texts["page.md"].replace("0.1.0", "0.20.3")
    assert (tmp_path / "other.md").read_text() == texts["other.md"]
    with pytest.raises(SystemExit, match=r"nothing below '## Unreleased'"):
        release.release("0.20.4", tmp_path)


def test_the_tables_of_the_documents_are_those_of_the_code(tmp_path: Path) -> None:
    """An option or a metric cannot be added without being documented."""
    words = [sys.executable, str(ROOT / "tools/tables.py"), "--check"]
    # Not measured: the sizes of plans would take three times their 12 s of a CPU.
    result = call(tmp_path, ["/usr/bin/env", "-u", "COVERAGE_PROCESS_CONFIG", *words])
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_readme_has_its_two_commands() -> None:
    """One runs it, one tests it; they come first, and both are targets."""
    makefile = (ROOT / "Makefile").read_text()
    shell = [block.text for block in blocks(ROOT / "README.md") if block.language == "sh"]
    assert shell[:2] == ["make run", "make test"]
    for target in ("run", "test"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_readme_is_short() -> None:
    """The rest is in docs/."""
    assert len(README.split()) <= 900


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
    """And no address of the index that they were made with."""
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    locked = set(re.findall(r"^([a-z][\w-]*)==", text, re.MULTILINE))
    extras = setup_cfg()["options.extras_require"]
    if lock == "build":
        wanted = {"setuptools"}
    else:
        wanted = names(setup_cfg()["options"]["install_requires"]) | names(extras.get(lock, ""))
    assert wanted <= locked
    for entry in re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in entry
    assert "://" not in text


def test_no_document_installs_the_unrelated_echod_package() -> None:
    """echod on the package index is not this one."""
    documents = pages()
    assert documents
    for path in documents:
        assert not re.search(r"pip install (-\S+ )*echod\b", path.read_text()), path


def test_generated_files_are_marked() -> None:
    """Reviews fold what tools write."""
    made_by_tools = [*made(), "monitoring/dashboard.json"]
    found = [str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.svg")]
    found += [str(path.relative_to(ROOT)) for path in ROOT.glob("requirements/*.lock")]
    words = ["git", "check-attr", "linguist-generated", *made_by_tools, *found]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    unmarked = [line for line in said.splitlines() if not line.endswith(": set")]
    assert unmarked == []


def sleeps(node: ast.AST) -> bool:
    """``sleep(...)`` of any module, or a wait for an event that no other code can set."""
    match node:
        case ast.Call(func=ast.Name(id="sleep") | ast.Attribute(attr="sleep")):
            return True
        case ast.Call(func=ast.Attribute(attr="wait", value=ast.Call(func=made))):
            return ast.unparse(made).rpartition(".")[2] == "Event"
    return False


def test_tests_sleep_by_pause_alone() -> None:
    """Where something must happen, ``until`` looks for it; each other sleep has its reason."""
    own = ROOT / "tests/support/waiting.py"
    sleeping = {own: {"time.sleep(0.005)", "time.sleep(seconds)"}}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if "in_guest" in path.parts:  # programs for another system, where no support is
            continue
        nodes = ast.walk(ast.parse(path.read_text()))
        found = {ast.unparse(node) for node in nodes if sleeps(node)}
        assert found == sleeping.get(path, set()), f"{path.name}: support.pause(seconds, why)"
