"""The address of the repository, from the one place that sets it: ``url`` in setup.cfg.

There is none until a maintainer enters it. ``python tools/repository.py`` prints the address, or an
empty line.
"""

from __future__ import annotations

import configparser
from pathlib import Path

SETTINGS = Path(__file__).parent.parent / "setup.cfg"


def address(settings: Path = SETTINGS) -> str:
    """``https://HOST/OWNER/NAME``, or nothing."""
    parser = configparser.ConfigParser()
    parser.read(settings)
    found = parser["metadata"].get("url", "")
    if found and (not found.startswith("https://") or found.endswith("/")):
        raise SystemExit(
            f"setup.cfg: url {found}: must be https://HOST/OWNER/NAME, without a slash"
        )
    return found


def pages(repository: str) -> str:
    """Where the files of the branch main are shown, with a slash at the end, or nothing."""
    return f"{repository}/blob/main/" if repository else ""


if __name__ == "__main__":
    print(address())
