"""The image, built by buildah on a slim base and run by podman as hard as it goes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import RUN, Container, Engine
from support import ROOT

import echod

IMAGE = "localhost/echod:tested"
BASE = "localhost/slim:base"
REFERENCE_ARGUMENTS = ("9000,9001,9002", "one")
"""As the sample's manifests give them."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("images"))
    try:
        engine.make_base(BASE)
        engine.make_image(IMAGE, BASE)
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def serving(engine: Engine) -> Container:
    container = Container(engine, IMAGE, *REFERENCE_ARGUMENTS)
    container.wait_ready()
    return container


def test_the_references_arguments_work_unchanged(serving: Container) -> None:
    """On all three ports, for a client that half-closes."""
    for port in ("9000", "9001", "9002"):
        replies, _ = serving.client("nc", "-N", "127.0.0.1", port).communicate(b"hi\n", timeout=10)
        assert replies == b"one hi\n"
    replies, _ = serving.client("nc", "-N", "::1", "9000").communicate(b"hi\n", timeout=10)
    assert replies == b"one hi\n"


def test_in_the_image_echod_is_pid_1_without_privileges(serving: Container) -> None:
    """PID 1, user and group 65532, no capability, no file that it could write."""
    status = dict(
        line.split(":\t", 1)
        for line in serving.run("python3", "-c", "print(open('/proc/1/status').read())").split("\n")
        if ":\t" in line
    )
    assert (status["Name"], status["Uid"].split(), status["Gid"].split()) == (
        "echod",
        ["65532"] * 4,
        ["65532"] * 4,
    )
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    refused = serving.run("python3", "-c", "open('/tmp/file', 'w')", check=False)
    assert "Read-only file system" in refused


def test_the_health_check_of_the_image_passes(engine: Engine, serving: Container) -> None:
    """The format in which it is built keeps it."""
    assert serving.inspect("{{.Config.Healthcheck.Test}}") == "[CMD echod health]"
    engine("podman", "healthcheck", "run", serving.name)


def test_a_stop_drains_and_exits_with_0(engine: Engine) -> None:
    """What a client has half-closed is answered in full."""
    container = Container(engine, IMAGE, *REFERENCE_ARGUMENTS)
    container.wait_ready()
    client = container.client("nc", "127.0.0.1", "9000")
    assert client.stdin
    assert client.stdout
    client.stdin.write(b"a\n")
    client.stdin.flush()
    assert client.stdout.readline() == b"one a\n"
    assert container.stop() == "0"
    assert client.communicate(timeout=10)[0] == b""
    events = container.events()
    assert [event["event"] for event in events][-3:] == [
        "draining",
        "connection closed",
        "stopped",
    ]
    assert events[-2]["reason"] == "drain"


def test_without_arguments_it_is_the_references_default(engine: Engine) -> None:
    """Port 9000, prefix hello."""
    container = Container(engine, IMAGE)
    container.wait_ready()
    replies, _ = container.client("nc", "-N", "127.0.0.1", "9000").communicate(b"x\n", timeout=10)
    assert replies == b"hello x\n"
    assert container.stop() == "0"


@pytest.mark.parametrize("kind", ["busybox", "users"])
def test_bases_with_busybox_or_an_unprivileged_user_serve(engine: Engine, kind: str) -> None:
    """With busybox for every tool; or with an unprivileged user, as whom nothing could be built."""
    getattr(engine, f"make_{kind}_base")(f"localhost/{kind}:base", BASE)
    image = f"localhost/echod:{kind}"
    engine.make_image(image, f"localhost/{kind}:base")
    container = Container(engine, image, *REFERENCE_ARGUMENTS)
    container.wait_ready()
    replies, _ = container.client("nc", "-N", "127.0.0.1", "9001").communicate(b"x\n", timeout=10)
    assert replies == b"one x\n"
    engine("podman", "healthcheck", "run", container.name)
    assert "\t65532\t" in container.run("python3", "-c", "print(open('/proc/1/status').read())")
    assert container.stop() == "0"


def test_a_base_without_what_it_needs_is_refused_by_name(engine: Engine) -> None:
    """In one line, before anything is fetched."""
    remove = ("buildah", "run", "--isolation=chroot", "{}", "--", "sh", "-c")
    for what in ("rm -r /usr/lib/python3*/ensurepip", "rm /usr/bin/python3*"):
        engine.derive("localhost/poor:base", BASE, *remove, what)
        with pytest.raises(AssertionError, match=r"BASE must have Python 3.11 or later as python3"):
            engine.make_image("localhost/echod:poor", "localhost/poor:base")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["health"], "not ready: http://127.0.0.1:9464/readyz: "),
        (["--version"], f"echod {echod.__version__}\n"),
        (["probe", "--plan", "--expect", "one=80,two=20", "--quiet"], "6848\n"),
        (["9000", "one", "--max-connections", "many"], "--max-connections"),
    ],
)
def test_arguments_of_podman_run_reach_echod(engine: Engine, words: list[str], answer: str) -> None:
    """What follows the image's name is the command line, with its exit status and no traceback."""
    said = engine("podman", "run", "--rm", *RUN, IMAGE, *words, check=False)
    assert answer in said
    assert "Traceback" not in said


def test_the_image_needs_no_shell(engine: Engine) -> None:
    """With the shells of the base hidden it serves, is found healthy and stops."""
    shells = [f"--volume=/dev/null:/usr/bin/{shell}:ro" for shell in ("dash", "bash")]
    container = Container(engine, IMAGE, *REFERENCE_ARGUMENTS, options=shells)
    container.wait_ready()
    with pytest.raises(AssertionError, match="ermission denied"):
        container.run("sh", "-c", "true")
    engine("podman", "healthcheck", "run", container.name)
    assert container.stop() == "0"


def test_the_image_compiles_no_module_at_run_time(engine: Engine) -> None:
    """A read-only root could not keep it, and each start and health check would take longer."""
    script = (
        "import echod.process.daemon, echod.process.health_check, os, sys;"
        "print([n for n, m in list(sys.modules.items())"
        " if getattr(m, '__cached__', None) and not os.path.exists(m.__cached__)])"
    )
    found = engine("podman", "run", "--rm", *RUN, "--entrypoint=python3", IMAGE, "-c", script)
    assert found == "[]\n"


def test_the_image_has_its_labels(engine: Engine) -> None:
    """Title, version and revision by the open standard's labels."""
    config = json.loads(engine("buildah", "inspect", "--type", "image", IMAGE))["Docker"]["config"]
    prefix = "org.opencontainers.image."
    labels = {key.removeprefix(prefix): value for key, value in config["Labels"].items()}
    assert (labels["title"], labels["version"], labels["licenses"]) == (
        "echod",
        echod.__version__,
        "Apache-2.0",
    )
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert labels["revision"] == revision.stdout.strip()


def test_the_bill_of_materials_names_what_is_inside(engine: Engine) -> None:
    """Ours, the two libraries, Python and the base's packages, the same each time."""
    words = [*RUN, "--entrypoint=/opt/echod/bin/python", IMAGE, "-I", "-c"]
    script = (ROOT / "tools/sbom.py").read_text()
    said = engine("podman", "run", "--rm", *words, script)
    assert engine("podman", "run", "--rm", *words, script) == said
    document = json.loads(said)
    own = document["metadata"]["component"]
    assert (own["name"], own["version"]) == ("tcp-echod", echod.__version__)
    purls = {one["purl"].partition("@")[0] for one in document["components"] if "purl" in one}
    assert {"pkg:pypi/structlog", "pkg:pypi/prometheus-client", "pkg:generic/python"} <= purls
    assert {"pkg:deb/debian/libc6", "pkg:deb/debian/python3-minimal"} <= purls
    assert len(purls) == len(document["components"]) - 1
    assert document["specVersion"] == "1.5"


def test_hadolint_reports_nothing() -> None:
    """The usual mistakes in a Dockerfile."""
    result = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "")
