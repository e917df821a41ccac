"""What can be seen from outside: counters, the metrics port, log events.

It knows what is counted and reported, not how connections are served.
"""
