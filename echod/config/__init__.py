"""What can be set: the one table of options, their parsers, and facts about the interpreter and
the system.

It must not open sockets, start threads or count.
"""
