"""Request checks, so that a web site open in the same browser cannot shift weights.

A site can make a browser send requests here. With its own name that resolves to 127.0.0.1 (DNS
rebinding), it can even read the answers. But the browser sends the requested host in ``Host``, the
requesting site in ``Origin``, and in ``Sec-Fetch-Site`` whether the two are the same
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
"""Headers of every response: load only the page's own files, and never frame or cache it."""

Environ = Mapping[str, Any]
"""A request's environment in WSGI."""


def hosts(port: int) -> frozenset[str]:
    """The hosts that a request may name."""
    return frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))


def refusal(environ: Environ, port: int) -> tuple[str, str] | None:
    """The status and the reason for refusing a request; None if it is allowed."""
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
    """The status and the reason if a request's body cannot be a command."""
    kind = str(environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower()
    if kind != "application/json":  # forms and scripts of other sites cannot send this type
        return "415 Unsupported Media Type", f"Content-Type {shown(kind)}: must be application/json"
    length = str(environ.get("CONTENT_LENGTH", ""))
    if not (length.isascii() and length.isdigit()):
        return "411 Length Required", "Content-Length: must be given"
    if len(length) > 4 or int(length) > MOST_BODY_BYTES:
        return "413 Content Too Large", f"the body must have {MOST_BODY_BYTES:,} bytes at most"
    return None


def _is_link(environ: Environ) -> bool:
    """Whether a user follows a link to the page, which is harmless."""
    return (
        environ.get("REQUEST_METHOD") in ("GET", "HEAD")
        and environ.get("PATH_INFO") == "/"
        and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
        and environ.get("HTTP_SEC_FETCH_DEST") == "document"
    )
