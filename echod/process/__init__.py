"""The life of the process: starting, ready, draining, stopped; signals, systemd, health checks.

It puts the other packages together, and knows no line and no metric family.
"""
