"""What is expected, from a file that is read again when it changes."""

from __future__ import annotations

from collections.abc import Callable

from echod.errors import UsageError, shown
from echod.probe.expectation import Expectation, parse
from echod.probe.files import contents
from echod.texts import decoded

LOOK_SECONDS = 0.5
"""Between two looks. What has changed counts when two of them see the same: an editor may be
writing yet."""


def from_text(path: str, data: bytes) -> Expectation:
    """One ``NAME=SHARE,...``, as --expect takes it. Raises UsageError."""
    source = f"--expect-file {shown(path)}"
    lines = decoded(data).strip().splitlines()
    if len(lines) != 1:
        raise UsageError(
            f"{source}: must have one line NAME=SHARE,..., for example one=80,two=20:"
            f" it has {len(lines)}"
        )
    return parse(lines, source)


class Followed:
    """A file of which every content is read once. ``look`` is to be called from time to time."""

    def __init__(
        self,
        option: str,
        path: str,
        read: Callable[[str, bytes], Expectation],
        check: Callable[[Expectation], object],
    ) -> None:
        """Reads it. ``check`` and ``read`` raise UsageError for what cannot be; so does this."""
        self.problem = ""
        self._option = option
        self._path = path
        self._read = read
        self._check = check
        self._seen: bytes | str = contents(option, path)
        self._taken: bytes | str = self._seen
        self.expectation = self._of(self._seen)

    def look(self) -> bool:
        """Whether it has a new content that is not as the one before: a valid one, which is then
        its expectation, or another ``problem``.
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
