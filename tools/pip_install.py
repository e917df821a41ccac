"""pip install for make and systemd/install.sh: into this interpreter's own environment.

Of the user's pip settings (variables, pip.conf), those that say where packages come from apply.
Settings of where and how to install (user, target, prefix, constraint and so on) are meant for
other installs, and are dropped.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys

SOURCES = {
    "cache-dir",
    "cert",
    "client-cert",
    "default-timeout",
    "extra-index-url",
    "find-links",
    "index-url",
    "keyring-provider",
    "no-cache-dir",
    "no-index",
    "proxy",
    "retries",
    "timeout",
    "trusted-host",
    "use-deprecated",
    "use-feature",
}
SECTIONS = ("global", "install", ":env:")
"""The settings that apply; later ones take precedence."""
PIP = [sys.executable, "-m", "pip"]


def kept(listing: str) -> dict[str, str]:
    """The applicable settings of ``pip config list``, as variables."""
    variables = {}
    for section in SECTIONS:
        for line in listing.splitlines():
            name, _, value = line.removeprefix(f"{section}.").partition("=")
            if line.startswith(f"{section}.") and name in SOURCES:
                variables["PIP_" + name.upper().replace("-", "_")] = str(ast.literal_eval(value))
    return variables


def main() -> None:
    """Replace this process by pip."""
    asked = [*PIP, "-vvv", "config", "list"]  # with PIP_QUIET it would list nothing
    listing = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=False)
    if listing.returncode:
        sys.exit(listing.returncode)
    others = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    words = [*PIP, "install", "-q", *sys.argv[1:]]
    os.execve(sys.executable, words, others | settings | kept(listing.stdout))


if __name__ == "__main__":
    main()
