"""The command: run, then write the results."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench import goals, instructions, report
from bench.arguments import Settings, parse
from bench.problems import Failed, NotHere, UsageError
from bench.results import Results
from bench.runs import Run
from bench.scenarios import CELLS


def main(words: Sequence[str]) -> int:
    """Run the command; return 0, 1 if this machine cannot run it, or 2 after a usage error."""
    try:
        settings = parse(words)
        if not sys.platform.startswith("linux"):
            raise NotHere("the benchmark reads /proc and needs Linux")
        with tempfile.TemporaryDirectory(prefix="echod-bench-") as directory:
            if settings.instructions:
                count_instructions(Path(directory), settings)
                return 0
            results = Run(settings, Path(directory)).all()
        write(results, settings)
    except UsageError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except (NotHere, Failed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted, nothing is written", file=sys.stderr)
        return 130
    return 0


def count_instructions(directory: Path, settings: Settings) -> None:
    """The table of each interpreter's instructions."""
    found = {}
    for about, python in instructions.interpreters().items():
        own = directory / about.replace(" ", "-")
        own.mkdir()
        found[about] = instructions.measure(python, own)
    text = instructions.table(found) + "\n"
    (settings.output / "instructions.md").write_text(text)
    print(text, end="")


def write(results: Results, settings: Settings) -> None:
    """The report, the samples and the picture."""
    judged = goals.judge(results)
    picture = settings.output / "results.svg"
    picture.unlink(missing_ok=True)
    if any(one.key in results.cells for one in CELLS):
        try:
            from bench import plot  # noqa: PLC0415  # nothing else needs matplotlib
        except ImportError:
            results.problems.append("no picture: matplotlib is not installed")
        else:
            plot.draw(results, picture)
    text = report.markdown(results, judged)
    (settings.output / "results.md").write_text(text)
    (settings.output / "results.json").write_text(results.json([asdict(row) for row in judged]))
    print(text)
    for name in ("results.md", "results.json", "results.svg"):
        if (settings.output / name).exists():
            print(settings.output / name, file=sys.stderr)
