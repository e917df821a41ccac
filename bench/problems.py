"""What can be wrong, each in one line."""


class UsageError(Exception):
    """The call is wrong: the argument, its value, and what is allowed."""


class NotHere(Exception):
    """The machine lacks something that the whole run needs."""


class Failed(Exception):
    """A server or a load generator did not do its part: the cell stays empty, and says so."""
