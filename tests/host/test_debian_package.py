"""``make deb``'s package in a booted Debian: installed, upgraded, removed and purged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest import Guest
from support import PATIENCE, ROOT, until

import echod

TREES = ["/", *os.environ.get("ECHOD_DEBIAN_TREES", "").split()]
"""Systems to boot: this one, and others that debootstrap made."""
MAINTAINER = "R&D | Tests <test@example.org>"
NAME = f"echod_{echod.__version__}_all.deb"


def built() -> Path:
    """The package, freshly built."""
    words = ["make", "-s", "deb", f"MAINTAINER={MAINTAINER}"]
    subprocess.run(words, cwd=ROOT, check=True, timeout=10 * PATIENCE)
    return ROOT / "dist" / NAME


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.move(built(), tmp_path_factory.mktemp("deb")))


@pytest.fixture(scope="module", params=TREES)
def booted(
    package: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guest]:
    assert os.geteuid() == 0, "these tests need root: a machine of their own"

    def lay(files: Path) -> None:
        files.mkdir()
        (files / "echod.deb").write_bytes(package.read_bytes())

    guest = Guest(tmp_path_factory.mktemp("guest"), lay, request.param)
    # An index of all pages would be made after each installation.
    guest.run("rm -f /var/lib/man-db/auto-update")
    yield guest
    guest.close()


@pytest.fixture
def guest(booted: Guest) -> Iterator[Guest]:
    """A system with the package freshly installed."""
    booted.run("dpkg -i /echod.deb")
    booted.mark()
    yield booted
    booted.quiet()
    booted.run("dpkg --purge echod")


def answer(guest: Guest, port: int) -> str:
    return guest.run(f"echo hi | timeout 10 nc -N 127.0.0.1 {port}").strip()


def test_an_installation_enables_and_starts_nothing(guest: Guest) -> None:
    """The administrator does."""
    units = " ".join(path.name for path in sorted((ROOT / "systemd").glob("*.s*t"))).split()
    units += ["echod.service", "echod@.service"]
    for unit in units:
        state = guest.run(f"systemctl is-enabled {unit} || true").strip()
        assert state == "disabled", unit
    assert guest.run("systemctl list-units --plain --no-legend 'echod*'") == ""
    assert guest.run("find /etc -name '*echod*@*'") == ""


def test_two_instances_serve_and_are_scraped(guest: Guest) -> None:
    """As docs/systemd.md begins."""
    guest.run("systemctl enable --now echod@v1 echod@v2")
    for version, port, metrics, reply in (("v1", 9000, 9464, "one"), ("v2", 9100, 9465, "two")):
        assert answer(guest, port) == f"{reply} hi"
        body = guest.run(f"curl -s 127.0.0.1:{metrics}/metrics")
        assert f'echod_requests_total{{port="{port}",version="{version}"}} 1.0' in body
        assert guest.run(f"systemctl is-enabled echod@{version}").strip() == "enabled"
    assert guest.run("echod health") == "ready\n"


def test_sockets_of_both_instances_outlive_a_restart(guest: Guest) -> None:
    """The ports of v2 come with the package, beside its units."""
    guest.run("systemctl start echod@v1.socket echod@v2.socket")
    guest.run("systemctl start echod@v1 echod@v2; systemctl restart echod@v2")
    assert answer(guest, 9000) == "one hi"
    assert answer(guest, 9102) == "two hi"


def test_the_units_pass_systemds_own_check(guest: Guest) -> None:
    """Without a warning."""
    units = "echod.service echod.socket echod@v1.service echod@v2.service echod@v2.socket"
    assert guest.run(f"systemd-analyze verify {units}") == ""


UPGRADE = """
dpkg-deb -R /echod.deb /tmp/newer
sed -i 's/^Version: .*/&+1/' /tmp/newer/DEBIAN/control
dpkg-deb -b /tmp/newer /tmp/newer.deb >/dev/null
rm -r /tmp/newer
dpkg -i /tmp/newer.deb
rm /tmp/newer.deb
"""


def test_an_upgrade_keeps_settings_and_drains(guest: Guest) -> None:
    """What has arrived is answered, and the new process serves with the changed settings."""
    guest.run("sed -i 's/^ECHOD_PREFIX=.*/ECHOD_PREFIX=mine/' /etc/echod/v1.env")
    guest.run("systemctl enable --now echod@v1")
    before = guest.run("systemctl show --value -p MainPID echod@v1")
    held = guest.start("(echo hi; sleep 600) | nc 127.0.0.1 9000")
    until(lambda: "1 connections" in guest.run("systemctl show -p StatusText echod@v1"))
    guest.run(UPGRADE)
    assert guest.run("systemctl show --value -p MainPID echod@v1") != before
    assert answer(guest, 9000) == "mine hi"
    assert guest.run("systemctl is-enabled echod@v1").strip() == "enabled"
    assert guest.run("systemctl is-active echod@v2 || true").strip() == "inactive"
    journal = guest.journal("echod@v1")
    assert '"event": "draining"' in journal
    assert re.search(r'"event": "stopped".*"cut": 0', journal)
    guest.quiet()
    assert held.stdout is not None


def test_a_removal_stops_and_a_purge_leaves_nothing(guest: Guest) -> None:
    """A removal keeps the settings alone."""
    guest.run("systemctl enable --now echod@v1 echod@v2.socket echod@v2")
    guest.run("dpkg --remove echod")
    assert guest.run("systemctl list-units --plain --no-legend 'echod*'") == ""
    assert not re.search(r":(9[01]0[0-2]|946[45])\b", guest.run("ss -Hltn"))
    assert guest.run("ls /etc/echod").split() == sorted(
        path.name for path in (ROOT / "systemd/etc/echod").iterdir()
    )
    guest.run("dpkg --purge echod")
    assert guest.run("find /etc /run /usr /var -name '*echod*'") == ""


def test_manual_pages_and_completion_are_those_of_the_parsers(guest: Guest) -> None:
    """Every option of each command is in both."""
    for page, command in (
        ("8/echod.8", ""),
        ("1/echod-probe.1", "probe"),
        ("1/echod-lab.1", "lab"),
    ):
        text = guest.run(f"zcat /usr/share/man/man{page}.gz").replace("\\-", "-")
        helped = guest.run(f"echod {command} --help")
        options = set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", helped, re.MULTILINE))
        assert len(options) > 6
        assert options <= set(re.findall(r"--[\w-]+", text))
        completed = guest.run(COMPLETE.format(command)).split()
        assert options <= set(completed)
    assert "probe" in guest.run(COMPLETE.format("")).split()
    assert {"shift", "drain", "judge"} < set(guest.run(COMPLETE.format("lab")).split())


COMPLETE = """
source /usr/share/bash-completion/completions/echod
COMP_WORDS=(echod {} '')
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_echod
echo "${{COMPREPLY[@]}}"
"""


def test_lintian_finds_no_error(package: Path) -> None:
    """Nor a warning but the one for the restart of instances, which debhelper has no code for."""
    done = subprocess.run(
        ["lintian", "--fail-on", "error", str(package)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    warnings = re.findall(r"^W: (.*)$", done.stdout, re.MULTILINE)
    assert all("maintainer-script-calls-systemctl" in one for one in warnings), warnings


def test_two_builds_of_the_package_are_the_same_bytes(package: Path) -> None:
    """On the same release of Debian."""
    again = built()
    assert again.read_bytes() == package.read_bytes()
    again.unlink()


def test_the_package_names_its_maintainer(package: Path) -> None:
    """Whatever characters are in the name."""
    words = ["dpkg-deb", "--field", str(package), "Maintainer"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == MAINTAINER + "\n"


def test_a_maintainer_without_an_address_is_refused() -> None:
    """With the form that is wanted."""
    words = ["make", "-s", "deb", "MAINTAINER=nobody"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "MAINTAINER 'nobody': must be a name and an address" in done.stderr
