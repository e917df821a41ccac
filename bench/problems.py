"""The errors of the benchmark, each with a text of one line."""


class UsageError(Exception):
    """A usage error: the argument, its value, and what is allowed."""


class NotHere(Exception):
    """The machine lacks something that the whole run needs."""


class Failed(Exception):
    """A server or a load generator failed: its cell in the table stays empty, and the report says
    so.
    """
