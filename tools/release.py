"""Sets the version of the next release: ``python tools/release.py 0.3.0``.

Wherever a file names the version, such as an image's tag, it becomes the new one. The changelog's
*Unreleased* section gets the version and today's date (UTC), with an empty one above it. Files that
tell of former releases (``HISTORY``) stay.
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
HISTORY = frozenset({"CHANGELOG.md", "docs/performance.md"})
PLACE = re.compile(
    r'(\bechod(?:[:_-]|\n +newTag: )|\bVERSION=|^__version__ = ")(\d+\.\d+\.\d+)', re.MULTILINE
)
UNRELEASED = "## Unreleased\n"


def places(root: Path = ROOT) -> dict[str, list[str]]:
    """The versions that each file names, by its path from the root."""
    words = ["git", "-C", str(root), "ls-files", "-z"]
    listed = subprocess.run(words, check=False, capture_output=True, text=True)
    if listed.returncode:
        raise SystemExit(f"{root}: must be a checkout of git: {listed.stderr.strip()}")
    found = {}
    for name in filter(None, listed.stdout.split("\0")):
        path = root / name
        if name not in HISTORY and path.suffix not in (".png", ".lock") and path.is_file():
            versions = [match[2] for match in PLACE.finditer(path.read_text(errors="replace"))]
            if versions:
                found[name] = versions
    return found


def release(version: str, root: Path = ROOT) -> None:
    """Raise SystemExit, with one line, if the changelog has nothing to release."""
    found = places(root)
    changelog = root / "CHANGELOG.md"
    text = changelog.read_text()
    _, heading, rest = text.partition(UNRELEASED)
    if not heading or rest.lstrip().startswith("## "):
        raise SystemExit("CHANGELOG.md: nothing below '## Unreleased'")
    today = datetime.now(UTC).date()
    changelog.write_text(text.replace(UNRELEASED, f"{UNRELEASED}\n## {version} - {today}\n", 1))
    for name in found:
        path = root / name
        path.write_text(PLACE.sub(rf"\g<1>{version}", path.read_text()))


if __name__ == "__main__":
    if len(sys.argv) != 2 or not re.fullmatch(r"\d+\.\d+\.\d+", sys.argv[1]):
        sys.exit("tools/release.py: give one version, as in 0.3.0")
    release(sys.argv[1])
