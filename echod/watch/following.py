"""An expectation from a file that is read again when it changes."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable

from echod.errors import UsageError, shown
from echod.probe.expectation import Expectation, parse
from echod.probe.files import contents
from echod.texts import decoded

LOOK_SECONDS = 0.5
"""Time between two checks of the file. A change counts once two checks see the same contents,
because an editor may still be writing."""


def from_text(path: str, data: bytes) -> Expectation:
    """Parse one line ``NAME=SHARE,...``, as --expect accepts it. Raises UsageError.

    Ignores the byte-order mark that some editors write.
    """
    source = f"--expect-file {shown(path)}"
    lines = decoded(data.removeprefix(BOM_UTF8)).strip().splitlines()
    if len(lines) != 1:
        raise UsageError(
            f"{source}: must have one line NAME=SHARE,..., for example one=80,two=20,"
            f" not {len(lines)} lines"
        )
    return parse(lines, source)


class Followed:
    """A file whose contents are read after every change. Call ``look`` from time to time."""

    def __init__(
        self,
        option: str,
        path: str,
        read: Callable[[str, bytes], Expectation],
        check: Callable[[Expectation], object],
    ) -> None:
        """Read the file. ``read`` and ``check`` raise UsageError if it is invalid; so does this."""
        self.problem = ""
        self._option = option
        self._path = path
        self._read = read
        self._check = check
        self._seen: bytes | str = contents(option, path)
        self._taken: bytes | str = self._seen
        self.expectation = self._of(self._seen)

    def look(self) -> bool:
        """Check the file; return whether its meaning has changed. Then ``expectation`` is the new
        one, or ``problem`` says why the contents are invalid.
        """
        now: bytes | str
        try:
            now = contents(self._option, self._path)
        except UsageError as error:
            now = str(error)
        stands, self._seen = now == self._seen, now
        if not stands or now == self._taken:
            return False
        self._taken = now
        before = self.expectation, self.problem
        try:
            self.expectation, self.problem = self._of(now), ""
        except UsageError as error:
            self.problem = str(error)
        return before != (self.expectation, self.problem)

    def _of(self, now: bytes | str) -> Expectation:
        if isinstance(now, str):
            raise UsageError(now)
        expectation = self._read(self._path, now)
        self._check(expectation)
        return expectation
