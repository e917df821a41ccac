"""A fuzzer's bytes, taken as numbers, texts and pieces: the same in a replay without the fuzzer."""

from __future__ import annotations

from collections.abc import Iterator


class Data:
    """Choices first, and then what is left."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def number(self, least: int, most: int) -> int:
        """A number of two bytes at most."""
        taken = int.from_bytes(self.take(1 if most - least < 256 else 2), "big")
        return least + taken % (most - least + 1)

    def take(self, size: int) -> bytes:
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def text(self) -> str:
        """As the daemon decodes what it is given."""
        return self.rest().decode("utf-8", "surrogateescape")

    def pieces(self) -> Iterator[bytes]:
        """What is left, cut: a byte says how long each piece is."""
        while self._data:
            size = self.number(1, 64)
            if piece := self.take(size * size // 8 + 1):
                yield piece
