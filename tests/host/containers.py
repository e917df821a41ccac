"""An image, built and run for real: buildah, podman and crun, with storage of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from support import ROOT, until

TOOLS = {"debootstrap": "debootstrap", "buildah": "buildah", "podman": "podman", "crun": "crun"}
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
HOLD = "mount -t cgroup2 none /sys/fs/cgroup && echo ready && exec sleep infinity"
RUN = [
    "--runtime=crun",
    "--network=none",
    "--cgroups=disabled",
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=4096:4096",
]
"""What a container needs where there is no cgroup of its own; its network is its loopback."""

BUSYBOX = [
    "busybox",
    "sh",
    "-c",
    "for file in /usr/bin/* /usr/sbin/*; do"
    " case $file in *python3* | */busybox) ;; *) busybox rm -f $file ;; esac;"
    " done; busybox --install -s /usr/bin; test ! -e /usr/bin/apt && test -L /usr/bin/timeout",
]
"""Leaves nothing but Python and busybox in the place of all programs."""


class Engine:
    """Builders and runners see a mount namespace with cgroups, and nothing of other images."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for tool, package in TOOLS.items():
            assert shutil.which(tool), f"{tool} is missing: apt-get install {package}"
        (directory / "storage.conf").write_text(
            "[storage]\n"
            'driver = "vfs"\n'
            f'runroot = "{directory}/run"\n'
            f'graphroot = "{directory}/graph"\n'
        )
        # A new mount namespace begins at its root.
        self._environment = ("env", "-C", ROOT, f"CONTAINERS_STORAGE_CONF={directory}/storage.conf")
        self._holder = subprocess.Popen(
            ["unshare", "-m", "-C", "sh", "-c", HOLD],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout
        assert self._holder.stdout.readline() == "ready\n"

    def __call__(self, *words: str | Path, check: bool = True, seconds: float = 300) -> str:
        """What a command prints; its errors too if it fails."""
        result = subprocess.run(
            ["nsenter", "-m", "-C", "-t", str(self._holder.pid), *self._environment, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if check:
            assert result.returncode == 0, f"{words}: {result.stdout}{result.stderr}"
        return result.stdout + ("" if check else result.stderr)

    def make_base(self, name: str) -> None:
        """A slim base: Debian's Python, its standard library not compiled, as slim images are."""
        tree = self.directory / "tree"
        packages = "python3,python3-venv,ca-certificates,busybox"
        self("debootstrap", "--variant=minbase", f"--include={packages}", "trixie", tree)
        self("find", tree / "usr/lib", "-name", "*.pyc", "-delete")
        self("tar", "-C", tree, "-cf", self.directory / "base.tar", ".")
        made = self("buildah", "from", "scratch").strip()
        self("buildah", "add", "-q", made, self.directory / "base.tar", "/")
        self("buildah", "commit", "-q", made, name)
        self("buildah", "rm", made)
        shutil.rmtree(tree)

    def make_busybox_base(self, name: str, base: str) -> None:
        """The same with no program but Python and busybox, as Alpine has it."""
        self.derive(name, base, "buildah", "run", "--isolation=chroot", "{}", "--", *BUSYBOX)

    def make_users_base(self, name: str, base: str) -> None:
        """The same with a user, an entry point and settings of its own, as Red Hat's are."""
        home = "/opt/app-root/src"
        options = ["--user=1001:0", f"--workingdir={home}", '--entrypoint=["container-entrypoint"]']
        options += ["--env=PIP_USER=1", "--env=PIP_NO_CACHE_DIR=off", f"--env=HOME={home}"]
        self.derive(name, base, "buildah", "config", *options, "{}")

    def derive(self, name: str, base: str, *command: str) -> None:
        """An image by one command on another; ``{}`` in it stands for what it is made in."""
        made = self("buildah", "from", "--pull-never", base).strip()
        self(*[made if word == "{}" else word for word in command])
        self("buildah", "commit", "-q", made, name)
        self("buildah", "rm", made)

    def make_image(self, name: str, base: str) -> None:
        """As a user does it, with this host's certificates for its network."""
        options = f"--isolation chroot --pull-never --volume {CERTIFICATES}:{CERTIFICATES}:ro"
        self(
            "make",
            "image",
            "BUILDER=buildah",
            f"IMAGE={name}",
            f"BASE={base}",
            f"BUILD_OPTIONS={options}",
        )

    def close(self) -> None:
        self("podman", "rm", "-af", "-t", "0", check=False)
        self._holder.kill()
        self._holder.communicate()


class Container:
    """Locked down as far as it goes: read-only, no temporary files, no capability."""

    def __init__(
        self, engine: Engine, image: str, *words: str, options: Sequence[str] = ()
    ) -> None:
        self._engine = engine
        hard = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=all"]
        hard += ["--security-opt=no-new-privileges"]
        self.name = engine("podman", "run", "-d", *RUN, *hard, *options, image, *words).split()[-1]
        self.pid = self.inspect("{{.State.Pid}}")

    def inspect(self, template: str) -> str:
        return self._engine("podman", "inspect", self.name, "--format", template).strip()

    def events(self) -> list[dict[str, object]]:
        lines = self._engine("podman", "logs", self.name).splitlines()
        return [json.loads(line) for line in lines]

    def run(self, *words: str, check: bool = True) -> str:
        return self._engine("podman", "exec", self.name, *words, check=check)

    def wait_ready(self) -> None:
        until(lambda: self.run("echod", "health", check=False) == "ready\n", timeout=20)

    def client(self, *words: str) -> subprocess.Popen[bytes]:
        """A program of this host on the container's network."""
        return subprocess.Popen(
            ["nsenter", "-n", "-t", self.pid, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def stop(self) -> str:
        """SIGTERM to PID 1; gives its exit status."""
        self._engine("podman", "stop", "-t", "20", self.name)
        return self.inspect("{{.State.ExitCode}}")
