"""What an interpreter is and how it was built. Also a script: another interpreter describes itself.

python interpreter.py
"""

from __future__ import annotations

import platform
import re
import sys
import sysconfig


def described() -> str:
    """Its version, ``t`` if it has no GIL, and how it was optimised: ``3.11.7 (-O3)``."""
    version = platform.python_version() + ("t" if "t" in getattr(sys, "abiflags", "") else "")
    flags = re.findall(r"-O\w", sysconfig.get_config_var("PY_CORE_CFLAGS") or "")[-1:]
    asked = sysconfig.get_config_var("CONFIG_ARGS") or ""
    for option, word in (("--enable-optimizations", "PGO"), ("--with-lto", "LTO")):
        if option in asked:
            flags.append(word)
    return f"{version} ({', '.join(flags)})" if flags else version


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036  # the system's python3 may be anything
        sys.exit(1)
    print(described())
