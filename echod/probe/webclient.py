"""HTTP connections that also work on kernels with fewer socket options."""

# At the start: if Python's codec for host names fails to load on its first use, it stays unknown.
import encodings.idna  # noqa: F401
from http.client import HTTPConnection, HTTPResponse
from urllib.request import HTTPHandler, Request


class Connection(HTTPConnection):
    """An HTTPConnection that ignores every error of setting TCP_NODELAY.

    http.client itself ignores ENOPROTOOPT only.
    """

    def connect(self) -> None:
        """Connect. Raises OSError."""
        try:
            super().connect()
        except OSError:
            if self.sock is None:
                raise


class Handler(HTTPHandler):
    """Makes an opener use such connections for ``http:``."""

    def http_open(self, req: Request) -> HTTPResponse:
        """Called by the opener."""
        return self.do_open(Connection, req)
