"""The units, installed by ``make install`` in a real systemd."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest
from guest import PYTHON, Guest
from support import ROOT, until

SURROUNDINGS = "PIP_USER=1 PIP_TARGET=/elsewhere PREFIX=/usr/local PYTHONPATH=/elsewhere"
"""What else may be exported where it is installed."""
INSTALL = (
    f"cd /src; {SURROUNDINGS} PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels make -s install PYTHON={PYTHON}"
)
DROP_INS = "/run/systemd/system"


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    assert os.geteuid() == 0, "these tests need root: a machine of their own"
    guest = Guest(tmp_path_factory.mktemp("guest"))
    guest.run(INSTALL)
    yield guest
    guest.close()


@pytest.fixture
def guest(booted: Guest) -> Iterator[Guest]:
    """Installed, nothing running, nothing changed."""
    booted.mark()
    yield booted
    booted.quiet()
    booted.run(f"""
        systemctl stop 'echod*.socket' 'echod*.service'
        rm -rf {DROP_INS}/echod*.d /etc/systemd/system/echod@.service.d
        cp -R /src/systemd/etc /
        systemctl daemon-reload
        systemctl reset-failed
    """)


def drop_in(unit: str, *lines: str) -> str:
    """The command that puts lines into a unit's [Service] for this boot."""
    text = "\\n".join(["[Service]", *lines])
    directory = f"{DROP_INS}/{unit}.d"
    return (
        f"mkdir -p {directory}; printf '{text}\\n' >{directory}/test.conf; systemctl daemon-reload;"
    )


def answer(guest: Guest, port: int) -> str:
    return guest.run(f"echo hi | timeout 10 nc -N 127.0.0.1 {port}").strip()


def show(guest: Guest, unit: str, name: str) -> str:
    return guest.run(f"systemctl show --value -p {name} {unit}").strip()


def test_two_versions_run_side_by_side_when_start_returns(guest: Guest) -> None:
    """Type=notify: start blocks until it listens; metrics are on loopback only."""
    for version, port, metrics, reply in (("v1", 9000, 9464, "one"), ("v2", 9100, 9465, "two")):
        guest.run(f"systemctl start echod@{version}")
        assert answer(guest, port) == f"{reply} hi"
        body = guest.run(f"curl -s 127.0.0.1:{metrics}/metrics")
        assert f'echod_requests_total{{port="{port}",version="{version}"}} 1.0' in body
        assert "process_start_time_seconds" in body
        assert show(guest, f"echod@{version}", "NotifyAccess") == "main"
    listening = guest.run("ss -Hltn")
    assert re.search(r"127\.0\.0\.1:9464\b", listening)
    assert not re.search(r"(\*|\[::\]|0\.0\.0\.0):946[45]\b", listening)


def test_a_dynamic_user_without_privileges_runs_it(guest: Guest) -> None:
    """Not root, not on disk, and not the user of a mesh's proxy, whose traffic is let past."""
    guest.run("systemctl start echod@v1")
    process = show(guest, "echod@v1", "MainPID")
    status = dict(
        line.split(":", 1) for line in guest.run(f"cat /proc/{process}/status").splitlines()
    )
    assert {61184 <= int(uid) <= 65519 for uid in status["Uid"].split()} == {True}
    assert {int(status[name], 16) for name in ("CapPrm", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")
    user = guest.run(f"stat -c %U /proc/{process}").strip()
    assert user not in guest.run("cat /etc/passwd")


def test_systemctl_status_and_the_journal_show_the_state(guest: Guest) -> None:
    """In systemctl's words, and in events of one line each."""
    guest.run("systemctl start echod@v1")
    guest.start("(echo hi; sleep 30) | nc 127.0.0.1 9001")  # one without a byte is not logged
    until(lambda: "1 connections on ports 9000" in show(guest, "echod@v1", "StatusText"))
    guest.quiet()
    guest.run("systemctl stop echod@v1")
    events = [
        json.loads(line)["event"]
        for line in guest.journal("echod@v1").splitlines()
        if line.startswith("{")
    ]
    assert events[0] == "starting"
    assert "listening on [::]:9000, prefix: one" in events
    assert events[-3:] == ["connection closed", "draining", "stopped"]
    assert show(guest, "echod@v1", "Result") == "success"


def test_a_stop_by_execstop_and_then_by_systemd_drains(guest: Guest) -> None:
    """By ExecStop=, and then by systemd itself."""
    # The pause: the kernel makes one signal of two that the process has had no turn between.
    stop = """ExecStop=/bin/sh -c "kill -s TERM $MAINPID; sleep 0.5\""""
    settings = stop, "Environment=ECHOD_DRAIN_DELAY=5"
    guest.run(drop_in("echod@v1.service", *settings))
    guest.run("systemctl start echod@v1")
    guest.run("systemctl stop echod@v1")
    journal = guest.journal("echod@v1")
    events = [json.loads(line)["event"] for line in journal.splitlines() if line.startswith("{")]
    assert events[-3:] == ["draining", "already draining", "stopped"]
    assert "Deactivated successfully" in journal
    assert "status=" not in journal


PROBE = "echod-probe@gateway"


def test_a_watch_of_a_split_runs_beside_what_it_watches(guest: Guest) -> None:
    """In its own sandbox: an alarm in the journal, metrics on loopback, and an orderly end."""
    settings = (
        "PROBE_TARGET=127.0.0.1:9000",
        'PROBE_OPTIONS=--expect "one=100,two=0" --rate 20 --metrics-address 127.0.0.1',
    )
    guest.run(f"printf '%s\\n' '{settings[0]}' '{settings[1]}' >/etc/echod/probe-gateway.env")
    guest.run(f"systemctl start echod@v1 {PROBE}")

    def scrape() -> str:
        return guest.run("curl -s 127.0.0.1:9466/metrics || true")

    until(lambda: re.search(r'connections_total\{version="one"\} \d\d', scrape()))
    assert 'echod_probe_verdict{verdict="expected"} 1.0' in scrape()
    uid = guest.run(f"stat -c %u /proc/{show(guest, PROBE, 'MainPID')}").strip()
    assert int(uid) > 60_000
    security = guest.run(f"systemd-analyze security --no-pager {PROBE}.service")
    found = re.search(r"exposure level for \S+: ([0-9.]+)", security)
    assert found
    assert float(found[1]) <= 1.5
    guest.run("sed -i s/ECHOD_PREFIX=one/ECHOD_PREFIX=two/ /etc/echod/v1.env")
    guest.run("systemctl restart echod@v1")
    until(lambda: '"event": "alarm"' in guest.journal(PROBE))
    guest.run(f"systemctl stop {PROBE}")
    assert '"event": "stopped"' in guest.journal(PROBE)
    assert show(guest, PROBE, "Result") == "success"


def test_a_watch_with_a_wrong_setting_stays_down(guest: Guest) -> None:
    """Exit status 2, one line, no restart."""
    guest.run("sed -i s/two=20/two=x/ /etc/echod/probe-gateway.env")
    guest.run(f"systemctl start {PROBE}")
    until(lambda: show(guest, PROBE, "ActiveState") == "failed")
    assert show(guest, PROBE, "ExecMainStatus") == "2"
    assert show(guest, PROBE, "NRestarts") == "0"
    assert "must have a share from 0 to" in guest.journal(PROBE)


def test_systemd_analyze_verify_reports_nothing(guest: Guest) -> None:
    """Not even a warning, which would leave its exit status at 0."""
    units = " ".join(
        path.name.replace("@.", "@v2.") for path in sorted((ROOT / "systemd").glob("*.s*t"))
    )
    units += " echod.service echod@v1.service echod@v2.service"
    assert guest.run(f"systemd-analyze verify {units}") == ""
    guest.run(with_sockets("inherited-sockets") + with_sockets("low-ports"))
    assert guest.run(f"systemd-analyze verify {units}") == ""


def with_sockets(name: str) -> str:
    """The command that lays a shipped drop-in beside the template."""
    directory = "/etc/systemd/system/echod@.service.d"
    return f"install -D -m 644 -t {directory} /src/systemd/{name}.conf; systemctl daemon-reload;"


def exposure(guest: Guest) -> float:
    found = re.search(r"exposure level for \S+: ([0-9.]+)", guest.run(SECURITY))
    assert found
    return float(found[1])


SECURITY = "systemd-analyze security --no-pager echod@v1.service"


def test_systemds_exposure_score_is_low_and_lower_with_inherited_sockets(guest: Guest) -> None:
    """By systemd's own measure, in which an unguarded service has 9.6."""
    guest.run("systemctl start echod@v1")
    assert exposure(guest) <= 1.5
    guest.run("systemctl stop echod@v1;" + with_sockets("inherited-sockets"))
    guest.run("systemctl start echod@v1")
    assert exposure(guest) <= 0.5


@pytest.mark.parametrize(("sockets", "allowed"), [(False, ["tcp"]), (True, [])])
def test_what_an_echo_server_has_no_business_with_is_refused(
    guest: Guest, sockets: bool, allowed: list[str]
) -> None:
    """By the system, whatever the program tried; without the sandbox most of it goes through."""
    attempts = "/opt/echod/bin/python /in_guest/forbidden_calls.py"
    override = [
        "Type=oneshot",
        "Restart=no",
        "WatchdogSec=0",
        "ExecStart=",
        f"ExecStart={attempts}",
    ]
    if sockets:
        guest.run(with_sockets("inherited-sockets"))
    guest.run(drop_in("echod@v1.service", *override) + "systemctl start echod@v1")
    lines = guest.journal("echod@v1").splitlines()
    (line,) = [line for line in lines if line.startswith("[")]
    assert json.loads(line) == allowed
    unguarded = json.loads(guest.run("python3 /in_guest/forbidden_calls.py"))
    assert {"tcp", "netlink", "priority", "home", "another process", "chroot"} <= set(unguarded)


def test_systemd_restarts_echod_when_one_thread_is_frozen(guest: Guest) -> None:
    """The watchdog depends on the handler threads' heartbeats; the journal names the stuck one."""
    guest.run(drop_in("echod@v1.service", "WatchdogSec=4") + "systemctl start echod@v1")
    before = show(guest, "echod@v1", "MainPID")
    guest.start(f"python3 /in_guest/freeze_thread.py {before} 2")  # the log writer is 1
    until(lambda: show(guest, "echod@v1", "MainPID") not in (before, "0"), timeout=40)
    until(lambda: show(guest, "echod@v1", "ActiveState") == "active")
    assert answer(guest, 9000) == "one hi"
    journal = guest.journal("echod@v1")
    assert '"problem": "stalled: handler-0 (' in journal
    assert "Watchdog timeout" in journal
    assert "Fatal Python error: Aborted" in journal


def test_a_wrong_setting_ends_the_unit_with_one_line_and_no_restart_loop(guest: Guest) -> None:
    """Exit status 2 prevents the restart; so does a file that is not there."""
    guest.run("sed -i s/ECHOD_PREFIX=.*/ECHOD_PREFIX=/ /etc/echod/v1.env")
    guest.run("systemctl start echod@v1", status=1)
    assert show(guest, "echod@v1", "ExecMainStatus") == "2"
    assert show(guest, "echod@v1", "ActiveState") == "failed"
    lines = guest.journal("echod@v1", "_COMM=echod").splitlines()
    assert lines == ["echod: error: PREFIX is missing: give it, or set ECHOD_PREFIX"]
    guest.run("systemctl start echod@v7", status=1)
    assert "Assertion failed" in guest.journal("echod@v7")
    assert show(guest, "echod@v7", "NRestarts") == "0"


def test_systemd_retries_a_start_on_a_port_in_use_slowly(guest: Guest) -> None:
    """A port in use is one line each time; it serves when the port is free."""
    guest.start("sleep 60 | nc -l 9001")
    until(lambda: ":9001" in guest.run("ss -Hltn"))
    guest.run("systemctl start echod@v1", status=1)
    until(lambda: show(guest, "echod@v1", "NRestarts") != "0")
    assert int(show(guest, "echod@v1", "NRestarts")) < 3
    guest.run("pkill -x nc")
    until(lambda: show(guest, "echod@v1", "ActiveState") == "active")
    lines = guest.journal("echod@v1").splitlines()
    assert any(line.startswith("echod: error: PORTS 9001: cannot listen on ") for line in lines)


def test_sockets_by_name_start_it_in_a_network_of_its_own(guest: Guest) -> None:
    """The first client starts it, and is answered; metrics are reached through their socket."""
    guest.run(with_sockets("inherited-sockets"))
    guest.run("systemctl start echod@v1.socket echod@v2.socket")
    assert show(guest, "echod@v2", "ActiveState") == "inactive"
    assert answer(guest, 9101) == "two hi"
    assert answer(guest, 9002) == "one hi"
    body = guest.run("curl -s 127.0.0.1:9465/metrics")
    assert 'echod_requests_total{port="9101",version="v2"} 1.0' in body
    process = show(guest, "echod@v2", "MainPID")
    assert guest.run(f"readlink /proc/{process}/ns/net") != guest.run("readlink /proc/self/ns/net")
    assert "ok" in guest.run("/opt/echod/bin/echod health --metrics-port 9465 && echo ok")


def test_fifty_restarts_under_load_refuse_no_client(guest: Guest) -> None:
    """At 200 connections a second. The sockets are systemd's, who keeps them open; every line that
    is taken is answered, and all of it is counted once."""
    guest.run("systemctl start echod@v2.socket echod@v2.service; touch /load")
    load = guest.start("python3 /in_guest/restart_load.py 9100 two /load")
    guest.run("""
        for i in $(seq 50); do
            systemctl reset-failed echod@v2.service
            systemctl restart echod@v2.service
        done
        rm /load
    """)
    report = json.loads(load.communicate(timeout=90)[0])
    guest.run("systemctl stop echod@v2.socket echod@v2.service")
    assert report["connections"] == sum(report["outcomes"].values()) >= 200 * report["seconds"]
    # A busy machine may keep a client from asking until it is let go.
    assert report["outcomes"].pop("asked too late", 0) <= report["connections"] / 100
    assert set(report["outcomes"]) == {"answered", "ended between lines"}
    lines = guest.journal("echod@v2").splitlines()
    stopped = [json.loads(line) for line in lines if '"event": "stopped"' in line]
    assert (len(stopped), {last["cut"] for last in stopped}) == (51, {0})
    totals = [total for last in stopped for total in last["totals"] if total["port"] == 9100]
    sums = [sum(total[name] for total in totals) for name in ("opened", "closed", "requests")]
    assert sums == [report["connections"], report["connections"], report["replies"]]


def test_ports_below_1024_take_one_capability(guest: Guest) -> None:
    """By the drop-in; without it the refusal names the capability."""
    guest.run("sed -i s/ECHOD_PORTS=.*/ECHOD_PORTS=7/ /etc/echod/v1.env")
    guest.run("systemctl start echod@v1", status=1)
    assert "CAP_NET_BIND_SERVICE" in guest.journal("echod@v1")
    guest.run(with_sockets("low-ports") + "systemctl start echod@v1")
    assert answer(guest, 7) == "one hi"


def test_an_upgrade_keeps_the_users_files_and_a_removal_leaves_nothing_else(guest: Guest) -> None:
    """Changed files stay, removed ones stay away, and what is enabled is disabled at the end."""
    everything = (
        "find /etc/echod /etc/systemd /opt /usr/local/lib/systemd -path '*echod*' 2>&1 | sort"
    )
    guest.run("echo '# mine' >>/etc/echod/v1.env; rm /etc/echod/echod.env")
    guest.run("touch -d 2001-01-01 /etc/echod/v2.env")
    guest.run("systemctl enable -q --now echod@v1.service echod@v2.socket")
    assert "kept /etc/echod/v1.env" in guest.run(INSTALL)
    assert guest.run("tail -n 1 /etc/echod/v1.env; ls /etc/echod").split() == [
        "#", "mine", "probe-gateway.env", "v1.env", "v2.env"
    ]  # fmt: skip
    assert "/src" not in guest.run("find /src -newer /etc/echod/v2.env -name build")
    guest.run("systemctl try-restart echod@v1")
    assert answer(guest, 9000) == "one hi"
    assert "left /etc/echod/v1.env" in guest.run("cd /src; make -s uninstall")
    assert guest.run(everything).split() == ["/etc/echod", "/etc/echod/v1.env"]
    assert "0 loaded units" in guest.run("systemctl list-units --all 'echod*'")
    assert ":9000" not in guest.run("ss -Hltn")
    guest.run("rm -r /etc/echod")
    guest.run(INSTALL)
    assert "echod@v1" not in guest.run("cd /src; make -s uninstall")
    assert "No such file" in guest.run(
        f"{everything} | grep -v 'No such file' || ls /etc/echod", status=2
    )
    guest.run(INSTALL)
