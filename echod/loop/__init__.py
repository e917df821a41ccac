"""Event loops, each a thread that waits on many sockets, and what belongs to them: timers,
listeners, accepting, lingering closes.

It knows no line, no metric and no log.
"""
