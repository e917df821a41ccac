"""``python -m fuzz --minutes 10`` runs every target, two at a time. ``python -m fuzz --target
NAME`` runs one of them in this process, with the fuzzer's own options after it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

TOGETHER = 2
TraceFunction = Callable[[FrameType, str, Any], Any]
MOST_INPUT_BYTES = 4096


def fuzz_one(target: str, options: list[str]) -> None:
    """Does not return: the fuzzer ends the process."""
    import atheris  # noqa: PLC0415  # replays need none

    with atheris.instrument_imports(include=["echod", "prometheus_client"]):
        from fuzz.corpus import TARGETS  # noqa: PLC0415  # instrumented as it is loaded
    atheris.Setup([sys.argv[0], *options], TARGETS[target])
    atheris.Fuzz()


def run(target: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "fuzz", "--target", target, *options]
    return subprocess.run(words, cwd=directory, capture_output=True, text=True, check=False)


def campaign(target: str, minutes: float) -> bool:
    """Fuzzes one target from its corpus on, and keeps of the old and the new inputs the least
    that reach as far. What breaks it is kept as well, and told.
    """
    from fuzz.corpus import CORPUS  # noqa: PLC0415

    kept = CORPUS / target
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        directory = Path(name)
        (directory / "found").mkdir()
        limits = (f"-max_len={MOST_INPUT_BYTES}", "-timeout=20", "-rss_limit_mb=1024")
        seconds = f"-max_total_time={max(1, round(minutes * 60))}"
        done = run(target, directory, "found", str(kept), *limits, seconds)
        broken = [path for path in directory.iterdir() if path.is_file()]
        for path in broken:
            path.rename(kept / path.name)
        report = [line for line in done.stderr.splitlines() if "DONE" in line or "ERROR" in line]
        say(f"{target}: {' '.join(report[-1:]) or done.stderr[-2000:]}")
        if broken or done.returncode:
            say(f"{target} is broken by {[path.name for path in broken]}:\n{done.stdout[-3000:]}")
            return False
        keep(target, kept, directory / "found")
    return True


def arcs(target: str, data: bytes) -> set[tuple[str, int, int]]:
    """The steps from line to line that an input takes in echod."""
    from fuzz.corpus import TARGETS  # noqa: PLC0415

    seen: set[tuple[str, int, int]] = set()
    last: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        name = frame.f_code.co_filename
        if "/echod/" not in name:
            return None
        if event == "line":
            seen.add((name, last.get(frame, 0), frame.f_lineno))
            last[frame] = frame.f_lineno
        return trace

    sys.settrace(trace)
    try:
        TARGETS[target](data)
    finally:
        sys.settrace(None)
    return seen


def keep(target: str, kept: Path, found: Path) -> None:
    """Keep the new inputs that reach code which no other reaches, short ones first. Inputs added by
    hand, under a name with a dash or a dot, stay.
    """
    by_hand = [path for path in kept.iterdir() if "-" in path.name or "." in path.name]
    inputs = [path for path in (*kept.iterdir(), *found.iterdir()) if path not in by_hand]
    reached = set().union(*(arcs(target, path.read_bytes()) for path in by_hand))
    chosen = []
    for data in sorted({path.read_bytes() for path in inputs}, key=lambda one: (len(one), one)):
        new = arcs(target, data) - reached
        if new:
            reached |= new
            chosen.append(data)
    for path in set(kept.iterdir()) - set(by_hand):
        path.unlink()
    for data in chosen:
        (kept / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each target")
    parser.add_argument("--together", type=int, default=TOGETHER, help="targets at a time")
    parser.add_argument("--only", help="one target, or several with commas")
    asked = parser.parse_args()
    from fuzz.corpus import TARGETS  # noqa: PLC0415

    targets = asked.only.split(",") if asked.only else list(TARGETS)
    with ThreadPoolExecutor(asked.together) as pool:
        good = list(pool.map(lambda target: campaign(target, asked.minutes), targets))
    return 0 if all(good) else 1


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    if sys.argv[1:2] == ["--target"]:
        fuzz_one(sys.argv[2], sys.argv[3:])
    sys.exit(main())
