"""make runs the same, whatever other programs have left in the environment or in pip.conf."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from support import ROOT, clean_environment

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = (
    "run",
    "test",
    "test-real",
    "test-cluster",
    "lab",
    "soak",
    "bench",
    "lint",
    "lock",
    "install",
    "image",
)
INSTALL = ROOT / "tools/pip_install.py"


def environment(**variables: str) -> dict[str, str]:
    """Without what the make that runs the tests has been given."""
    own = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "MAKEFILES"}
    return {
        name: value for name, value in clean_environment().items() if name not in own
    } | variables


def make(*words: str, **variables: str) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def variables() -> set[str]:
    return {
        *re.findall(r"\$[({](\w+)[)}]", MAKEFILE),
        *re.findall(r"^(\w+) *[?:]?=", MAKEFILE, re.MULTILINE),
    }


@pytest.mark.parametrize("target", TARGETS)
def test_exported_variables_do_not_change_what_make_does(target: str) -> None:
    """PREFIX=/usr/local, say: every name that the Makefile uses is taken for another's here."""
    names = variables()
    assert {"PREFIX", "PORTS", "VENV", "BIN", "IMAGE", "PYTHON", "BUILD_OPTIONS", "BASE"} <= names
    assert make("-n", target, **dict.fromkeys(names, "/usr/local")) == make("-n", target)


def test_variables_on_the_command_line_change_what_make_does() -> None:
    """As the README says, and a prefix of the user's own may have spaces."""
    run = make("-n", "run", "PORTS=9000", "PREFIX=it's one", "VENV=other").splitlines()
    assert run[-1] == r"other/bin/echod '9000' 'it'\''s one'"
    image = make(
        "-n", "image", "IMAGE=mine", "BASE=base", "BUILDER=builder", "BUILD_OPTIONS=--pull"
    )
    assert image.startswith("[ -n")
    assert "\nbuilder build " in image
    assert image.endswith("--build-arg BASE=base --pull -t mine .\n")


def test_echod_ports_and_echod_prefix_change_what_make_runs() -> None:
    """No other program uses them."""
    run = make("-n", "run", ECHOD_PORTS="7000,7001", ECHOD_PREFIX="it's $(PORTS)").splitlines()
    assert run[-1].endswith(r"/echod '7000,7001' 'it'\''s $(PORTS)'")


def test_pythonpath_does_not_add_modules() -> None:
    """PYTHONPATH is there for other programs: it would come before the environment's packages."""
    shown = make(
        "-f", "Makefile", "--eval", "show: ; @env", "show", PYTHONPATH="/other", PYTHONHOME="/other"
    )
    assert "PATH=" in shown
    assert "/other" not in shown


def test_make_installs_with_the_pip_wrapper_alone() -> None:
    """But by the one that knows what of that counts."""
    for path in (ROOT / "Makefile", ROOT / "systemd/install.sh"):
        assert "pip_install.py" in path.read_text()
        assert not re.search(r"\bpip3? install\b|-m pip\b", path.read_text())


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A package index with one package, which is a command too."""
    root = tmp_path_factory.mktemp("index")
    package = root / "simple" / "tiny"
    package.mkdir(parents=True)
    with zipfile.ZipFile(package / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "def main(): print('tiny')\n")
        info = "tiny-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\ntiny = tiny:main\n")
        wheel.writestr(f"{info}/RECORD", "")
    handler = partial(Silent, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made") / "venv"
    venv.create(home, with_pip=True)
    return home / "bin/python"


def install(interpreter: Path, directory: Path, **variables: str) -> str:
    """What is said by the command that is installed afterwards."""
    elsewhere = {name: value for name, value in environment().items() if name[:4] != "PIP_"}
    subprocess.run(
        [interpreter, INSTALL, "--force-reinstall", "tiny"],
        env=elsewhere | home(directory) | variables,
        cwd=ROOT,
        timeout=300,
        check=True,
    )
    command = interpreter.parent / "tiny"
    said = subprocess.run([command], capture_output=True, text=True, check=True).stdout
    command.unlink()
    return said


def home(directory: Path) -> dict[str, str]:
    return dict.fromkeys(("HOME", "XDG_CONFIG_HOME"), str(directory / "home"))


def conf(directory: Path, text: str) -> None:
    path = directory / "home/pip/pip.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_pip_variables_do_not_move_the_install(
    tmp_path: Path, interpreter: Path, index: str
) -> None:
    """And where packages come from stays as it is set."""
    (tmp_path / "other.txt").write_text("no-such-package-here==1\n")
    said = install(
        interpreter,
        tmp_path,
        PIP_INDEX_URL=index,
        PIP_USER="1",
        PIP_TARGET=str(tmp_path / "target"),
        PIP_PREFIX=str(tmp_path / "prefix"),
        PIP_ROOT=str(tmp_path / "root"),
        PIP_REQUIRE_VIRTUALENV="1",
        PIP_CONSTRAINT=str(tmp_path / "missing.txt"),
        PIP_REQUIREMENT=str(tmp_path / "other.txt"),
        PIP_DRY_RUN="1",
    )
    assert said == "tiny\n"
    assert {*os.listdir(tmp_path)} <= {"other.txt", "home"}


def test_a_pip_conf_does_not_move_the_install(
    tmp_path: Path, interpreter: Path, index: str
) -> None:
    """The user's own, whose index counts, but for what a variable says."""
    conf(
        tmp_path,
        f"[global]\nuser = true\nindex-url = {index}\n[install]\ntarget = {tmp_path}/target\n"
        "constraint = missing.txt\n",
    )
    assert install(interpreter, tmp_path) == "tiny\n"
    assert os.listdir(tmp_path) == ["home"]
    conf(tmp_path, "[global]\nindex-url = http://127.0.0.1:1/\n")
    assert install(interpreter, tmp_path, PIP_INDEX_URL=index) == "tiny\n"


def test_a_pip_conf_that_cannot_be_read_stops_the_install(
    tmp_path: Path, interpreter: Path
) -> None:
    """By what pip says of it."""
    conf(tmp_path, "user = true\n")
    done = subprocess.run(
        [interpreter, INSTALL, "tiny"],
        env=environment(**home(tmp_path)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode not in (0, None)
    assert "pip.conf" in done.stderr
    assert "Traceback" not in done.stderr


class Index(http.server.BaseHTTPRequestHandler):
    """A package index without packages, which records its clients."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def test_a_pip_that_is_set_to_be_quiet_keeps_its_index(tmp_path: Path) -> None:
    """What it lists of its settings is what the installation goes by."""
    settings = tmp_path / "pip.conf"
    others = {name: "" for name in environment() if name.startswith("PIP_")}
    with http.server.HTTPServer(("127.0.0.1", 0), Index) as index:
        url = f"http://127.0.0.1:{index.server_port}/simple"
        settings.write_text(f"[global]\nquiet = 1\nindex-url = {url}\n")
        serving = threading.Thread(target=index.serve_forever)
        serving.start()
        done = subprocess.run(
            [sys.executable, INSTALL, "--retries", "0", "no-such-thing"],
            env=environment(**others, PIP_CONFIG_FILE=str(settings)),
            capture_output=True,
            timeout=300,
            check=False,
        )
        index.shutdown()
        serving.join()
    assert done.returncode == 1
    assert Index.asked == ["/simple/no-such-thing/"]
