"""Long-lived connections, which are reopened after they are cut."""

from __future__ import annotations

from dataclasses import dataclass
from queue import Empty
from typing import Any

from echod.errors import SystemRefused
from echod.lab.page.board import OTHER
from echod.lab.weights import VERSIONS
from echod.probe.hold import Held
from echod.probe.target import Target

COUNT = 20
BACK_SECONDS = 1.0
"""Time until a cut connection is reopened: long enough to be visible."""


@dataclass
class _Stay:
    """One long-lived connection. ``since`` is in monotonic seconds."""

    held: Held | None
    since: float
    version: str | None = None
    cuts: int = 0
    why: str = ""


class Stays:
    """``count`` connections until ``stop``, each with one line per second."""

    def __init__(self, target: Target, now: float, count: int = COUNT) -> None:
        self.opened = dict.fromkeys((*VERSIONS.values(), OTHER), 0)
        """Answered connections by prefix, since that version was last started."""
        self._target = target
        self._stays = [_Stay(None, now - BACK_SECONDS) for _ in range(count)]

    def poll(self, now: float) -> None:
        """Record changes, and reopen connections."""
        for stay in self._stays:
            if stay.held:
                self._look(stay, stay.held, now)
            elif now - stay.since >= BACK_SECONDS:
                try:
                    stay.held = Held(self._target, 1)
                except SystemRefused as refused:
                    stay.since, stay.why = now, str(refused)

    def view(self, now: float) -> list[dict[str, Any]]:
        """Each connection's version (None: cut), age in seconds, and number of cuts."""
        return [
            {
                "version": _known(stay.version) if stay.version is not None else None,
                "age": round(max(0.0, now - stay.since)),
                "cuts": stay.cuts,
                "why": stay.why,
            }
            for stay in self._stays
        ]

    def stop(self) -> None:
        """Close all connections."""
        for stay in self._stays:
            if stay.held:
                stay.held.stop(0)

    def _look(self, stay: _Stay, held: Held, now: float) -> None:
        try:
            while True:
                change = held.changes.get_nowait()
                stay.version, stay.since, stay.why = change.version, now, change.detail
                if change.version is None:
                    stay.held = None
                    stay.cuts += change.before is not None
                elif change.before is None:
                    self.opened[_known(change.version)] += 1
        except Empty:
            if held.refused:
                stay.held, stay.version = None, None
                stay.since, stay.why = now, str(held.refused)


def _known(prefix: str) -> str:
    return prefix if prefix in VERSIONS.values() else OTHER
