"""What .github promises, as far as it can be read off it."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import address, pages
from support import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def loaded(path: Path) -> dict[Any, Any]:
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_its_commit(path: Path) -> None:
    """With the version that the commit is, for people; the same one everywhere."""
    used = re.findall(r"uses: *(.*)$", path.read_text(), re.MULTILINE)
    for one in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one), one


def test_an_action_has_one_commit_in_all_workflows() -> None:
    """A newer one is taken everywhere at once."""
    text = "".join(path.read_text() for path in WORKFLOWS)
    pins = set(re.findall(r"uses: *(\S+)@(\w+)", text))
    assert len(pins) == len({name for name, _ in pins})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_unless_a_job_says_more(path: Path) -> None:
    """And no job keeps the credentials of its checkout, or runs without an end."""
    workflow = loaded(path)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for job in workflow["jobs"].values():
        assert "timeout-minutes" in job
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_ci_runs_every_interpreter_that_setup_cfg_names() -> None:
    """Builds without a GIL have a t at their end."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    named = re.findall(r"Python :: (3\.\d+)$", parser["metadata"]["classifiers"], re.MULTILINE)
    matrix = loaded(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    versions = {*matrix["python"], *(one["python"] for one in matrix["include"])}
    assert {one for one in versions if not one.endswith("t")} == set(named)


def test_the_repositorys_address_is_in_one_place(tmp_path: Path) -> None:
    """In setup.cfg, or nowhere: other files must not make one up."""
    settings = tmp_path / "setup.cfg"
    settings.write_text("[metadata]\nurl = https://example.org/one/echod\n")
    assert pages(address(settings)) == "https://example.org/one/echod/blob/main/"
    assert pages("") == ""
    settings.write_text("[metadata]\nurl = https://example.org/one/echod/\n")
    with pytest.raises(SystemExit, match="must be https://HOST/OWNER/NAME, without a slash"):
        address(settings)
    for path in (ROOT / ".github").rglob("*.*"):
        assert not re.search(r"(github\.com|ghcr\.io)/[\w.-]+/(tcp-)?echod", path.read_text()), path
