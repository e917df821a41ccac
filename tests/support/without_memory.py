"""An echod in one of whose calls one allocation of memory fails.

As a program: ``without_memory.py FILE ARGUMENTS...`` is ``echod ARGUMENTS...``, but that the next
call of a method fails at the allocation whose number is written into FILE, beside the method's.
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

METHODS = ("LineHandler.handle", "LineHandler.flush", "_Client.handle")
"""Which the event loops call."""
SHAPE = struct.Struct("III")
"""The method (from 1 on, 0 for none), the allocation, and how often that was done."""


class Plan:
    """What is to fail, and whether it has."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        if new:
            path.write_bytes(bytes(SHAPE.size))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), SHAPE.size)

    def arm(self, method: int, number: int) -> None:
        SHAPE.pack_into(self._page, 0, method, number, self.done)

    @property
    def done(self) -> int:
        return int(SHAPE.unpack_from(self._page)[2])

    def take(self, method: int) -> int:
        """The allocation that is to fail, once; 0 for none."""
        armed, number, done = SHAPE.unpack_from(self._page)
        if armed != method:
            return 0
        SHAPE.pack_into(self._page, 0, 0, 0, done + 1)
        return int(number)


def wrap(owner: Any, name: str, method: int, plan: Plan) -> None:
    import _testcapi  # noqa: PLC0415  # not on every interpreter

    real: Callable[..., Any] = vars(owner)[name]

    def call(self: Any) -> None:
        number = plan.take(method)
        if not number:
            real(self)
            return
        _testcapi.set_nomemory(number, number + 1)
        try:
            real(self)
        finally:
            _testcapi.remove_mem_hooks()

    setattr(owner, name, call)


def main(path: str, *arguments: str) -> int:
    from echod import cli  # noqa: PLC0415
    from echod.echo.handler import LineHandler  # noqa: PLC0415
    from echod.telemetry.exporter import _Client  # noqa: PLC0415

    owners = {one.__name__: one for one in (LineHandler, _Client)}
    plan = Plan(Path(path))
    for method, name in enumerate(METHODS, 1):
        owner, _, attribute = name.partition(".")
        wrap(owners[owner], attribute, method, plan)
    sys.argv[1:] = arguments
    return cli.main()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
