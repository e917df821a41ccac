"""HTTP connections to other servers, on kernels with fewer socket options too."""

from http.client import HTTPConnection, HTTPResponse
from urllib.request import HTTPHandler, Request


class Connection(HTTPConnection):
    """An HTTPConnection, to which TCP_NODELAY is no more than an attempt.

    http.client itself puts up with ENOPROTOOPT alone.
    """

    def connect(self) -> None:
        """Connects. Raises OSError."""
        try:
            super().connect()
        except OSError:
            if self.sock is None:
                raise


class Handler(HTTPHandler):
    """Has an opener use such connections for ``http:``."""

    def http_open(self, req: Request) -> HTTPResponse:
        """Called by the opener."""
        return self.do_open(Connection, req)
