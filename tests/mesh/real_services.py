"""Two versions each of real servers, on ports of their own, as an unprivileged user."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from support.encrypted import CERTIFICATES

from echod.lab.processes import Process, free_port

LOOPBACK = "127.0.0.1"
VERSIONS = ("one", "two")
START_SECONDS = 120.0
STOP_SECONDS = 20.0

PROGRAMS = {
    "haproxy": "haproxy",
    "mariadbd": "mariadb-server",
    "mosquitto": "mosquitto",
    "nginx": "nginx-light",
    "redis-server": "redis-server",
    "sshd": "openssh-server",
}
"""And the Debian packages that have them; PostgreSQL's are in a directory for each release."""

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]

Ports = Mapping[str, int]
"""Of the two versions."""


def check() -> None:
    """Says what is missing."""
    for program, package in PROGRAMS.items():
        assert shutil.which(program), f"{program} is missing: apt-get install {package}"
    assert POSTGRES, "PostgreSQL is missing: apt-get install postgresql"


def listens(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection((LOOPBACK, port)).close()
        return True
    return False


@dataclass
class Host:
    """A directory that nobody may write to, and what runs in it."""

    directory: Path
    running: ExitStack

    def make(self, *words: str | Path) -> None:
        """Runs a program to its end."""
        done = subprocess.run(
            as_nobody(words), check=False, cwd=self.directory, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words[0]}: {done.stdout}{done.stderr}"

    def run(self, name: str, words: Sequence[str | Path], port: int) -> None:
        """Starts a program, and waits until it listens."""
        process = Process(name, as_nobody(words), self.directory)
        self.running.callback(process.stop, STOP_SECONDS)
        process.wait_until(lambda: listens(port), START_SECONDS, "does not listen")

    def write(self, name: str, text: str) -> Path:
        """A file of this directory."""
        path = self.directory / name
        path.write_text(text)
        return path


def as_nobody(words: Sequence[str | Path]) -> list[str | Path]:
    if os.getuid():
        return list(words)
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *words]


@contextmanager
def host() -> Iterator[Host]:
    """What runs in it ends with it."""
    check()
    # Not pytest's, into which nobody but root may look.
    directory = Path(tempfile.mkdtemp(prefix="echod-services-"))
    directory.chmod(0o755)
    if not os.getuid():
        shutil.chown(directory, "nobody", "nogroup")
    with ExitStack() as running:
        running.callback(shutil.rmtree, directory, ignore_errors=True)
        yield Host(directory, running)


def two_ports() -> dict[str, int]:
    return {version: free_port() for version in VERSIONS}


def redis(on: Host) -> Ports:
    """They differ by their ports."""
    ports = two_ports()
    for version, port in ports.items():
        words = ["redis-server", "--port", str(port), "--bind", LOOPBACK, "--save", ""]
        on.run(f"redis-{version}", words, port)
    return ports


def postgres(on: Host) -> Ports:
    """They differ by what they have as a client's application_name."""
    ports, programs = two_ports(), POSTGRES[0]
    made = on.directory / "postgres-one"
    on.make(programs / "initdb", "-D", made, "-A", "trust", "-U", "postgres", "--no-sync")
    on.make("cp", "-r", made, on.directory / "postgres-two")
    for version, port in ports.items():
        data = on.directory / f"postgres-{version}"
        words: list[str | Path] = [programs / "postgres", "-D", data, "-p", str(port)]
        settings = {
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "application_name": version,
            "shared_buffers": "8MB",
        }
        words += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        on.run(f"postgres-{version}", words, port)
    return ports


def mariadb(on: Host) -> Ports:
    """They differ by the version that they say, and have a user without password or rights."""
    ports = two_ports()
    made = on.directory / "mariadb-one"
    on.make(
        "mariadb-install-db",
        "--no-defaults",
        f"--datadir={made}",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
    )
    on.make("cp", "-r", made, on.directory / "mariadb-two")
    users = on.write("users.sql", "CREATE USER IF NOT EXISTS probe@'%' IDENTIFIED BY '';\n")
    for version, port in ports.items():
        words = [
            "mariadbd",
            "--no-defaults",
            f"--datadir={on.directory}/mariadb-{version}",
            f"--socket={on.directory}/mariadb-{version}.sock",
            f"--port={port}",
            f"--bind-address={LOOPBACK}",
            f"--version=10.11.19-MariaDB-{version}",
            f"--init-file={users}",
            "--innodb-buffer-pool-size=8M",
            "--log-warnings=4",
        ]
        on.run(f"mariadb-{version}", words, port)
    return ports


def mosquitto(on: Host) -> Ports:
    """They differ by a retained message."""
    ports = two_ports()
    for version, port in ports.items():
        path = on.write(
            f"mosquitto-{version}.conf", f"listener {port} {LOOPBACK}\nallow_anonymous true\n"
        )
        on.run(f"mosquitto-{version}", ["mosquitto", "-c", path], port)
        retain(port, "version", version)
    return ports


def retain(port: int, topic: str, message: str) -> None:
    """Publishes a message that stays."""
    body = bytes([0, len(topic)]) + topic.encode() + message.encode()
    with socket.create_connection((LOOPBACK, port)) as broker:
        broker.sendall(b"\x10\x0d\0\4MQTT\4\2\0\x3c\0\1x" + bytes([0x31, len(body)]) + body)
        broker.sendall(b"\xc0\0")
        said = b""
        while b"\xd0\0" not in said:
            said += broker.recv(99) or b"\xd0\0"
        broker.sendall(b"\xe0\0")


def sshd(on: Host) -> Ports:
    """They differ by what they add to the banner."""
    ports = two_ports()
    key = on.directory / "ssh-key"
    on.make("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    for version, port in ports.items():
        settings = {
            "ListenAddress": f"{LOOPBACK}:{port}",
            "HostKey": str(key),
            "PidFile": "none",
            "UsePAM": "no",
            "VersionAddendum": version,
            "MaxStartups": "1000",
        }
        text = "".join(f"{name} {value}\n" for name, value in settings.items())
        path = on.write(f"sshd-{version}.conf", text)
        on.run(f"sshd-{version}", [shutil.which("sshd") or "", "-D", "-e", "-f", path], port)
    return ports


def nginx(on: Host) -> tuple[Ports, Ports]:
    """HTTP, which differs by a header, and HTTPS, which differs by the certificate."""
    plain, encrypted = two_ports(), two_ports()
    servers = ""
    for version in VERSIONS:
        shutil.copy(CERTIFICATES / f"{version}.pem", on.directory)
        (on.directory / f"{version}.pem").chmod(0o644)
        servers += f"""\
  server {{
    listen {LOOPBACK}:{plain[version]} backlog=4096;
    listen {LOOPBACK}:{encrypted[version]} ssl backlog=4096;
    ssl_certificate {on.directory}/{version}.pem;
    ssl_certificate_key {on.directory}/{version}.pem;
    add_header X-Version {version};
    return 204;
  }}
"""
    paths = "".join(
        f"  {kind}_temp_path {on.directory};\n"
        for kind in ("client_body", "fastcgi", "proxy", "scgi", "uwsgi")
    )
    path = on.write(
        "nginx.conf",
        f"""\
daemon off;
worker_processes 1;
pid {on.directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
{paths}{servers}}}
""",
    )
    words = ["nginx", "-c", str(path), "-p", str(on.directory), "-e", "stderr"]
    on.run("nginx", words, plain["one"])
    return plain, encrypted
