from __future__ import annotations

import errno
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from support import NEVER, PATIENCE, call, command, until

from echod.errors import SystemRefused, UsageError
from echod.lab import control, processes, route, weights
from echod.lab.processes import Process, free_port, remove

ROUTES = Path(__file__).parents[2] / "k8s"
STEPS = {
    "all-v1": {"v1": 1, "v2": 0},
    "80-20": {"v1": 80, "v2": 20},
    "50-50": {"v1": 50, "v2": 50},
    "all-v2": {"v1": 0, "v2": 1},
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ["istio", "gateway-api"])
def test_the_manifests_of_the_exercise_are_understood(kind: str, step: str) -> None:
    """The very files that a cluster gets."""
    assert route.read(str(ROUTES / kind / step / "route.yaml")) == STEPS[step]


SERVICE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tcp-echo}
spec:
  hosts: ["*"]
  gateways: [tcp-echo-gateway]
  tcp:
    - match: [{port: 31400}]
      route:
        - destination: {host: tcp-echo, port: {number: 9000}, subset: v1}
          weight: 80
        - destination: {host: tcp-echo.a.svc.cluster.local, subset: v2}
          weight: 20
"""
API = "apiVersion: gateway.networking.k8s.io/v1\n"
TCP_ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: tcp-echo}
spec:
  parentRefs: [{name: tcp-echo-gateway}]
  rules:
    - backendRefs:
        - {name: tcp-echo-v1, port: 9000, weight: 3}
        - {name: tcp-echo-v2, port: 9000}
"""


def read(directory: Path, text: str) -> weights.Weights:
    path = directory / "route.yaml"
    path.write_text(text)
    return route.read(str(path))


def test_other_objects_beside_a_route_are_ignored(tmp_path: Path) -> None:
    """The sample has its Gateway and its DestinationRule in the same file."""
    beside = "kind: Gateway\napiVersion: networking.istio.io/v1\n---\n- a list\n---\n---\n"
    assert read(tmp_path, beside + SERVICE) == {"v1": 80, "v2": 20}
    assert read(tmp_path, TCP_ROUTE) == {"v1": 3, "v2": 1}
    assert read(tmp_path, SERVICE.replace("      - match: [{port: 31400}]\n", "")) == {
        "v1": 80,
        "v2": 20,
    }


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (SERVICE, "spec:", "spec:\n  http: []", "spec.http: not supported by the lab"),
        (SERVICE, "spec:", "spec:\n  exportTo: ['.']", "spec.exportTo: not supported by the lab"),
        (SERVICE, '["*"]', "[ratings]", "spec.hosts: the lab has only tcp-echo, not 'ratings'"),
        (SERVICE, "{port: 31400}", "{port: 80}", "spec.tcp[0].match[0].port: must be 31400"),
        (
            SERVICE,
            "{port: 31400}",
            "{port: 31400, sourceLabels: {}}",
            "spec.tcp[0].match[0].sourceLabels: not supported by the lab",
        ),
        (SERVICE, "[{port: 31400}]", "[1]", "spec.tcp[0].match[0]: is missing or not a mapping"),
        (SERVICE, "subset: v2", "subset: v3", "the lab has only v1 and v2, not 'v3'"),
        (SERVICE, "host: tcp-echo,", "host: other,", "destination.host: must be tcp-echo, not 'ot"),
        (SERVICE, "number: 9000", "number: 9001", "route[0].destination.port: must be 9000"),
        (SERVICE, "weight: 80", "weight: -1", "route[0].weight: must be a whole number from 0"),
        (SERVICE, "weight: 80", "weight: true", "route[0].weight: must be a whole number"),
        (SERVICE, "weight: 80", "weight: '80'", "route[0].weight: must be a whole number"),
        (SERVICE, "weight: 80", "timeout: 1s", "route[0].timeout: not supported by the lab"),
        (SERVICE, "VirtualService", "Gateway", "or a TCPRoute: it has none"),
        (SERVICE, "networking.istio.io", "example.com", "must have one route"),
        (SERVICE, "  tcp:", "  tcp: []\n  other:", "spec.other: not supported by the lab"),
        (
            SERVICE,
            SERVICE,
            SERVICE + "---\n" + TCP_ROUTE,
            "one route for the gateway: it has VirtualService tcp-echo, TCPRoute tcp-echo",
        ),
        (SERVICE, SERVICE, "---\n".join([TCP_ROUTE] * 7), "TCPRoute tcp-echo and 2 more"),
        (TCP_ROUTE, "kind: TCPRoute", "kind: TLSRoute", "TLSRoute tcp-echo: the lab has no TLS"),
        (
            TCP_ROUTE,
            TCP_ROUTE,
            "kind: TLSRoute\n" + API + "metadata: 5",
            "TLSRoute 'None': the lab",
        ),
        (SERVICE, SERVICE, "a: [", "is not YAML"),
        (SERVICE, SERVICE, "\x00", "is not YAML"),
        (TCP_ROUTE, "  rules:", "  rules: 5\n  x:", "spec.x: not supported by the lab"),
        (TCP_ROUTE, TCP_ROUTE, TCP_ROUTE.partition("  rules")[0], "spec.rules: is missing or not"),
        (
            TCP_ROUTE,
            "    - backendRefs",
            "    - name: a\n    - backendRefs",
            "supports one rule, not 2",
        ),
        (TCP_ROUTE, "name: tcp-echo-v2", "name: other", "backendRefs[1].name: must be tcp-echo-v1"),
        (TCP_ROUTE, "v2, port: 9000", "v2, port: 80", "must be a Service with port 9000"),
        (SERVICE, '["*"]', "5", "spec.hosts: is not a list"),
        (SERVICE, "[{port: 31400}]", "5", "spec.tcp[0].match: is not a list"),
        (SERVICE, "subset: v2", "subset: [v1]", "the lab has only v1 and v2, not "),
        (SERVICE, "spec:", 'spec:\n  "a\\nb": 1', "spec.'a\\nb': not supported by the lab"),
        (SERVICE, SERVICE, "a: &a [1]\nb: *a\n", "aliases (*NAME): must not be used"),
        (SERVICE, SERVICE, "a: !!int abc\n", "is not YAML"),
        (SERVICE, SERVICE, "[" * 5_000, "is not YAML"),
        (SERVICE, SERVICE, "a" * 70_000, "must have 65,536 bytes at most"),
        (TCP_ROUTE, "weight: 3}", "weight: 3, filters: []}", "filters: not supported by the lab"),
    ],
)
def test_unsupported_fields_of_a_route_are_refused_by_name(
    tmp_path: Path, text: str, old: str, new: str, message: str
) -> None:
    """With the file and the field in it."""
    assert old in text
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text.replace(old, new, 1))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"--route {tmp_path / 'route.yaml'}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("left_out", "known"),
    [
        ("          weight: 20\n", {"v1": 80, "v2": 0}),
        ("          weight: 80\n", {"v1": 0, "v2": 20}),
    ],
)
def test_a_weight_that_a_virtual_service_leaves_out_is_zero(
    tmp_path: Path, left_out: str, known: dict[str, int]
) -> None:
    """As Istio has it; in a TCPRoute it is 1."""
    assert read(tmp_path, SERVICE.replace(left_out, "")) == known
    assert read(tmp_path, TCP_ROUTE.replace(", weight: 3", "")) == {"v1": 1, "v2": 1}


@pytest.mark.parametrize("weight", ["", "          weight: 0\n", "          weight: 7\n"])
def test_a_single_destination_gets_all_whatever_its_weight(tmp_path: Path, weight: str) -> None:
    """Istio does not look at it, but refuses one below 0."""
    begin, _, _ = SERVICE.partition("          weight: 80\n")
    found = read(tmp_path, begin + weight)
    assert found["v1"] > 0 == found["v2"]
    with pytest.raises(UsageError, match=r"route\[0\]\.weight: must be a whole number"):
        read(tmp_path, begin + "          weight: -1\n")


def test_all_weights_at_zero_are_refused(tmp_path: Path) -> None:
    """No version would answer; Istio refuses several destinations without weights too."""
    with pytest.raises(UsageError, match="must have a weight over 0"):
        read(tmp_path, re.sub("          weight: .*\n", "", SERVICE))
    with pytest.raises(UsageError, match="must have a weight over 0"):
        read(
            tmp_path, SERVICE.replace("weight: 80", "weight: 0").replace("weight: 20", "weight: 0")
        )
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        route.read(str(tmp_path / "none"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="must be a regular file"):
        route.read(str(tmp_path / "pipe"))


@pytest.mark.parametrize("text", ["", "80", "80/20/0", "a/b", "-1/1", "0/0", "1.5/1", "9999999/1"])
def test_wrong_weights_are_named(text: str) -> None:
    """With an example of right ones."""
    with pytest.raises(UsageError, match="must be the weights of v1 and v2, for example 80/20"):
        weights.parse("--steps", text)


def test_weights_are_shown_in_words_and_as_an_expectation() -> None:
    """In words, and as the probe takes them."""
    found = weights.parse("--steps", "80/20")
    assert weights.described(found) == "v1 80, v2 20"
    assert weights.expectation(found) == "one=80,two=20"


def refusal(path: str) -> str:
    try:
        return control.ask(path, "shift 1/2")
    except SystemRefused as error:
        return str(error)


def test_the_lab_answers_another_terminal(tmp_path: Path) -> None:
    """Over a socket that its user alone can open."""
    path = str(tmp_path / "control")
    door = control.Control(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(control.ask(path, "shift 1/2")))
    asking.start()

    def heard() -> bool:
        door.poll(lambda line: f"heard {line}")
        return not asking.is_alive()

    until(heard)
    assert answers == ["heard shift 1/2"]
    with ExitStack() as stack:
        for number in range(6):  # more than are looked at before everything else has its turn
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(path)
            client.send(b"sh" * (number % 2))
        for _ in range(2):
            door.poll(lambda _: pytest.fail("nothing was asked"))
    refusing = threading.Thread(target=lambda: answers.append(refusal(path)))
    refusing.start()

    def refused() -> bool:
        door.poll(lambda _: f"{control.ERROR}not so")
        return not refusing.is_alive()

    until(refused)
    assert answers[1:] == ["not so"]
    with pytest.raises(SystemRefused, match="another lab is running"):
        control.Control(path)
    door.close()
    assert not os.path.exists(path)
    with pytest.raises(SystemRefused, match="no lab answers there"):
        control.ask(path, "shift 1/2")


def test_a_request_whose_caller_has_left_is_not_done(tmp_path: Path) -> None:
    """By Ctrl-C, or because the lab took too long; a caller that can still read has its answer."""
    path = str(tmp_path / "control")
    door = control.Control(path)
    heard: list[str] = []

    def answer(line: str) -> str:
        heard.append(line)
        return "done"

    with socket.socket(socket.AF_UNIX) as left, socket.socket(socket.AF_UNIX) as waits:
        left.connect(path)
        left.send(b"kill v1\n")
        left.close()
        waits.connect(path)
        waits.send(b"kill v2\n")
        waits.shutdown(socket.SHUT_WR)  # as nc -N does
        door.poll(answer)
        assert waits.recv(100) == b"done\n"
    door.close()
    assert heard == ["kill v2"]


def test_the_socket_of_a_lab_that_was_killed_is_replaced(tmp_path: Path) -> None:
    """And no other file at its path."""
    path = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    control.Control(str(path)).close()
    path.write_text("mine")
    with pytest.raises(SystemRefused, match="Address already in use"):
        control.Control(str(path))
    assert path.read_text() == "mine"


def test_a_lab_that_closes_without_an_answer_is_an_error(tmp_path: Path) -> None:
    """It ends during the request."""
    path = str(tmp_path / "control")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def hang_up() -> None:
            client, _ = server.accept()
            with client:
                client.recv(100)

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(SystemRefused, match="the lab gave no answer"):
            control.ask(path, "shift 1/2")
        thread.join()


def ending(child: Process) -> str:
    """Why it has ended, or nothing."""
    try:
        child.check()
    except SystemRefused as error:
        return str(error)
    return ""


def test_a_control_socket_is_removed_though_its_close_fails(tmp_path: Path) -> None:
    """The error is reported all the same."""

    class Refusing(socket.socket):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "socket"
    made = control.Control(str(path))
    made._socket = Refusing(fileno=made._socket.detach())
    with pytest.raises(OSError, match="Input/output error"):
        made.close()
    assert not path.exists()


def test_a_child_that_ends_is_reported_with_its_last_line(tmp_path: Path) -> None:
    """Or with that it has written none."""
    for script, said in (("echo a; echo why >&2; exit 3", "why"), ("exit 3", "no output")):
        child = Process("child", ["/bin/sh", "-c", script], tmp_path)

        assert until(partial(ending, child)) == f"child has ended with status 3: {said}"
        child.stop(1)
    with pytest.raises(SystemRefused, match="nobody cannot be started: No such file"):
        Process("nobody", ["/no/such/program"], tmp_path)


def test_a_child_whose_start_fails_halfway_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may refuse the call by which Python learns that it runs."""
    main, others = threading.current_thread(), os.read
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = children.read_text().split()

    def refused(descriptor: int, size: int) -> bytes:
        if threading.current_thread() is main:
            raise OSError(errno.EIO, "Input/output error")
        return others(descriptor, size)

    monkeypatch.setattr(os, "read", refused)
    words = ["/bin/sh", "-c", "exec sleep 600"]
    with pytest.raises(SystemRefused, match="child cannot be started: Input/output error"):
        Process("child", words, tmp_path)
    monkeypatch.undo()
    assert children.read_text().split() == before
    with pytest.raises(ValueError, match="null byte"):  # before there is a process
        Process("child", ["/bin/\0"], tmp_path)


def test_a_child_is_waited_for_until_it_is_ready(tmp_path: Path) -> None:
    """Or until it has ended, or until its time is over: each with a reason."""
    child = Process("child", ["/bin/sh", "-c", "echo up; exec sleep 600"], tmp_path)
    looks = iter([False, False, True])
    child.wait_until(lambda: next(looks), PATIENCE, "is not ready")
    until(lambda: child.log.read_text() == "up\n")
    with pytest.raises(SystemRefused, match=r"^child is not ready after 0\.1 s$"):
        child.wait_until(lambda: False, 0.1, "is not ready")
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(SystemRefused, match="child has ended with status -9: up"):
        child.wait_until(lambda: False, PATIENCE, "is not ready")
    child.stop(1)


def test_a_free_port_is_none_that_connections_get() -> None:
    """A client of any program could have it before a server listens."""
    port = free_port()
    socket.create_server(("127.0.0.1", port)).close()
    assert 20_000 <= port < int(processes.LOCAL_PORTS.read_text().split()[0])


@pytest.mark.parametrize("lowest", ["absent", "no number", "20000", "the next"])
def test_without_such_a_port_any_free_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lowest: str
) -> None:
    """Not Linux, or a host whose connections get nearly all ports, or nothing is free."""
    monkeypatch.setattr(processes, "LOCAL_PORTS", tmp_path / "ip_local_port_range")
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        number = taken.getsockname()[1]
        if lowest == "the next":
            monkeypatch.setattr(processes, "LOWEST_PORT", number)
            monkeypatch.setattr(processes, "TRIED_PORTS", 1)
        if lowest != "absent":
            text = str(number + 1) if lowest == "the next" else lowest
            (tmp_path / "ip_local_port_range").write_text(f"{text}\t60999\n")
        socket.create_server(("127.0.0.1", free_port())).close()


def test_a_child_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """After the time that it was given."""
    script = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    child = Process("child", ["/bin/sh", "-c", script], tmp_path)
    until(lambda: child.log.read_text() == "up\n")
    os.kill(child.pid, 0)
    child.check()  # says nothing: it is there
    child.stop(0.1)
    with pytest.raises(SystemRefused, match="status -9"):
        child.check()


def test_a_child_that_cannot_be_terminated_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: it would not end on its own."""
    child = Process("child", ["/bin/sh", "-c", "exec sleep 600"], tmp_path)

    def refused(_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(subprocess.Popen, "terminate", refused)
    child.stop(NEVER)
    assert child.status == -signal.SIGKILL


def test_a_directory_is_removed_though_the_system_refuses_that_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of a descriptor, say. What cannot be removed at all is left."""
    made, real = tmp_path / "made", os.scandir
    made.mkdir()
    (made / "file").touch()
    refusals = [1]

    def refused(path: int | str) -> object:
        if refusals[0]:
            refusals[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)
    remove(made)
    assert not made.exists()
    made.mkdir()
    (made / "file").touch()
    refusals[0] = 100
    remove(made)
    assert made.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "80"], "--steps '80': must be the weights of v1 and v2"),
        (["--steps", "80/20,0/0"], "--steps '0/0': must be the weights"),
        (["--every", "0"], "--every '0': must be a number of seconds over 0"),
        (["--samples", "x"], "--samples 'x': must be a whole number"),
        (["--port", "99999"], "--port '99999': must be a port"),
        (["--once", "--serve"], "--once: must be given without --serve and --route"),
        (["--route", ""], "--route '': must be the name of a file"),
        (["--route", "x", "--steps", "1/1"], "--route: must be given without --steps"),
        (["--page-port", "8080"], "--page-port: must be given with --serve or --route"),
        (["--page-port", "x", "--serve"], "--page-port 'x': must be a port from 1 to 65535"),
        (["stop", "v3"], "stop 'v3': must be v1 or v2"),
        (["judge", "--page-port", "1"], "judge: must be given without --page-port"),
        (["shift"], "must be shift WEIGHTS, for example shift 80/20"),
        (["shuffle", "80/20"], "'shuffle 80/20': must be shift WEIGHTS"),
        (["shift", "80"], "shift '80': must be the weights"),
        (["shift", "80/20", "--once"], "shift: must be given without --once"),
        (["--route", "/no/such/file"], "--route /no/such/file: cannot be read"),
    ],
)
def test_a_wrong_call_of_the_lab_is_one_line(
    tmp_path: Path, words: list[str], message: str
) -> None:
    """Status 2, before anything is started."""
    result = call(tmp_path, command("lab", *words))
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_shift_without_a_lab_is_one_line(tmp_path: Path) -> None:
    """Status 1: the call is right, no lab runs."""
    result = call(tmp_path, command("lab", "shift", "80/20", "--socket", str(tmp_path / "none")))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "no lab answers there" in result.stderr


def test_a_missing_extra_is_one_line(tmp_path: Path) -> None:
    """It says what to install."""
    script = (
        "import sys; sys.modules['yaml'] = None; sys.argv[1:] = ['lab', '--once'];"
        "from echod.cli import main; sys.exit(main())"
    )
    result = call(tmp_path, [sys.executable, "-c", script])
    assert result.returncode == 1
    assert "yaml is missing: install the extra lab (pip install '.[lab]'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["echod.lab.arguments", "echod.lab.command"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("OSError(24, 'Too many open files')", "[Errno 24] Too many open files"),
        ("ImportError('x.so: Too many open files')", "x.so: Too many open files"),
        ("SystemError()", "out of memory"),
    ],
)
def test_a_lab_that_cannot_be_loaded_is_one_line(
    tmp_path: Path, module: str, error: str, reason: str
) -> None:
    """Status 1, and no traceback, whichever of its modules the system refuses."""
    script = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: raise {error}\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv[1:] = ['lab', '--once']\n"
        "from echod.cli import main; sys.exit(main())"
    )
    result = call(tmp_path, [sys.executable, "-c", script])
    assert (result.returncode, result.stderr) == (1, f"echod: error: {reason}\n")


def test_a_host_without_temporary_files_is_one_line(tmp_path: Path) -> None:
    """Status 1, and no traceback."""
    script = (
        "import errno, sys, tempfile\n"
        "def full(**_): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "tempfile.mkdtemp = full\n"
        "from echod.cli import main; sys.exit(main())"
    )
    words = ["lab", "--once", "--socket", str(tmp_path / "socket")]
    result = call(tmp_path, [sys.executable, "-c", script, *words])
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in result.stderr
    assert not (tmp_path / "socket").exists()
