"""The conversation on a connection to any service, and the version that it reveals."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from echod.errors import SystemRefused, UsageError, shown
from echod.probe.certificate import identities
from echod.probe.dialogue import NO_MATCH, SLOW_MATCH, match, say_farewell
from echod.probe.matcher import Matcher
from echod.probe.proxy_header import header
from echod.probe.service_arguments import ServiceSettings, is_address, server_name
from echod.probe.target import Reply, ask, failure
from echod.texts import decoded

if TYPE_CHECKING:
    from echod.probe.tls import Tls

LEAVE_SECONDS = 1.0
"""Time for a service to close after the farewell."""


class Names:
    """Maps what is found to versions. ``known`` are the names in the expectation: they decide by
    which of its several names a certificate is reported.
    """

    def __init__(self, given: Mapping[str, str], known: Collection[str] = ()) -> None:
        self._given = given
        self._known = frozenset(known)

    def of(self, *found: str) -> str:
        """The version of one finding, given by one or more names."""
        for one in found:
            if one in self._given:
                return self._given[one]
        return next((one for one in found if one in self._known), found[0])


class Conversation:
    """The conversation, which is the same on all connections. Raises UsageError, SystemRefused."""

    def __init__(self, given: ServiceSettings, host: str, known: Collection[str] = ()) -> None:
        self.names = Names(given.names, known)
        self._given = given
        self._matcher = None if given.match is None else Matcher(given.match)
        self._tls = _encryption(given, host) if given.tls else None
        self._failure = self._tls.failure if self._tls else failure

    @property
    def kinds(self) -> list[str]:
        """The kinds of failure that are possible only in such a conversation."""
        kinds = [NO_MATCH, SLOW_MATCH] if self._matcher else []
        return [*kinds, self._tls.kind] if self._tls else kinds

    def open(self, connection: socket.socket, deadline: float) -> socket.socket:
        """Send the PROXY header and start TLS, if requested."""
        if self._given.proxy_protocol:
            try:
                connection.sendall(header(self._given.proxy_protocol, connection))
            except OSError as error:
                raise failure(error) from error
        return self._tls.wrap(connection, deadline) if self._tls else connection

    def ask(self, channel: socket.socket, payload: bytes, deadline: float) -> Reply:
        """The version: from the certificate, the match, or the echo."""
        if self._given.by and self._tls:
            return Reply(self.names.of(*identities(self._tls.certificate(channel))), monotonic())
        if self._matcher:
            send = self._given.send or b""
            found, at = match(channel, send, self._matcher, deadline, self._failure)
        else:
            found = ask(channel, payload, deadline, self._failure)
            at = monotonic()
        return Reply(self.names.of(decoded(found)), at)

    def leave(self, channel: socket.socket, deadline: float) -> None:
        """Send the farewell, and wait briefly for the service to close."""
        with suppress(OSError, ValueError):
            if self._given.bye:
                say_farewell(channel, self._given.bye, min(deadline, monotonic() + LEAVE_SECONDS))
            if self._tls:
                self._tls.end(channel)

    def close(self) -> None:
        """Stop the matcher's process, if any."""
        if self._matcher:
            self._matcher.close()


def _encryption(given: ServiceSettings, host: str) -> Tls:
    try:
        from echod.probe.tls import Tls  # noqa: PLC0415  # some Pythons have no TLS
    except ImportError as error:
        raise SystemRefused(f"--tls: this Python has no TLS ({error})") from error
    return Tls(given.sni or _name(host), ca=given.ca, insecure=given.insecure)


def _name(host: str) -> str:
    """The name that the certificate of a host must have."""
    if is_address(host):
        return host.partition("%")[0]
    try:
        return server_name(host)
    except ValueError as error:
        raise UsageError(
            f"HOST {shown(host)}: must be a name that TLS can send; set --sni otherwise"
        ) from error
