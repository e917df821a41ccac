"""The echo service: a server per port, a handler per connection, the line protocol, and the limits
that all connections share.

It must not know HTTP, metric families or signals.
"""
