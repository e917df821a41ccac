"""Servers that speak TLS, with certificates that are in the tree."""

from __future__ import annotations

import hashlib
import socket
import ssl
from pathlib import Path

from support.peers import Behaviour

CERTIFICATES = Path(__file__).parent / "certificates"
CA = CERTIFICATES / "ca.pem"


def certified(*names: str, then: Behaviour) -> Behaviour:
    """Each connection is encrypted with the next certificate in turn."""
    contexts = []
    for name in names:
        contexts.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        contexts[-1].load_cert_chain(CERTIFICATES / f"{name}.pem")

    def behave(connection: socket.socket, number: int) -> None:
        context = contexts[number % len(contexts)]
        with context.wrap_socket(connection, server_side=True) as channel:
            then(channel, number)

    return behave


def digest(name: str) -> str:
    """The SHA-256 of a certificate."""
    text = (CERTIFICATES / f"{name}.pem").read_text()
    end = "-----END CERTIFICATE-----\n"
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text.partition(end)[0] + end)).hexdigest()
