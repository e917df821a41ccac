"""What an operator sees: counters, metric families, the metrics port and log events.

It must not know how connections are served.
"""
