"""What the clients of a long run have done: plain numbers in a file that all processes share."""

from __future__ import annotations

import mmap
from pathlib import Path

FIELDS = (
    # Counted before it happens: the server cannot have counted more.
    "tried",  # connections
    "lines_out",  # complete lines that have an answer to come
    "bytes_out",
    # Counted after it has happened: the server cannot have counted less.
    "served",  # connections with a reply
    "lines_back",  # replies
    "bytes_answered",  # of the lines that these replies are to
    "ended",  # connections seen to their end
    "bytes_ended",  # received on those
    # Ends whose reason is certain, by that reason.
    "eof",
    "reset",
    "idle",
    "line_too_long",
    "unused",
)
CELLS = {name: cell for cell, name in enumerate(FIELDS)}
ROW_BYTES = 8 * len(FIELDS)


class Tally:
    """One client's row. Only that client writes it; anyone may read."""

    def __init__(self, cells: memoryview[int]) -> None:
        self._cells = cells

    def add(self, **amounts: int) -> None:
        for name, amount in amounts.items():
            self._cells[CELLS[name]] += amount

    def of(self, name: str) -> int:
        return self._cells[CELLS[name]]


class Board:
    """The rows of all clients of one port."""

    def __init__(self, path: Path, rows: int = 0) -> None:
        """Makes the file, of so many rows, or opens the one that is there."""
        if rows:
            path.write_bytes(bytes(ROW_BYTES * rows))
        self.path = path
        with path.open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")

    def row(self, index: int) -> Tally:
        return Tally(self._cells[index * len(FIELDS) : (index + 1) * len(FIELDS)])

    def sums(self) -> dict[str, int]:
        cells, rows = self._cells, range(0, len(self._cells), len(FIELDS))
        # Not by slices: threads that cut one memoryview at a time release it in CPython 3.13t.
        return {name: sum(cells[row + cell] for row in rows) for name, cell in CELLS.items()}
