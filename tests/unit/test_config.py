from __future__ import annotations

import re
from math import inf

import pytest

from echod.cli import serve_parser
from echod.config.options import OPTIONS, Config, load, setting
from echod.errors import UsageError


def load_with(*environ: dict[str, str], **flags: str) -> Config:
    return load({"ports": "9000", "prefix": "one"} | flags, *environ or [{}])


def test_the_defaults_are_those_of_the_contract() -> None:
    """Without settings, the limits are beyond what clients of the reference need."""
    assert (
        Config(
            ports=(9000,),
            prefix=b"one",
            address="::",
            metrics_address="::",
            metrics_port=9464,
            service_version=None,
            max_line_bytes=1024 * 1024,
            max_connections=10_000,
            max_buffered_bytes=64 * 1024 * 1024,
            idle_timeout=3600.0,
            write_timeout=30.0,
            max_connection_age=inf,
            drain_delay=0.0,
            drain_timeout=4.0,
            handler_threads=None,
            log_level="info",
            log_format="auto",
            given=frozenset({"ports", "prefix"}),
        )
        == load_with()
    )


def test_a_flag_wins_over_the_environment_and_that_over_the_default() -> None:
    """The order is the usual one."""
    environ = {"ECHOD_IDLE_TIMEOUT": "5", "ECHOD_WRITE_TIMEOUT": "6", "ECHOD_PREFIX": "two"}
    config = load_with(environ, idle_timeout="7")
    assert (config.idle_timeout, config.write_timeout, config.prefix) == (7.0, 6.0, b"one")
    assert {"ports", "prefix", "idle_timeout", "write_timeout"} == config.given


def test_ports_and_prefix_can_come_from_the_environment() -> None:
    """A unit or a pod can configure everything without arguments."""
    config = load({}, {"ECHOD_PORTS": "9000,9001", "ECHOD_PREFIX": "hello world"})
    assert (config.ports, config.prefix) == ((9000, 9001), b"hello world")


def test_an_empty_variable_counts_as_not_set() -> None:
    """The downward API gives an empty text for a label that is missing."""
    assert load_with({"ECHOD_SERVICE_VERSION": "", "ECHOD_METRICS_PORT": ""}) == load_with()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("ports", "0,0,9000", (0, 0, 9000)),
        ("prefix", "größer 世界", "größer 世界".encode()),
        ("prefix", "x" * 1024, b"x" * 1024),
        ("prefix", "a\x85b", b"a\xc2\x85b"),
        ("prefix", "\udcff\udc80\udc9f", b"\xff\x80\x9f"),
        ("metrics_port", "none", None),
        ("metrics_port", "0", 0),
        ("address", "fe80::1%eth0", "fe80::1%eth0"),
        ("address", "::0", "::"),
        ("metrics_port", "None", None),
        ("idle_timeout", "none", inf),
        ("idle_timeout", "NONE", inf),
        ("write_timeout", "0.25", 0.25),
        ("max_connection_age", "1e3", 1000.0),
        ("drain_delay", "0", 0.0),
        ("handler_threads", "auto", None),
        ("handler_threads", "Auto", None),
        ("handler_threads", "2", 2),
        ("service_version", "none", "none"),
        ("service_version", "", None),
        ("service_version", "größer", "größer"),
        ("log_level", "INFO", "info"),
        ("log_level", "Debug", "debug"),
        ("log_level", "warn", "warning"),
        ("log_level", "WARN", "warning"),
        ("log_format", "Json", "json"),
        ("log_format", "CONSOLE", "console"),
    ],
)
def test_good_values_are_read(name: str, text: str, value: object) -> None:
    """What the help promises is accepted."""
    assert value == getattr(load_with(**{name: text}), name)


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("ports", "", "from 1 to 65535, or 0"),
        ("ports", "9000,", "from 1 to 65535, or 0"),
        ("ports", "http", "from 1 to 65535, or 0"),
        ("ports", "65536", "from 1 to 65535, or 0"),
        ("ports", "-1", "from 1 to 65535, or 0"),
        ("ports", "9" * 5000, "from 1 to 65535, or 0"),
        ("ports", "٣", "from 1 to 65535, or 0"),
        ("ports", "9000,9001,9000", "different ports"),
        ("ports", "9464", "must differ from the metrics port"),
        ("prefix", "", "1 to 1024 bytes without control characters (0x00 to 0x1f, 0x7f)"),
        ("prefix", "x" * 1025, "1 to 1024 bytes"),
        ("prefix", "ü" * 513, "1 to 1024 bytes"),
        ("prefix", "a\nb", "without control characters"),
        *(("prefix", f"a{chr(code)}b", "without control") for code in [*range(0x20), 0x7F]),
        ("address", "localhost", "an IPv4 or IPv6 address"),
        ("metrics_port", "off", "0 for any free one, or none"),
        ("metrics_port", "tcp://10.0.0.1:9464", "enableServiceLinks: false"),
        ("service_version", "x" * 129, "empty, or 1 to 128 bytes"),
        ("service_version", "a\x85b", "1 to 128 bytes of UTF-8 without control characters"),
        ("max_line_bytes", "0", "a whole number from 1 on"),
        ("max_connections", "-5", "a whole number from 1 on"),
        ("max_connections", "many", "a whole number from 1 on"),
        ("max_buffered_bytes", "1.5", "a whole number from 1 on"),
        ("idle_timeout", "0", "over 0, 100000000 at most, or none"),
        ("idle_timeout", "-1", "over 0"),
        ("write_timeout", "nan", "over 0"),
        ("max_connection_age", "inf", "over 0"),
        ("max_connection_age", "1_0", "over 0"),
        ("drain_delay", "none", "a number of seconds from 0 to 86400"),
        ("drain_timeout", "86401", "a number of seconds from 0 to 86400"),
        ("handler_threads", "0", "from 1 to 256, or auto"),
        ("handler_threads", "257", "from 1 to 256, or auto"),
        ("log_level", "loud", "one of debug, info, warning, error"),
        ("log_level", "warns", "one of debug, info, warning, error"),
        ("log_format", "xml", "one of auto, console, json"),
    ],
)
def test_a_bad_value_gives_one_line_with_its_name_itself_and_what_is_allowed(
    name: str, text: str, allowed: str
) -> None:
    """The message says what to change."""
    option = next(option for option in OPTIONS if option.name == name)
    with pytest.raises(UsageError) as caught:
        load_with(**{name: text})
    message = str(caught.value)
    assert option.flag in message
    assert allowed in message
    assert ascii(text)[1:40].rstrip("'") in message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("text", "shown"),
    [("caf\udce9", r"'caf\xe9'"), ("\udc80\udcff", r"'\x80\xff'")],
)
def test_a_version_that_is_not_utf8_is_refused_by_name_and_its_bytes_shown(
    text: str, shown: str
) -> None:
    """Prometheus takes label values in UTF-8 alone."""
    allowed = f"{shown}: must be empty, or 1 to 128 bytes of UTF-8 without control characters"
    allowed = re.escape(allowed)
    with pytest.raises(UsageError, match=f"^--service-version {allowed}$"):
        load_with(service_version=text)
    with pytest.raises(UsageError, match=f"^ECHOD_SERVICE_VERSION {allowed}$"):
        load_with({"ECHOD_SERVICE_VERSION": text})


@pytest.mark.parametrize(
    ("environ", "colors"),
    [
        ({}, True),
        ({"TERM": "xterm"}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "0"}, False),
        ({"NO_COLOR": "1", "TERM": "xterm"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colors_can_be_declined(environ: dict[str, str], colors: bool) -> None:
    """As https://no-color.org has it: by any value but an empty one."""
    assert load_with(environ).colors is colors


def test_a_bad_variable_is_named_as_the_variable() -> None:
    """The message points to where the value came from."""
    with pytest.raises(UsageError, match=r"^ECHOD_IDLE_TIMEOUT 'x': must be"):
        load_with({"ECHOD_IDLE_TIMEOUT": "x"})


@pytest.mark.parametrize("missing", ["ports", "prefix"])
def test_a_missing_argument_is_named_with_its_variable(missing: str) -> None:
    """PORTS and PREFIX have no default."""
    flags = {"ports": "9000", "prefix": "one"}
    del flags[missing]
    with pytest.raises(UsageError, match=f"ECHOD_{missing.upper()}"):
        load(flags, {})


def test_a_single_setting_is_found_like_all_together() -> None:
    """echod health finds the port that the daemon uses."""
    assert setting("metrics_port", None, {}) == 9464
    assert setting("metrics_port", None, {"ECHOD_METRICS_PORT": "1"}) == 1
    assert setting("metrics_port", "2", {"ECHOD_METRICS_PORT": "1"}) == 2


def test_dashes_for_a_value_are_refused_like_any_other_word() -> None:
    """Python 3.11 makes a list of them."""
    with pytest.raises(UsageError, match="--max-connections '--': must be "):
        load(vars(serve_parser().parse_args(["1", "x", "--max-connections=--"])), {})
