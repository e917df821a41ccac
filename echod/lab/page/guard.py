"""Which requests the page answers: a web site open in the same browser must not shift weights.

A site can have a browser send requests here, and with a name of its own that resolves to
127.0.0.1 (DNS rebinding) even read the answers. But a browser names the host that it was given in
``Host``, the site that asks in ``Origin``, and in ``Sec-Fetch-Site`` whether these are the same
(https://www.w3.org/TR/fetch-metadata/).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from echod.errors import shown

MOST_BODY_BYTES = 1024

HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
"""Of every answer: nothing but the page's own files, in no frame, and kept nowhere."""

Environ = Mapping[str, Any]
"""A request, as WSGI has it."""


def hosts(port: int) -> frozenset[str]:
    """The hosts that a request may be for."""
    return frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))


def refusal(environ: Environ, port: int) -> tuple[str, str] | None:
    """Status and reason if a request must not be answered."""
    host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
    if host not in hosts(port):
        return "403 Forbidden", f"Host {shown(host)}: must be 127.0.0.1:{port} or localhost:{port}"
    if origin is not None and origin != f"http://{host}":
        return "403 Forbidden", f"Origin {shown(origin)}: must be http://{host}"
    site = environ.get("HTTP_SEC_FETCH_SITE", "none")
    if site not in ("none", "same-origin") and not _is_link(environ):
        return "403 Forbidden", f"Sec-Fetch-Site {shown(site)}: must be same-origin"
    return None


def wrong_body(environ: Environ) -> tuple[str, str] | None:
    """Status and reason if what a request sends cannot be a command."""
    kind = str(environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower()
    if kind != "application/json":  # which a form, or a script of another site, cannot send
        return "415 Unsupported Media Type", f"Content-Type {shown(kind)}: must be application/json"
    length = str(environ.get("CONTENT_LENGTH", ""))
    if not (length.isascii() and length.isdigit()):
        return "411 Length Required", "Content-Length: must be given"
    if len(length) > 4 or int(length) > MOST_BODY_BYTES:
        return "413 Content Too Large", f"the body must have {MOST_BODY_BYTES:,} bytes at most"
    return None


def _is_link(environ: Environ) -> bool:
    """Whether a user follows a link to the page itself, which changes nothing."""
    return (
        environ.get("REQUEST_METHOD") in ("GET", "HEAD")
        and environ.get("PATH_INFO") == "/"
        and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
        and environ.get("HTTP_SEC_FETCH_DEST") == "document"
    )
