"""Event loops and what runs in them: pollers, timers, heartbeats, listening sockets, accepting and
lingering closes.

It must not know lines, metrics or logs.
"""
