"""The life of the process: starting, ready, draining and stopped, by signals, systemd and the
open-file limit.

It puts the other packages together, and must not know lines, replies or metric families.
"""
