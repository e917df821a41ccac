"""A sentinel that judges a traffic split for weeks: an alarm and an all-clear, as log events and as
metrics of its own.

It uses the probe's samples and rules, and must not know how echod serves.
"""
