from __future__ import annotations

import importlib.metadata
import os
import pty
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import (
    PATIENCE,
    Metrics,
    Start,
    call,
    clean_environment,
    command,
    converse,
    get,
    until,
    with_open_files,
)

from echod.lab.processes import free_port


def test_without_arguments_echod_prints_its_usage_and_exits_with_2(tmp_path: Path) -> None:
    """As the contract has it for a wrong call."""
    result = call(tmp_path, command())
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("usage: echod PORTS PREFIX [options]")


@pytest.mark.parametrize(
    "words", [["--help"], ["health", "--help"], ["probe", "--help"], [], ["probe"]]
)
def test_help_and_usage_are_plain_text_on_every_interpreter(
    tmp_path: Path, words: list[str]
) -> None:
    """argparse knows colours from Python 3.14 on, and takes a CI system's word for a terminal."""
    result = call(tmp_path, command(*words), FORCE_COLOR="1")
    assert (result.stdout + result.stderr).startswith("usage: echod ")
    assert "\x1b" not in result.stdout + result.stderr


@pytest.mark.parametrize("arguments", [["serve"], []])
def test_serve_is_the_default_command(start: Start, arguments: list[str]) -> None:
    """``echod PORTS PREFIX`` and ``echod serve PORTS PREFIX`` are the same."""
    echod = start(command=lambda *more: command(*arguments, *more))
    assert converse(echod.port, b"hi\n") == b"one hi\n"
    echod.stop()


def test_the_console_script_is_the_same_program_as_the_module(start: Start) -> None:
    """The console script stands beside the interpreter."""
    script = str(Path(sys.executable).parent / "echod")
    echod = start(command=lambda *more: [script, *more])
    assert converse(echod.port, b"hi\n") == b"one hi\n"
    echod.stop()


def test_every_option_can_come_from_the_environment(start: Start) -> None:
    """No argument at all is needed then."""
    environment = clean_environment(
        ECHOD_PORTS="0", ECHOD_PREFIX="env", ECHOD_METRICS_PORT="0", ECHOD_SERVICE_VERSION="v7"
    )
    echod = start(command=lambda *_: command(), env=environment)
    assert converse(echod.port, b"hi\n") == b"env hi\n"
    assert echod.metrics()("echod_requests_total", version="v7") == 1
    echod.stop()


def test_the_log_names_each_port_in_the_words_of_the_reference(start: Start) -> None:
    """People and scripts wait for this line."""
    echod = start("--address", "127.0.0.1", ports="0,0", prefix="hello")
    words = [f"listening on 127.0.0.1:{port}, prefix: hello" for port in echod.ports]
    assert [event["event"] for event in echod.events("listening")] == words
    dual = start()
    assert dual.event("listening")["event"] == f"listening on [::]:{dual.port}, prefix: one"


def test_version_and_help_are_answered_at_once(tmp_path: Path) -> None:
    """Nothing that the daemon alone needs is imported for them."""
    version = importlib.metadata.version("tcp-echod")
    assert call(tmp_path, command("--version")).stdout == f"echod {version}\n"
    text = call(tmp_path, command("--help")).stdout
    for word in ("PORTS", "PREFIX", "--max-line-bytes", "ECHOD_MAX_LINE_BYTES", "67108864"):
        assert word in text
    assert "--metrics-port" in call(tmp_path, command("health", "--help")).stdout
    code = "import sys; sys.argv[1:] = ['--help']\ntry:\n import echod.__main__\nfinally:\n"
    code += " print(sorted({'structlog', 'prometheus_client'} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["9000,http", "x"], "PORTS '9000,http': must be a port"),
        (["70000", "x"], "PORTS '70000': must be a port from 1 to 65535"),
        (["9000,9000", "x"], "must be different ports"),
        (["9464", "x"], "must differ from the metrics port"),
        (["9000", ""], "PREFIX '': must be 1 to 1024 bytes"),
        (["9000", "a\tb"], "PREFIX 'a\\tb': must be"),
        (["9000"], "PREFIX is missing: give it, or set ECHOD_PREFIX"),
        (["9000", "x", "y"], "unrecognized arguments: y"),
        (["9000", "x", "--idle-timeout", "-3"], "--idle-timeout '-3': must be a number"),
        (["9000", "x", "--no-such-option"], "unrecognized arguments: --no-such-option"),
        (["9000", "x", "--max-conn", "5"], "unrecognized arguments: --max-conn 5"),
        (["9000", "x", "--idle-timeout"], "--idle-timeout: expected one argument"),
        (["health", "--metrics-port", "x"], "--metrics-port 'x': must be a port"),
        (["0", "x", "--no\x1b[31m\nsuch"], "unrecognized arguments: --no\\x1b[31m\\nsuch"),
        (["0", "x", "--address", "::1%\x1b[31m"], "--address '::1%\\x1b[31m': must be an IPv4"),
        (["0", "x", "--address", "::1%" + "a" * 70], "must be an IPv4 or IPv6 address"),
        (["0", "x", "--address", "fe80::1"], "--address 'fe80::1': must be given with its zone"),
        (
            ["0", "x", "--address", "FEBF::1"],
            "given with its zone (the network interface), for example",
        ),
        (["0", "x", "--metrics-address", "fe80::1"], "for example fe80::1%eth0"),
        (["health", "--metrics-address", "fe80::1"], "'fe80::1': must be given with its zone"),
        (["probe", "[fe80::1]:9000", "-n", "1"], "interface), for example [fe80::1%eth0]:9000"),
        (["probe", "h:1", "-n", "1", "--source", "fe80::1"], "--source 'fe80::1': must be given"),
        (["0", "x", "--drain-delay", "1e10"], "from 0 to 86400"),
        (["0", "x", "--idle-timeout", "1e308"], "100000000 at most, or none"),
        (["health", "now"], "unrecognized arguments: now"),
        (["0", "--foo"], "arguments: --foo (if it is PREFIX: echod [options] -- PORTS PREFIX)"),
        (["0", "-x", "--log-level", "debug"], "-x (if it is PREFIX: echod [options] -- PORTS"),
        (["0", "--log-level", "debug", "x", "y"], "unrecognized arguments: y (see"),
        (["0", "-" + "x" * 1000, "--log-level", "debug"], "(if it is PREFIX: echod [options]"),
    ],
)
def test_a_wrong_call_prints_one_line_and_exits_with_2(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    """The line names the option, the value and what is allowed."""
    result = call(tmp_path, command(*arguments))
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.startswith("echod: error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "prefix"),
    [
        (["0", "-x- y"], b"-x- y"),
        (["--metrics-port", "none", "--", "0", "--foo"], b"--foo"),
        (["--log-level", "debug", "--", "0", "-x"], b"-x"),
        (["0", "--log-level", "debug", "--", "-x"], b"-x"),
        (["0", "--log-level", "debug", "x"], b"x"),
    ],
)
def test_a_prefix_may_begin_with_a_dash_and_stand_after_an_option(
    start: Start, arguments: list[str], prefix: bytes
) -> None:
    """Deployments pass exactly two arguments, whatever the second looks like. With options, -- has
    to part them from PORTS.
    """
    environment = clean_environment(ECHOD_METRICS_PORT="none")
    echod = start(command=lambda *_: command(*arguments), env=environment)
    assert converse(echod.port, b"hi\n") == prefix + b" hi\n"
    echod.stop()


@pytest.mark.parametrize("call_", [["--version"], ["--help"], ["health", "--metrics-port", "1"]])
def test_a_closed_standard_output_does_not_change_the_exit_status(
    tmp_path: Path, call_: list[str]
) -> None:
    """Calls without a verdict keep theirs."""
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            command(*call_), stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, check=False
        )
    assert (result.returncode, result.stderr) == (int(call_[0] == "health"), b"")


def test_closed_standard_descriptors_are_not_taken_for_sockets(start: Start) -> None:
    """The log is lost, and counted; the service is the same."""
    script = 'exec "$0" -m echod "$@" <&- >&- 2>&-'
    port, metrics_port = free_port(), free_port()
    arguments = [str(port), "one", "--metrics-port", str(metrics_port)]
    echod = start(command=lambda *_: ["/bin/sh", "-c", script, sys.executable, *arguments])

    def answered() -> bool:
        try:
            return converse(port, b"x\n") == b"one x\n"
        except ConnectionRefusedError:
            return False

    until(answered)

    def dropped() -> float:
        return Metrics(get(metrics_port, "/metrics")[1].decode())("echod_log_events_dropped_total")

    until(lambda: dropped() >= 4)  # the writer comes to them in its own time
    echod.terminate()
    assert echod.wait() == 0


def test_descriptors_that_were_inherited_count_against_the_limit(start: Start) -> None:
    """And numbers over 1,024 are numbers like any other."""
    with ExitStack() as stack:
        inherited = [os.open(os.devnull, os.O_RDONLY) for _ in range(1200)]
        for descriptor in inherited:
            stack.callback(os.close, descriptor)
        echod = start(pass_fds=inherited)
        assert converse(echod.port, b"hi\n") == b"one hi\n"
    echod.stop()


def test_a_stop_signal_that_the_parent_blocks_still_stops_echod(start: Start) -> None:
    """The mask is inherited; SIGTERM must still work."""
    block = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]);"
    block += "os.execv(sys.executable, sys.argv[1:])"
    echod = start(command=lambda *more: [sys.executable, "-c", block, *command(*more)])
    echod.event("ready")
    echod.stop()


def test_a_service_link_of_kubernetes_is_recognised(tmp_path: Path) -> None:
    """The cause and the cure are named."""
    result = call(tmp_path, command("0", "x"), ECHOD_METRICS_PORT="tcp://10.96.0.7:9464")
    assert result.returncode == 2
    assert "ECHOD_METRICS_PORT 'tcp://10.96.0.7:9464'" in result.stderr
    assert "echod-metrics" in result.stderr
    assert "enableServiceLinks: false" in result.stderr


@pytest.mark.parametrize("option", ["ports", "--metrics-port"])
def test_a_port_in_use_is_named_with_the_reason_and_1(tmp_path: Path, option: str) -> None:
    """Before anything listens: the other port is free afterwards."""
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        arguments = {
            "ports": [f"0,{taken}", "x", "--metrics-port", "0"],
            "--metrics-port": ["0", "x", "--metrics-port", taken],
        }[option]
        result = call(tmp_path, command(*arguments))
    name = "PORTS" if option == "ports" else option
    assert result.returncode == 1
    assert f"{name} {taken}: cannot listen on [::]:{taken}: Address already in use" in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_two_starts_at_once_on_one_port_leave_one_with_a_clear_line(tmp_path: Path) -> None:
    """Both may bind before one listens: listening is refused as clearly as binding."""
    with socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("::", 0))
        port = other.getsockname()[1]
        environment = clean_environment()
        process = subprocess.Popen(
            command(str(port), "x", "--metrics-port", "none", "--log-format", "json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment,
        )
        assert process.stdout
        assert b"starting" in process.stdout.readline()  # it holds the port now
        with pytest.raises(OSError, match="in use"):
            other.listen()
        process.terminate()
        process.communicate(timeout=PATIENCE)


def test_an_address_that_is_not_here_is_named(tmp_path: Path) -> None:
    """192.0.2.0/24 is reserved for documentation."""
    result = call(tmp_path, command("0", "x", "--metrics-port", "0", "--address", "192.0.2.1"))
    assert result.returncode == 1
    assert "192.0.2.1:0: Cannot assign requested address" in result.stderr


def test_a_connection_limit_that_the_open_files_cannot_hold_is_refused(tmp_path: Path) -> None:
    """An explicit wish is not silently changed; a default is lowered with a warning."""
    arguments = ["0", "x", "--metrics-port", "0", "--max-connections", "300"]
    result = call(tmp_path, with_open_files(300, *arguments))
    assert result.returncode == 1
    assert "--max-connections 300: the open-file limit of 300 allows" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_default_limit_that_does_not_fit_is_lowered_with_a_warning(start: Start) -> None:
    """The metrics show what holds."""
    echod = start(command=lambda *more: with_open_files(300, *more))
    event = echod.event("limits lowered")
    assert event["level"] == "warning"
    assert event["wanted"] == 10_000
    assert 0 < event["max_connections"] < 300
    assert echod.metrics()("echod_connections_limit") == event["max_connections"]
    echod.stop()


def test_an_open_file_limit_without_room_for_a_connection_ends_the_start(tmp_path: Path) -> None:
    """There is nothing to lower to."""
    result = call(tmp_path, with_open_files(20, "0", "x", "--metrics-port", "0"))
    assert result.returncode == 1
    assert "the open-file limit of 20 leaves no connection" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "colored"),
    [
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "dumb", "NO_COLOR": ""}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
    ],
)
def test_on_a_terminal_the_log_is_for_people(
    start: Start, variables: dict[str, str], colored: bool
) -> None:
    """JSON otherwise, unless an option sets the format. NO_COLOR prevents escape codes."""
    ours, theirs = pty.openpty()
    try:
        echod = start(stdout=theirs, env=clean_environment(**variables))
        seen = b""

        def ready() -> bool:
            nonlocal seen
            seen += os.read(ours, 4096)
            return b"ready" in seen

        until(ready)
        assert b"listening on [::]:" in seen
        assert b'"event"' not in seen
        assert (b"\x1b" in seen) is colored
        echod.terminate()
        assert echod.wait() == 0
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_console_log_format_has_no_colors_in_a_file(start: Start) -> None:
    """In a file there are no colours."""
    echod = start("--log-format", "console", "--metrics-port", "none")
    until(lambda: any("ready" in line for line in echod.lines()))
    assert any("listening on [::]:" in line for line in echod.lines())
    assert "\x1b" not in echod.log_path.read_text()
