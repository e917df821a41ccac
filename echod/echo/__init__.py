"""The echo service: a server per port, a handler per connection, the line protocol, shared limits.

It knows no page, no metric family and no signal.
"""
