"""kubectl as the tests call it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

SECONDS = 120.0
"""The longest that a call may take which has no time of its own."""


class Failed(AssertionError):
    """A call with another exit status than 0: its words and what it said."""


def kubectl(*words: str, stdin: str = "", seconds: float = SECONDS) -> str:
    """What a call prints. Raises Failed, also when it takes too long.

    Each call runs in its own session. Ctrl-C in a terminal ends the tests, which then clean up by
    further calls that Ctrl-C must not end.
    """
    try:
        done = subprocess.run(
            ["kubectl", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"kubectl {' '.join(words)}: not within {seconds:g} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or "nothing"
        raise Failed(f"kubectl {' '.join(words)}: exit status {done.returncode}: {said}")
    return done.stdout


def objects(*words: str) -> Any:
    """What ``kubectl get`` finds; nothing where it prints nothing."""
    said = kubectl(*words, "-o", "json")
    return json.loads(said) if said.strip() else {}
