"""Builds the files of a release: ``python tools/dist.py DIRECTORY``.

A source distribution, a wheel, and ``echod.pyz``, one file with echod and the two libraries that it
needs. The same sources give the same bytes. Every file in them has the time SOURCE_DATE_EPOCH, or
without that variable the time of the current commit.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from time import gmtime

ROOT = Path(__file__).parent.parent
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "echod")
MAIN = """\
import sys

if sys.version_info < (3, 11):
    sys.exit("echod: error: Python %d.%d: must be Python 3.11 or later" % sys.version_info[:2])

from echod.__main__ import main

sys.exit(main())
"""


def epoch() -> int:
    """The time of every file, in seconds since 1970."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        words = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        given = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    if not (given.isascii() and given.isdigit()):
        raise SystemExit(
            f"make: SOURCE_DATE_EPOCH {given[:40]!r}: must be seconds since 1970; only in a git"
            " checkout it may be left out"
        )
    return max(int(given), 315_532_800)  # a zip file knows no year before 1980


def level(tree: Path, time: int) -> None:
    """Give all files below ``tree`` the same time, and permissions independent of the user."""
    for path in [tree, *tree.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (time, time))


def copied(tree: Path) -> Path:
    """Only the package's sources: a build leaves files beside them."""
    tree.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree)
    return tree


def build(kind: str, tree: Path, target: Path) -> Path:
    """The distribution that setuptools builds from a tree, with the installed packages."""
    words = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "-o", str(target)]
    subprocess.run([*words, str(tree)], check=True, stdout=subprocess.DEVNULL)
    (path,) = target.iterdir()
    return path


def repacked(archive: Path, time: int) -> bytes:
    """A source distribution with its entries sorted and stripped of times and owners."""
    packed = io.BytesIO()
    with (
        tarfile.open(archive) as old,
        gzip.GzipFile("", "wb", fileobj=packed, mtime=time) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda one: one.name):
            entry = tarfile.TarInfo(member.name)
            entry.type, entry.size, entry.mtime = member.type, member.size, time
            entry.mode = 0o755 if member.isdir() else 0o644
            new.addfile(entry, old.extractfile(member) if member.isfile() else None)
    return packed.getvalue()


def one_file(wheel: Path, tree: Path, time: int, target: Path) -> None:
    """``echod.pyz``: the wheel and its dependencies in one zip file that Python runs."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    pip += ["--no-compile", "--target", str(tree)]
    locked = ["--require-hashes", "-r", str(ROOT / "requirements/run.lock")]
    for what in (locked, ["--no-deps", "--no-index", str(wheel)]):
        subprocess.run([*pip, *what], check=True)
    shutil.rmtree(tree / "bin")
    for record in tree.glob("*.dist-info/*"):
        # Remove pip's records of where it found the packages.
        if record.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
            record.unlink()
    (tree / "__main__.py").write_text(MAIN)
    target.write_bytes(b"#!/usr/bin/env python3\n" + zipped(tree, time))
    target.chmod(0o755)


def zipped(tree: Path, time: int) -> bytes:
    """A zip file of a tree. The module zipapp would take files in directory order, with local
    times.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(tree).as_posix(), gmtime(time)[:6])
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def main(target: Path) -> None:
    """Write the three files into ``target``, after emptying it."""
    time = epoch()
    os.umask(0o022)
    os.environ |= {"SOURCE_DATE_EPOCH": str(time), "TZ": "UTC"}  # zip files hold local times
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        tree = copied(work / "source")
        level(tree, time)
        made = work / "made"
        made.mkdir()
        sdist = build("sdist", tree, work / "sdist")
        (made / sdist.name).write_bytes(repacked(sdist, time))
        tree = copied(work / "again")
        level(tree, time)
        wheel = build("wheel", tree, work / "wheel")
        shutil.copy(wheel, made)
        one_file(wheel, work / "one", time, made / "echod.pyz")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target)
    for path in sorted(target.iterdir()):
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
