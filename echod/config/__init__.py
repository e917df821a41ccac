"""What can be set: the one table of options, parsers, and facts about interpreter and system.

It knows no socket, no thread and no metric.
"""
