"""TLS to a service, verified as curl does, and readable texts for its failures."""

from __future__ import annotations

import re
import socket
import ssl

from echod.errors import SystemRefused, UsageError, shown
from echod.probe.target import Failed, failure, left

KIND = "tls"
"""The kind of failure for all TLS errors."""


class Tls:
    """The TLS settings of all connections.

    ``name`` must be in the certificate, and is sent as SNI unless it is an address. ``ca`` is a PEM
    file that replaces the system's authorities. Raises UsageError if it cannot be read.
    """

    kind = KIND

    def __init__(self, name: str, *, ca: str | None, insecure: bool) -> None:
        self._name = name
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if insecure:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        elif ca is None:
            self._context.load_default_certs()
        else:
            _trust(self._context, ca)
        # Certificates in the file are trusted, whatever their issuer.
        self._context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN

    def wrap(self, connection: socket.socket, deadline: float) -> ssl.SSLSocket:
        """Encrypt a connection; return the new channel. Raises Failed and SystemRefused."""
        try:
            connection.settimeout(left(deadline))
            return self._context.wrap_socket(connection, server_hostname=self._name)
        except OSError as error:
            raise _failure(error, " in the TLS handshake") from error

    @staticmethod
    def failure(error: OSError) -> Failed | SystemRefused:
        """The failed sample, or the refusal of this host, that an error means."""
        return _failure(error, "")

    @staticmethod
    def certificate(channel: socket.socket) -> bytes:
        """The server's own certificate in DER. Raises Failed."""
        der = channel.getpeercert(binary_form=True) if isinstance(channel, ssl.SSLSocket) else None
        if not der:
            raise Failed(KIND, "no certificate")
        return der

    @staticmethod
    def end(channel: socket.socket) -> None:
        """Send the end of TLS, without waiting for the peer's. Raises OSError and ValueError."""
        channel.settimeout(0)
        if isinstance(channel, ssl.SSLSocket):
            channel.unwrap()


def _failure(error: OSError, where: str) -> Failed | SystemRefused:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failed(KIND, f"certificate verify failed: {error.verify_message.rstrip('.')}")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Failed(KIND, f"closed{where}")
    if isinstance(error, ssl.SSLError):  # first, because its number is not an errno
        return Failed(KIND, words(error))
    made = failure(error)
    if isinstance(made, Failed):
        made.detail += where
    return made


def words(error: ssl.SSLError) -> str:
    """OpenSSL's own reason: ``[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)``."""
    return re.sub(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$", "", error.strerror or str(error))


def _trust(context: ssl.SSLContext, path: str) -> None:
    problem = f"--ca {shown(path)}: must be a file with certificates in PEM"
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise UsageError(f"{problem}: {words(error)}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{problem}: {getattr(error, 'strerror', None) or error}") from error
