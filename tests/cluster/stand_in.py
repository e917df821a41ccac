"""A stand-in for kubectl and the cluster behind it, which the suite itself is tested with.

Fixed answers are in answers/calls.yaml; pods, what is called in them, Jobs and forwards are made
here. The directory in ``STAND_IN`` holds the flags that a cluster's state comes to, and the log of
all calls. As kubectl does, a forward ends at a connection that nothing takes: there is no route.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANSWERS = Path(__file__).parent / "answers"
STATE = Path(os.environ["STAND_IN"])
FLAGS = STATE / "flags"
LOG = STATE / "calls"
ADDRESSES = {"10.0.0.11": "v1", "10.0.0.12": "v1", "10.0.0.21": "v2", "10.0.0.22": "v2"}
WALLED = "10.0.0.99"
TURNS = itertools.count()


def has(flag: str) -> bool:
    return (FLAGS / flag).exists()


def value(flag: str, otherwise: str = "") -> str:
    try:
        return (FLAGS / flag).read_text()
    except FileNotFoundError:
        return otherwise


def put(flag: str, text: str) -> None:
    if text == "+1":
        text = str(int(value(flag, "0")) + 1)
    (FLAGS / flag).write_text(text)


def drop(flag: str) -> None:
    (FLAGS / flag).unlink(missing_ok=True)


def note(line: str) -> None:
    with LOG.open("a") as file:
        file.write(f"{line}\n")


def say(text: str) -> None:
    sys.stdout.write(text)


def metrics(own: str) -> str:
    return (ANSWERS / "merged.txt").read_text().replace("VERSION", own)


def refuse(reason: str) -> None:
    sys.exit(f"error: {reason}")


# What is made here: a function for each kind of call, whose words its regular expression holds.

Handler = Callable[[re.Match[str]], object]
HANDLERS: list[tuple[str, Handler]] = []


def on(expression: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS.append((expression, handler))
        return handler

    return register


def version(turn: int) -> str:
    """Which version takes a connection, by the route's weight for v1.

    In turn, not at random: of ten random connections, now and then all go to one version.
    """
    weight = int(value("route", "50"))
    return "one" if (turn + 1) * weight // 100 > turn * weight // 100 else "two"


@on(r"exec deploy/curl -c curl -- sh -c echo hello \| nc (?:-w 5 )?(\S+) (\d+)")
def call_from_inside(call: re.Match[str]) -> None:
    """From inside the mesh; port 9002 of a pod is passed through in plain text."""
    if call[2] == "9002" and not has("permissive"):
        refuse("exit code 1")
    turn = LOG.read_text().count("echo hello")
    say(f"{version(turn)} hello\n")


@on(r"exec outsider -c outsider -- sh -c echo hello \| nc -w 5 \S+ \d+")
def call_from_outside(_call: re.Match[str]) -> None:
    refuse("exit code 1")


@on(r"exec outsider -c outsider -- nc -z -w 3 (\S+) (\d+)")
def connect_from_outside(call: re.Match[str]) -> None:
    behind_a_wall = call[1] == WALLED and has("walled")
    if has("enforced") and (behind_a_wall or call[2] == "9999"):
        refuse("exit code 1")


@on(r"exec outsider -c outsider -- curl -sf -m 10 http://([\d.]+):(\d+)/\S+")
def scrape_from_outside(call: re.Match[str]) -> None:
    if call[2] == "9464" and not has("exception"):
        refuse("exit code 56")
    say(metrics(ADDRESSES[call[1]]))


@on(r"exec \S+ -c tcp-echo -- python3 -c (?s:.*)SIGSTOP(?s:.*)")
def freeze(_call: re.Match[str]) -> None:
    put("frozen", "")
    say("stopped\n")


def pod(address: str) -> dict[str, Any]:
    """A pod of the exercise, in the shape that the flags ask for."""
    own = ADDRESSES[address]
    ambient = has("ambient")
    node = "node-2" if has("drained") or address.endswith("2") else "node-1"
    if has("stacked"):
        node = "node-1"
    probe = {"httpGet": {"path": "/app-health/tcp-echo/readyz", "port": AGENT}}
    name = f"tcp-echo-{own}-{value('generation', '0')}-{address[-1]}"
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "labels": {"app": "tcp-echo", "version": own},
            "annotations": {"ambient.istio.io/redirection": "enabled"} if ambient else {},
        },
        "spec": {
            "nodeName": node,
            "shareProcessNamespace": own == "v2" and has("shared"),
            "initContainers": [] if ambient or has("classic") else [PROXY],
            "containers": [
                {"name": "tcp-echo", "readinessProbe": probe, "livenessProbe": probe},
            ],
        },
        "status": {
            "podIP": address,
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "tcp-echo", "restartCount": int(has("frozen"))}],
        },
    }


AGENT = 15020
PROXY = {"name": "istio-proxy", "restartPolicy": "Always"}


@on(r"get pods(?: -l (\S+))? -o json")
def pods(call: re.Match[str]) -> None:
    selector = call[1] or ""
    found: list[dict[str, Any]]
    if selector == "app=walled":
        found = [{"metadata": {"name": "walled"}, "status": {"podIP": WALLED}}]
    elif selector == "app=curl":
        container = {"name": "curl", "image": "docker.io/curlimages/curl:8.16.0"}
        found = [{"metadata": {"name": "curl"}, "spec": {"containers": [container]}}]
    elif "job-name" in selector:
        found = [{"metadata": {"name": "few"}, "spec": {"initContainers": [PROXY]}}]
    else:
        _, _, wanted = selector.partition("version=")
        found = [pod(one) for one, own in ADDRESSES.items() if wanted in ("", own)]
    say(json.dumps({"items": found}))


@on(r"get pod (\S+) -o json")
def one_pod(_call: re.Match[str]) -> None:
    say(json.dumps(pod("10.0.0.21")))


@on(r"apply -f -")
def apply(_call: re.Match[str]) -> None:
    import yaml  # noqa: PLC0415  # the many calls that need none start sooner

    for one in yaml.safe_load_all(sys.stdin):
        match one["kind"], one["metadata"]["name"]:
            case "NetworkPolicy", "walled":
                put("walled", "")
            case "PeerAuthentication", _:
                put("exception", "")


@on(r"get job (\S+) -o json")
def job(call: re.Match[str]) -> None:
    """It runs for two looks, and then has ended."""
    looks = f"looks at {call[1]}"
    put(looks, "+1")
    if int(value(looks)) <= 2:
        say(json.dumps({"status": {"active": 1, "ready": 1}}))
    else:
        kind = "Failed" if has("lossy") and call[1] != "few" else "Complete"
        say(json.dumps({"status": {"conditions": [{"type": kind, "status": "True"}]}}))


@on(r"logs job/(rollout|drained) -c probe")
def report(_call: re.Match[str]) -> None:
    failures = {"reset": 4} if has("lossy") else {}
    versions = [{"name": "one"}, {"name": "two"}]
    say(json.dumps({"connections": 18000, "failures": failures, "versions": versions}))


@on(r"port-forward (\S+) (\d+)(?::\d+)?")
def forward(call: re.Match[str]) -> None:
    """Until it is ended, or a connection finds no route."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with socket.create_server(("127.0.0.1", int(call[2])), backlog=512) as listener:
            serve(listener, metrics_page if call[2] == "9464" else lines)
    except OSError as error:
        refuse(f"unable to listen on port {call[2]}: {error.strerror}")
    finally:
        note(f"ended {call[0]}")


def serve(listener: socket.socket, speak: Callable[[socket.socket], None]) -> None:
    while True:
        connection, _ = listener.accept()
        if speak is lines and not has("route"):
            connection.close()
            refuse("lost connection to pod")
        threading.Thread(target=speak, args=[connection], daemon=True).start()


def lines(connection: socket.socket) -> None:
    prefix = version(next(TURNS)).encode()
    with connection, connection.makefile("rwb") as stream:
        for line in stream:
            stream.write(prefix + b" " + line)
            stream.flush()


def metrics_page(connection: socket.socket) -> None:
    """One answer, and the connection ends."""
    with connection:
        connection.recv(65536)
        text = metrics("v2")
        connection.sendall(f"HTTP/1.0 200 OK\r\n\r\n{text}".encode())


def call_of(words: list[str]) -> str:
    """The words without the namespace, wherever it stands."""
    if "-n" in words:
        place = words.index("-n")
        words = words[:place] + words[place + 2 :]
    return " ".join(words)


def trouble(call: str) -> None:
    """What a flag says of calls that fail, or never end."""
    if has("broken") and re.search(value("broken"), call):
        refuse("broken")
    if has("slow") and re.search(value("slow"), call):
        put("waiting", "")
        signal.pause()


def answer(call: str) -> bool:
    """Whether the file has an answer, which is given then."""
    import yaml  # noqa: PLC0415  # as above

    for one in yaml.safe_load((ANSWERS / "calls.yaml").read_text()):
        if re.fullmatch(one["call"], call) and all(map(has, one.get("if", []))):
            say(json.dumps(one["gives"]) if "gives" in one else one.get("says", ""))
            for flag, text in one.get("sets", {}).items():
                put(flag, text)
            for flag in one.get("drops", []):
                drop(flag)
            return True
    return False


def main(call: str) -> None:
    note(call)
    trouble(call)
    for expression, handler in HANDLERS:
        if found := re.fullmatch(expression, call):
            handler(found)
            return
    if not answer(call):
        refuse(f"the stand-in has no answer: {call}")


main(call_of(sys.argv[1:]))
