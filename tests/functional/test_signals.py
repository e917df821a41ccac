"""Which signals stop the daemon, which do not, and what a repetition means."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support import (
    NEVER,
    PATIENCE,
    Clock,
    Echod,
    Start,
    altered,
    ask,
    clean_environment,
    command,
    connect,
    converse,
    expected,
    holds_back,
    insist,
    pause,
    read_to_end,
    repeat,
    until,
)

from echod.process.signals import FORCE_SECONDS

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
LINES = b"".join(b"%06d\n" % number for number in range(200_000))


@contextmanager
def due(echod: Echod) -> Iterator[socket.socket]:
    """A client with more pending replies than the kernel buffers, which reads none."""
    with connect(echod.port, receive_buffer=4096) as client:
        client.setblocking(False)
        sent = 0
        while sent < len(LINES):
            try:
                sent += client.send(LINES[sent:])
            except BlockingIOError:
                if echod.metrics()("echod_buffered_bytes") > 0:
                    break
        client.settimeout(PATIENCE)
        yield client


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.01, 0.2])
@pytest.mark.parametrize(
    ("first", "second"), [(TERM, TERM), (TERM, INT), (INT, INT), (INT, TERM), (HUP, TERM)]
)
def test_a_stop_that_is_delivered_twice_drains_to_its_end(
    start: Start, first: int, second: int, seconds: float
) -> None:
    """Usual tooling does that: GNU timeout, wrappers that forward, ExecStop= with kill."""
    echod = start(
        "--drain-timeout", str(NEVER), "--write-timeout", "none",
        command=altered(process__signals__FORCE_SECONDS=NEVER),  # however late the second one is
    )  # fmt: skip
    with due(echod) as client:
        echod.process.send_signal(first)
        pause(seconds, "the second signal comes a little later")
        echod.process.send_signal(second)
        echod.event("draining")
        until(lambda: not can_connect(echod.port))
        replies = read_to_end(client)
    assert echod.wait() == 0
    assert expected(LINES).startswith(replies)
    assert replies.endswith(b"\n")
    last = echod.events()[-1]
    assert (last["event"], last["cut"], last.get("forced_by")) == ("stopped", 0, None)


def can_connect(port: int) -> bool:
    with suppress(OSError):
        connect(port).close()
        return True
    return False


@pytest.mark.parametrize("number", [TERM, INT, HUP])
def test_a_stop_that_is_repeated_without_end_has_exit_status_0(start: Start, number: int) -> None:
    """Until the process is gone: in the drain, while it writes its totals, while Python ends."""
    echod = start()
    assert converse(echod.port, b"x\n") == b"one x\n"
    repeat(echod.process, number)
    assert echod.wait() == 0
    assert echod.events()[-1]["event"] == "stopped"
    assert len(echod.events("already draining")) <= 1


@pytest.mark.parametrize("number", [TERM, INT, HUP])
def test_a_stop_signal_before_readiness_is_kept_and_may_be_repeated(
    start: Start, number: int
) -> None:
    """From its first line of code on, long before its handlers are installed."""
    echod = start()
    until(lambda: holds_back(echod.process.pid, number))
    echod.process.send_signal(number)
    echod.process.send_signal(number)
    assert echod.event("draining")["signal"] == signal.Signals(number).name
    repeat(echod.process, number)
    assert echod.wait() == 0
    assert echod.error_path.read_text() == ""


def test_a_stop_at_any_time_of_the_start_ends_it_without_a_word_of_error(start: Start) -> None:
    """In the interpreter's own start by the signal, afterwards in the usual way."""
    for delay in (0.0, 0.01, 0.02, 0.04, 0.08, 0.15):
        echod = start()
        pause(delay, "the stop comes at another time of the start")
        echod.terminate()
        assert echod.wait() in (0, -signal.SIGTERM)
        assert echod.error_path.read_text() == ""


FORWARD = """
import signal, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: child.send_signal(number))
sys.exit(child.wait())
"""


def test_a_wrapper_that_forwards_what_its_group_has_got_does_not_force_the_end(
    start: Start,
) -> None:
    """Ctrl-C reaches every process of the foreground group, and echod twice."""
    echod = start(
        "--drain-delay", "0.7", start_new_session=True,
        command=lambda *more: [sys.executable, "-c", FORWARD, *command(*more)],
    )  # fmt: skip
    assert converse(echod.port, b"x\n") == b"one x\n"
    os.killpg(echod.process.pid, INT)
    assert echod.wait() == 0
    repeated = [event["signal"] for event in echod.events("already draining")]
    assert repeated in (["SIGINT"], [])  # the kernel makes one of two that are both pending
    assert echod.events()[-1]["event"] == "stopped"


LATE = """
import sys, time
from echod import cli
from echod.process import daemon
from echod.telemetry import log_writer as logs
daemon.LATE_LOG_SECONDS = 20.0
write = logs.LogWriter._write
def late(self, line):
    time.sleep(0.3 * (b"stopped" in line))
    write(self, line)
logs.LogWriter._write = late
sys.exit(cli.main())
"""
"""A log writer that the machine has no time for when the last event comes."""


def test_a_forced_end_leaves_its_last_event_on_a_busy_machine_too(start: Start) -> None:
    """The totals survive a delay of the writer, but not a stalled reader."""
    echod = start(
        "--drain-delay", "600", command=lambda *more: [sys.executable, "-c", LATE, *more]
    )  # fmt: skip
    echod.event("ready")
    echod.process.send_signal(INT)
    echod.event("draining")
    insist(echod)
    assert echod.wait() == 128 + INT
    assert echod.events("stopped")


@pytest.mark.parametrize("when", ["delay", "drain"])
def test_an_interrupt_a_second_after_the_first_one_ends_it_at_once(start: Start, when: str) -> None:
    """The event of the first says so, the last event too, and the exit status."""
    options = {"delay": ["--drain-delay", "600"], "drain": ["--drain-timeout", "600"]}[when]
    echod = start("--write-timeout", "none", *options)
    with due(echod), connect(echod.port) as idle:
        echod.process.send_signal(INT)
        assert "SIGINT again, 1 s later" in echod.event("draining")["force"]
        if when == "drain":
            assert read_to_end(idle) == b""
        insist(echod)
        assert echod.wait() == 128 + INT
    last = echod.events()[-1]
    cut = {"delay": 2, "drain": 1}[when]
    assert (last["event"], last["forced_by"], last["cut"]) == ("stopped", "SIGINT", cut)


def test_an_operator_may_interrupt_a_stop_that_something_else_has_begun(start: Start) -> None:
    """The event of the first SIGINT says how; SIGTERM never forces anything."""
    echod = start("--drain-delay", "600")
    for _ in range(30):
        converse(echod.port, b"x\n")
    echod.terminate()
    assert "force" not in echod.event("draining")
    pause(FORCE_SECONDS + 0.1, "the time after which a second SIGINT would force the end")
    echod.terminate()
    assert "force" not in echod.event("already draining")
    echod.process.send_signal(INT)
    until(lambda: len(echod.events("already draining")) == 2)
    assert "SIGINT again" in echod.events("already draining")[1]["force"]
    assert converse(echod.port, b"x\n") == b"one x\n"
    insist(echod)
    assert echod.wait() == 128 + INT
    single, sums = echod.events("connection closed"), echod.events("more connections closed")
    assert len(single) + sum(event["count"] for event in sums) == 31


def test_two_interrupts_that_are_read_late_do_not_force_the_end(start: Start, clock: Clock) -> None:
    """They came together; then the whole process stood still for longer than a second."""
    slow = clock.altered(process__signals__FORCE_SECONDS=300)  # so that they do come together
    echod = start("--drain-delay", "1000", command=slow)
    echod.event("ready")
    echod.process.send_signal(INT)
    echod.event("draining")
    echod.freeze()
    echod.process.send_signal(INT)
    clock.move(400)
    pause(0.2, "longer than it waits at a time: its wait has ended when it goes on")
    echod.thaw()
    echod.event("already draining")
    clock.move(600)
    assert echod.wait() == 0


@pytest.mark.parametrize("number", [HUP, INT])
def test_signals_ignored_at_the_start_stay_ignored(start: Start, number: int) -> None:
    """nohup ignores SIGHUP, a shell without job control SIGINT for what runs in the background."""
    name = signal.Signals(number).name.removeprefix("SIG")
    words = ["/bin/sh", "-c", f'trap "" {name}; exec "$0" "$@"']
    echod = start(command=lambda *more: [*words, *command(*more)])
    echod.event("ready")
    for _ in range(3):
        echod.process.send_signal(number)
    assert converse(echod.port, b"x\n") == b"one x\n"
    echod.stop()
    assert echod.event("draining")["signal"] == "SIGTERM"


LEAD = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes its standard input the terminal of its session; pty.fork() warns of threads."""


def test_a_terminal_that_is_closed_begins_a_drain(tmp_path: Path) -> None:
    """The kernel sends SIGHUP to its session leader; no pending reply is lost."""
    terminal, other = pty.openpty()
    words = command("0", "one", "--metrics-port", "none", "--log-format", "json")
    process = subprocess.Popen(
        [sys.executable, "-c", LEAD, *words],
        stdin=other, stdout=other, stderr=other,
        start_new_session=True, cwd=tmp_path, env=clean_environment(),
    )  # fmt: skip
    os.close(other)
    with process:
        try:
            log = b""
            while b'"ready"' not in log:
                log += os.read(terminal, 1 << 16)
            port = int(log.partition(b"listening on [::]:")[2].partition(b",")[0])
            with connect(port) as client:
                ask(client, b"x\n")
                client.sendall(b"a\nb\n")
                os.close(terminal)
                assert read_to_end(client) in (b"", b"one a\none b\n")
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM])
def test_signals_without_a_meaning_here_are_ignored(start: Start, number: int) -> None:
    """By default they would end the process without a drain."""
    echod = start()
    echod.event("ready")
    echod.process.send_signal(number)
    assert converse(echod.port, b"x\n") == b"one x\n"
    echod.stop()


def test_sigquit_ends_echod_by_its_default_action(start: Start) -> None:
    """With a core, where cores are allowed."""
    echod = start()
    echod.event("ready")
    echod.process.send_signal(signal.SIGQUIT)
    assert echod.wait() == -signal.SIGQUIT


@pytest.mark.parametrize(("number", "status"), [(TERM, -TERM), (INT, 130)])
def test_a_health_check_that_waits_ends_with_a_signal(
    tmp_path: Path, number: int, status: int
) -> None:
    """It has nothing to finish."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        words = command("health", "--metrics-port", str(silent.getsockname()[1]))
        asking = subprocess.Popen(
            words, cwd=tmp_path, env=clean_environment(), stderr=subprocess.PIPE, text=True
        )
        with silent.accept()[0]:
            asking.send_signal(number)
            assert asking.communicate(timeout=PATIENCE)[1] == ""
    assert asking.returncode == status


def test_a_command_that_was_started_with_signals_blocked_can_be_stopped(start: Start) -> None:
    """The signal mask outlives exec: some parents forget to reset it."""
    code = (
        "import signal, sys, os; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals());"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    echod = start(command=lambda *all_: [sys.executable, "-c", code, *command(*all_)])
    echod.event("ready")
    assert echod.stop()["event"] == "stopped"
