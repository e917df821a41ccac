from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support import (
    NEVER,
    Echod,
    Metrics,
    Start,
    altered,
    ask,
    connect,
    connections,
    converse,
    get,
    read_to_end,
    reset,
    until,
)

import echod
from echod.telemetry.counters import ACCEPT_ERROR_REASONS, CLOSE_REASONS
from echod.telemetry.metrics import FAMILIES

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"


def test_every_label_set_is_there_before_the_first_connection(start: Start) -> None:
    """A rate over a counter that appears at 1 would miss its first event."""
    echod = start("--service-version", "v1", ports="0,0")
    metrics = echod.metrics()
    for port in echod.ports:
        of_port = {"port": port, "version": "v1"}
        for name in ("opened", "active"):
            suffix = "_total" if name == "opened" else ""
            assert metrics(f"echod_connections_{name}{suffix}", **of_port) == 0
        for reason in CLOSE_REASONS:
            assert metrics("echod_connections_closed_total", reason=reason, **of_port) == 0
        for reason in ACCEPT_ERROR_REASONS:
            assert metrics("echod_accept_errors_total", reason=reason, **of_port) == 0
        assert metrics("echod_connections_rejected_total", reason="limit", **of_port) == 0
        for name in ("requests", "received_bytes", "sent_bytes"):
            assert metrics(f"echod_{name}_total", **of_port) == 0
        assert metrics("echod_connection_duration_seconds_count", **of_port) == 0
        assert metrics("echod_connection_duration_seconds_bucket", le="+Inf", **of_port) == 0
    assert metrics("echod_connections_limit", version="v1") == 10_000
    assert metrics("echod_buffered_bytes", version="v1") == 0
    assert metrics("echod_log_events_dropped_total", version="v1") == 0
    assert metrics("echod_ready", version="v1") == 1
    assert metrics("echod_threads", version="v1") == echod.threads()
    assert metrics("echod_build_info", version="v1") == 1
    for other in ("process_open_fds", "python_info", "python_gc_collections_total"):
        assert metrics(other) >= 0


def test_without_a_service_version_metrics_have_no_version_label(shared_echod: Echod) -> None:
    """An invented value would overwrite the right one of the scrape's target."""
    names = {name for name, _ in shared_echod.metrics().samples if name.startswith("echod_")}
    labels = {
        key
        for name, pairs in shared_echod.metrics().samples
        if name.startswith("echod_")
        for key, _ in pairs
    }
    assert labels == {"port", "reason", "le", "release", "python", "gil"}
    assert {family.name for family in FAMILIES} <= names | {"echod_connection_duration_seconds"}
    assert not any(name.startswith(("istio_", "envoy_")) for name in names)


def test_the_counters_equal_the_clients_tally(start: Start) -> None:
    """Bytes, lines and connections, to the last one."""
    echod = start(ports="0,0")
    port, other = echod.ports
    sent = received = lines = 0
    for count in range(20):
        data = b"".join(b"line %d\n" % number for number in range(count)) + b"tail" * (count % 2)
        reply = converse(port, data)
        sent, received, lines = sent + len(data), received + len(reply), lines + count
    assert converse(other, b"x\n") == b"one x\n"
    metrics = echod.metrics()
    assert metrics("echod_connections_opened_total", port=port) == 20
    assert metrics("echod_connections_closed_total", port=port, reason="eof") == 19
    assert metrics("echod_connections_closed_total", port=port, reason="unused") == 1  # the first
    assert metrics("echod_connections_active", port=port) == 0
    assert metrics("echod_requests_total", port=port) == lines
    assert metrics("echod_received_bytes_total", port=port) == sent
    assert metrics("echod_sent_bytes_total", port=port) == received
    assert metrics("echod_connection_duration_seconds_count", port=port) == 20
    assert metrics("echod_requests_total", port=other) == 1
    (total, _) = echod.stop()["totals"]
    assert total == {
        "port": port,
        "opened": 20,
        "closed": 20,
        "rejected": 0,
        "requests": lines,
        "received_bytes": sent,
        "sent_bytes": received,
    }


def test_a_line_is_counted_before_its_reply_is_seen(start: Start) -> None:
    """A reply that a client has is in the next scrape."""
    echod = start()
    with connect(echod.port) as client:
        for count in range(1, 30):
            ask(client, b"x\n")
            metrics = echod.metrics()
            assert metrics("echod_requests_total") == count
            assert metrics("echod_received_bytes_total") == 2 * count
            assert metrics("echod_connections_opened_total") == 1
            assert metrics("echod_connections_active") == 1


def test_at_every_scrape_active_is_not_negative_and_no_counter_falls(start: Start) -> None:
    """Scrapes race with connections that come, go and are reset."""
    echod = start()
    port = echod.port
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            converse(port, b"a\nb\n")
            client = connect(port)
            client.sendall(b"c\n")
            reset(client)

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        last: dict[Any, float] = {}
        for _ in range(60):
            metrics = echod.metrics()
            assert metrics("echod_connections_active") >= 0
            counters = {
                key: value
                for key, value in metrics.samples.items()
                if key[0].startswith("echod_") and key[0].endswith(("_total", "_bucket", "_sum"))
            }
            assert all(value >= last.get(key, 0) for key, value in counters.items())
            last = {**counters}
    finally:
        done.set()
        for thread in threads:
            thread.join()
    until(lambda: all_closed(echod.metrics()))


def all_closed(metrics: Metrics) -> bool:
    """As this scrape says; the next one may show the last of the queue."""
    opened = metrics("echod_connections_opened_total")
    return (
        metrics("echod_connections_active") == 0
        and metrics("echod_connections_closed_total") == opened
        and metrics("echod_connection_duration_seconds_count") == opened
    )


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0;q=0.2,text/plain;q=0.5", TEXT),
        ("application/openmetrics-text;version=9.9.9", TEXT),
        ("application/openmetrics-text;version=a", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=nan, ;;=,,", TEXT),
        ('application/openmetrics-text; version="1.0.0"', OPENMETRICS),
        ("application/vnd.google.protobuf;q=0.7", TEXT),
    ],
)
def test_metrics_are_in_the_format_that_the_scraper_prefers(
    shared_echod: Echod, accept: str | None, content_type: str
) -> None:
    """Exactly two content types are offered, and each body is valid in its format."""
    headers = {} if accept is None else {"Accept": accept}
    status, body, answer = shared_echod.get("/metrics", **headers)
    assert (status, answer["Content-Type"]) == (200, content_type)
    parse = parse_openmetrics if content_type == OPENMETRICS else parse_text
    families = {family.name for family in parse(body.decode())}
    assert {family.name.removesuffix("_total") for family in FAMILIES} <= families


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_metrics_port_answers_in_both_families(shared_echod: Echod, host: str) -> None:
    """The mesh's agent scrapes localhost, in either address family."""
    for path in ("/metrics", "/livez", "/readyz", "/readyz?verbose"):
        assert get(shared_echod.metrics_port, path, host=host)[0] == 200


def test_head_gives_the_head_alone(shared_echod: Echod) -> None:
    """With the length that the body would have."""
    status, body, headers = shared_echod.get("/readyz", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "3")


@pytest.mark.parametrize("path", ["/metrics/", "/livez/", "/readyz/", "/readyz//", "/livez/?a/b"])
def test_a_trailing_slash_does_not_change_a_page(shared_echod: Echod, path: str) -> None:
    """As configurations of scrapers and load balancers often have it."""
    plain = shared_echod.get("/" + path.split("/")[1])
    found = shared_echod.get(path)
    assert (found[0], found[2]["Content-Type"]) == (200, plain[2]["Content-Type"])
    assert found[1][:20] == plain[1][:20]


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("path", ["/", "//", "/?x=/metrics", "http://host", "http://host/?x"])
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "plain"),
        ("*/*", "plain"),
        ("text/plain", "plain"),
        ("text/html;q=0.5, text/plain", "plain"),
        ("text/html;q=0", "plain"),
        (BROWSER, "html"),
        ("TEXT/HTML", "html"),
    ],
)
def test_the_landing_page_links_to_the_other_pages(
    shared_echod: Echod, path: str, accept: str | None, kind: str
) -> None:
    """In HTML for browsers, in plain text for curl; each link leads to what it says."""
    headers = {} if accept is None else {"Accept": accept}
    status, body, answer = shared_echod.get(path, **headers)
    assert (status, answer["Content-Type"]) == (200, f"text/{kind}; charset=utf-8")
    text = body.decode()
    assert f"echod {echod.__version__}" in text
    pattern = r'href="(\w+)"' if kind == "html" else r"^/(\w+): "
    links = re.findall(pattern, text, re.MULTILINE)
    assert links == ["metrics", "livez", "readyz"]
    assert [shared_echod.get(f"/{link}")[0] for link in links] == [200, 200, 200]
    assert text.endswith("\n")


def test_the_html_of_the_landing_page_closes_every_tag(shared_echod: Echod) -> None:
    """Each tag that must be closed is."""
    page = shared_echod.get("/", Accept=BROWSER)[1].decode()
    assert page.startswith('<!doctype html><html lang="en"><meta charset="utf-8"><title>')
    for tag in ("html", "title", "h1", "ul", "li", "a"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>") > 0


@pytest.mark.parametrize("path", ["/", "/metrics/", "/none"])
def test_head_has_the_length_of_the_page(shared_echod: Echod, path: str) -> None:
    """To the byte, for scrapers that compare."""
    _, nothing, head = shared_echod.get(path, "HEAD")
    _, body, get = shared_echod.get(path)
    assert nothing == b""
    assert int(get["Content-Length"]) == len(body) > 0
    if path != "/metrics/":  # whose numbers grow
        assert head["Content-Length"] == get["Content-Length"]


@pytest.mark.parametrize("path", ["/metric", "/healthz", "/metrics/x", "/metrics/.", "/%6detrics"])
def test_other_paths_are_404(shared_echod: Echod, path: str) -> None:
    """Metrics do not answer on every path; what there is is said, and nothing of the request."""
    status, body, headers = shared_echod.get(path + "?<b>")
    assert (status, headers["Content-Type"]) == (404, "text/plain; charset=utf-8")
    assert body == b"not found; available paths: /, /metrics, /livez, /readyz\n"


def test_other_methods_are_405(shared_echod: Echod) -> None:
    """And those that do are named."""
    for method in ("POST", "PUT", "DELETE", "BREW"):
        for path in ("/", "/metrics"):
            status, _, headers = shared_echod.get(path, method)
            assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_the_landing_page_repeats_nothing_of_a_request(shared_echod: Echod) -> None:
    """Whatever it is called by."""
    for head in (
        b"GET /?<script> HTTP/1.1\r\nHost: <script>\r\nAccept: text/html, <script>\r\n\r\n",
        b"GET http://<script>/ HTTP/1.1\r\nReferer: <script>\r\nAccept: text/html\r\n\r\n",
    ):
        answer = raw(shared_echod.metrics_port, head)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"script" not in answer


def raw(port: int, request: bytes) -> bytes:
    with connect(port) as client:
        client.sendall(request)
        return read_to_end(client)


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /metrics HTTP/9.9\r\n\r\n", b"HTTP/1.1 505 "),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000 + b"\r\n", b"HTTP/1.1 431 "),
        (b"GET /" + b"x" * 100_000, b"HTTP/1.1 431 "),
        (b"GET /readyz HTTP/1.0\n\n", b"HTTP/1.1 200 "),
        (b"\r\n\r\nGET /readyz HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 "),
        (b"GET http://x/readyz?a HTTP/1.1\n\r\n", b"HTTP/1.1 200 "),
        (b"GET HTTP://x/readyz/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 "),
        (b"GET http:///x HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 "),
        (b"GET * HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 "),
    ],
)
def test_a_malformed_request_closes_its_own_connection_alone(
    shared_echod: Echod, request_bytes: bytes, answer: bytes
) -> None:
    """It gets an answer where HTTP has one, and no other client notices."""
    assert raw(shared_echod.metrics_port, request_bytes).startswith(answer)
    assert shared_echod.get("/livez")[0] == 200


def test_a_request_that_comes_in_pieces_is_answered_when_its_head_is_complete(
    shared_echod: Echod,
) -> None:
    """And the connection is closed after the response."""
    with connect(shared_echod.metrics_port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n":
            client.sendall(bytes([byte]))
        assert read_to_end(client).endswith(b"\r\n\r\nok\n")


def test_silent_and_slow_clients_do_not_keep_a_scrape_waiting(start: Start) -> None:
    """600 of them hold bounded descriptors and no thread; the oldest give way."""
    echod = start(command=altered(telemetry__exporter__DEADLINE_SECONDS=NEVER))
    metrics_port, threads, files = echod.metrics_port, echod.threads(), echod.open_files()
    with connections(metrics_port, 300) as silent, connections(metrics_port, 300) as slow:
        for client in slow:
            with suppress(OSError):  # gave way
                client.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow")
        assert echod.get("/metrics")[0] == 200
        assert echod.threads() == threads
        assert echod.open_files() <= files + 101
        assert read_to_end(silent[0]) == b""
        assert converse(echod.port, b"x\n") == b"one x\n"


def test_forty_scrapes_at_once_are_all_answered(shared_echod: Echod) -> None:
    """One after the other, by one thread."""
    port = shared_echod.metrics_port
    with connections(port, 40) as clients:
        for client in clients:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        for client in clients:
            body = read_to_end(client).partition(b"\r\n\r\n")[2]
            assert Metrics(body.decode())("echod_ready") == 1


def test_the_metrics_port_can_be_turned_off(start: Start) -> None:
    """Then nothing listens there, and the log does not speak of it."""
    echod = start("--metrics-port", "none")
    assert converse(echod.port, b"x\n") == b"one x\n"
    assert echod.events("metrics on") == []
    echod.stop()
