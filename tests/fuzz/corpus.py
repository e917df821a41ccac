"""The targets by name, and the inputs that are kept for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fuzz import of_probe, targets

CORPUS = Path(__file__).with_name("corpus")
TARGETS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one
    for one in (
        targets.line_protocol,
        targets.connection,
        targets.http,
        targets.accept_header,
        targets.options,
        targets.health,
        targets.log,
        of_probe.reply,
        of_probe.expected_split,
        of_probe.probe_arguments,
        of_probe.counted,
        of_probe.manifest,
        of_probe.lab_weights,
    )
}


def inputs(target: str) -> list[Path]:
    """Files, each of one input."""
    return sorted((CORPUS / target).iterdir())
