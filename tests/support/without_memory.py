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

METHODS = (
    "EchoServer.verify_request",
    "EchoServer.process_request",
    "LineHandler.handle",
    "LineHandler.flush",
    "LineHandler.on_timer",
    "LineHandler.on_stop",
    "LingeringClose.handle",
    "MainLoop._look",
    "_Client.__init__",
    "_Client.handle",
)
"""What the threads of a daemon call."""
SHAPE = struct.Struct("IIIII")
"""The method (from 1 on, 0 for none), the allocation, how many in a row, how often a method was
called so, and how often it came to that allocation."""


class Plan:
    """What is to fail, and whether it has."""

    meeting = 0  # the allocation whose failure is being met

    def __init__(self, path: Path, *, new: bool = False) -> None:
        if new:
            path.write_bytes(bytes(SHAPE.size))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), SHAPE.size)

    def arm(self, method: str, number: int, in_a_row: int = 1) -> None:
        SHAPE.pack_into(self._page, 0, 0, number, in_a_row, self.done, self.failed)
        self._page[:4] = struct.pack("I", METHODS.index(method) + 1)  # last: now it may be taken

    @property
    def done(self) -> int:
        return int(SHAPE.unpack_from(self._page)[-2])

    @property
    def failed(self) -> int:
        return int(SHAPE.unpack_from(self._page)[-1])

    def take(self, method: str) -> tuple[int, int]:
        """The allocation that is to fail, once, and how many in a row; 0 for none."""
        armed, number, in_a_row, done, failed = SHAPE.unpack_from(self._page)
        if not armed or METHODS[armed - 1] != method:
            return 0, 0
        SHAPE.pack_into(self._page, 0, 0, 0, 0, done, failed)
        return number, in_a_row

    def end(self, *, failed: bool) -> None:
        SHAPE.pack_into(self._page, 0, 0, 0, 0, self.done + 1, self.failed + failed)


def is_pending(number: int) -> bool:
    """Whether the allocation with that number is still to come, and fails here."""
    try:
        for _ in range(number):
            object()
    except MemoryError:
        return True
    return False


def end(plan: Plan, number: int) -> None:
    import _testcapi  # noqa: PLC0415

    pending = is_pending(number)
    _testcapi.remove_mem_hooks()
    plan.end(failed=not pending)


def wrap_failed(owner: Any, plan: Plan) -> None:
    """What is done about an error meets the same lack of memory."""
    real: Callable[..., Any] = owner.failed

    def failed(*args: Any) -> None:
        try:
            real(*args)
        finally:
            if plan.meeting:
                number, plan.meeting = plan.meeting, 0
                end(plan, number)

    owner.failed = failed


def wrap(owner: Any, name: str, plan: Plan) -> None:
    import _testcapi  # noqa: PLC0415  # not on every interpreter

    method = f"{owner.__name__}.{name}"
    real: Callable[..., Any] = vars(owner)[name]

    def call(*args: Any) -> Any:
        number, in_a_row = plan.take(method)
        if not number:
            return real(*args)
        _testcapi.set_nomemory(number - 1, number - 1 + in_a_row)
        try:
            result = real(*args)
        except Exception:  # a library may make another error of a MemoryError
            if owner.__name__ == "MainLoop":
                end(plan, number)
            else:  # the loop has the handler meet the error
                plan.meeting = number
            raise
        end(plan, number)
        return result

    setattr(owner, name, call)


def main(path: str, *arguments: str) -> int:
    from echod import cli  # noqa: PLC0415
    from echod.echo.handler import LineHandler  # noqa: PLC0415
    from echod.echo.server import EchoServer  # noqa: PLC0415
    from echod.loop.event_loop import EventLoop  # noqa: PLC0415
    from echod.loop.lingering_close import LingeringClose  # noqa: PLC0415
    from echod.process import main_loop  # noqa: PLC0415
    from echod.telemetry.exporter import _Client  # noqa: PLC0415

    main_loop.REPORT_SECONDS = 0.02  # it looks that often
    classes = EchoServer, LineHandler, LingeringClose, main_loop.MainLoop, _Client
    owners: dict[str, type] = {one.__name__: one for one in classes}
    plan = Plan(Path(path))
    wrap_failed(EventLoop, plan)
    for method in METHODS:
        owner, _, name = method.partition(".")
        wrap(owners[owner], name, plan)
    sys.argv[1:] = arguments
    return cli.main()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
