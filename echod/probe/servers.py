"""The servers' own counts, read from echod's metrics."""

from __future__ import annotations

import http.client
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from prometheus_client.parser import text_string_to_metric_families

from echod.errors import SystemRefused, UsageError, shown
from echod.loop.threads import start
from echod.probe.webclient import Handler

TIMEOUT_SECONDS = 5.0
MOST_BYTES = 8 * 1024 * 1024

_REQUESTS = "echod_requests_total"
_OPENED = "echod_connections_opened_total"
_CLOSED = "echod_connections_closed_total"


@dataclass(frozen=True)
class Counts:
    """Requests by version, and connections, of all servers together. Connections that ended unused
    (a load balancer's checks) do not count.
    """

    requests: Counter[str]
    connections: int

    def since(self, before: Counts) -> Counts:
        """The difference to earlier counts."""
        versions = {*self.requests, *before.requests}
        requests = {name: self.requests[name] - before.requests[name] for name in sorted(versions)}
        # A connection that was open before and ended unused since must not make it negative.
        return Counts(Counter(requests), max(self.connections - before.connections, 0))

    def match(self, answered: int, failed: int) -> bool:
        """Whether a client's tally agrees; samples that failed there may have been counted."""
        total = sum(self.requests.values())
        return (
            min(self.requests.values(), default=0) >= 0 and answered <= total <= answered + failed
        )


def check(urls: Sequence[str]) -> None:
    """Raise UsageError for a URL that cannot be read."""
    for url in urls:
        try:
            parts = urlsplit(url)
            right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            right = None
        if not right or not url.isascii() or not url.isprintable() or " " in url:
            raise UsageError(
                f"--metrics {shown(url)}: must be a URL, for example http://10.0.0.5:9464/metrics"
            )
        if urls.count(url) > 1:
            raise UsageError(f"--metrics {shown(url)}: must be given once, not to count twice")


def read(urls: Sequence[str]) -> Counts:
    """The counters of all servers. Raises SystemRefused if one cannot be read."""
    requests: Counter[str] = Counter()
    connections = 0
    for url in urls:
        found = False
        text = _fetch_in_time(url)
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name == _REQUESTS:
                        found = True
                        requests[sample.labels.get("version", "")] += int(sample.value)
                    elif sample.name == _OPENED:
                        connections += int(sample.value)
                    elif sample.name == _CLOSED and sample.labels.get("reason") == "unused":
                        connections -= int(sample.value)
        except (ValueError, OverflowError, LookupError) as error:
            raise SystemRefused(f"--metrics {url}: is not in Prometheus' text format") from error
        if not found:
            raise SystemRefused(f"--metrics {url}: has no {_REQUESTS}: is it an echod's?")
    return Counts(requests, connections)


def _fetch_in_time(url: str) -> str:
    """The page, within TIMEOUT_SECONDS. The timeout of http.client applies to each read separately,
    so a thread fetches the page, and is abandoned if it takes too long.
    """
    answers: list[str | Exception] = []

    def fetch() -> None:
        try:
            answers.append(_fetch(url))
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            answers.append(error)

    asking = Thread(target=fetch, daemon=True)
    start([asking])
    asking.join(TIMEOUT_SECONDS)
    answer = answers[0] if answers else TimeoutError("timed out")
    if isinstance(answer, Exception):
        raise SystemRefused(f"--metrics {url}: cannot be read: {shown(str(answer))}") from answer
    return answer


def _fetch(url: str) -> str:
    # Without the environment's proxies, which are for other networks.
    opener = build_opener(ProxyHandler({}), Handler)
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as response:
            body: bytes = response.read(MOST_BYTES)
    except HTTPError as error:
        error.close()  # it keeps the connection open
        raise
    return body.decode("utf-8", "replace")
