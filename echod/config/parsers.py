"""Parsers of settings, from text to a value. The text of a ValueError completes "must be …"."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from math import inf

from echod.texts import encoded

MAX_DRAIN_SECONDS = 86_400
MAX_TIME_LIMIT = 100_000_000
MAX_DURATION = 36_500 * 86_400

_LINK_LOCAL = ipaddress.IPv6Network("fe80::/10")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?(e[+-]?[0-9]{1,3})?|\.[0-9]+", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # category Cc, without unicodedata's 130 KiB
_CONTROL_BYTE = re.compile(b"[\x00-\x1f\x7f]")


def ports(value: str) -> tuple[int, ...]:
    """Ports separated by commas, all different, except that 0 may be repeated."""
    found = tuple(port(part) for part in value.split(","))
    named = [one for one in found if one]
    if len(named) != len(set(named)):
        raise ValueError("different ports")
    return found


def port(value: str) -> int:
    """A port, or 0."""
    if value.startswith(("tcp://", "udp://")):
        raise ValueError(
            "a port number; Kubernetes service links set such values for a Service called"
            " echod-metrics: use enableServiceLinks: false in the pod, or another Service name"
        )
    if not (value.isascii() and value.isdigit() and len(value) <= 5 and int(value) <= 65535):
        raise ValueError("a port from 1 to 65535, or 0 for any free one")
    return int(value)


def metrics_port(value: str) -> int | None:
    """A port, 0, or none."""
    try:
        return None if value.lower() == "none" else port(value)
    except ValueError as error:
        raise ValueError(f"{error}, or none") from error


def raw(most_bytes: int) -> Callable[[str], bytes]:
    """Any bytes in any encoding: at least one, and no control characters."""
    allowed = f"1 to {most_bytes} bytes without control characters (0x00 to 0x1f, 0x7f)"

    def parse(value: str) -> bytes:
        data = encoded(value)
        if not 1 <= len(data) <= most_bytes or _CONTROL_BYTE.search(data):
            raise ValueError(allowed)
        return data

    return parse


def text(most_bytes: int) -> Callable[[str], str | None]:
    """Text without control characters; empty text is None."""
    allowed = f"empty, or 1 to {most_bytes} bytes of UTF-8 without control characters"

    def parse(value: str) -> str | None:
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:  # bytes that are not UTF-8
            raise ValueError(allowed) from error
        if not size:
            return None
        if size > most_bytes or _CONTROL.search(value):
            raise ValueError(allowed)
        return value

    return parse


def address(value: str) -> str:
    """An IP address. An IPv6 address may have a zone; a link-local one must."""
    try:
        found = ipaddress.ip_address(value)
        if not re.fullmatch(r"[\w.:-]+(%[\w.-]{1,15})?", value, re.ASCII):
            raise ValueError
    except ValueError as error:
        raise ValueError("an IPv4 or IPv6 address, for example ::, 0.0.0.0 or 127.0.0.1") from error
    if lacks_zone(value):
        raise ValueError(f"given with its zone (the network interface), for example {found}%eth0")
    return str(found)


def lacks_zone(host: str) -> bool:
    """Whether it is a link-local IPv6 address without the zone that it needs."""
    try:
        return "%" not in host and ipaddress.ip_address(host) in _LINK_LOCAL
    except ValueError:  # a name
        return False


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number between bounds."""
    allowed = f"a whole number from {least}" + (" on" if most is None else f" to {most}")

    def parse(value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) <= 18):
            raise ValueError(allowed)
        if int(value) < least or (most is not None and int(value) > most):
            raise ValueError(allowed)
        return int(value)

    return parse


def number(allowed: str, over: float, most: float) -> Callable[[str], float]:
    """A number greater than ``over``, at most ``most``; ``allowed`` is the error's text."""

    def parse(value: str) -> float:
        if not (_NUMBER.fullmatch(value) and over < float(value) <= most):
            raise ValueError(allowed)
        return float(value)

    return parse


def seconds(value: str) -> float:
    """A time in seconds, from 0."""
    if not (_NUMBER.fullmatch(value) and float(value) <= MAX_DRAIN_SECONDS):
        raise ValueError(f"a number of seconds from 0 to {MAX_DRAIN_SECONDS}")
    return float(value)


def time_limit(value: str) -> float:
    """A time over 0 in seconds; ``none`` is infinite."""
    allowed = f"a number of seconds over 0, {MAX_TIME_LIMIT} at most, or none"
    return inf if value.lower() == "none" else number(allowed, 0, MAX_TIME_LIMIT)(value)


def duration(value: str) -> float:
    """A time of at least one second: 90 (seconds), or with a unit, 30m, 12h, 365d."""
    unit = _UNITS.get(value[-1:].lower())
    digits = value[:-1] if unit else value
    if not (_NUMBER.fullmatch(digits) and 1 <= float(digits) * (unit or 1) <= MAX_DURATION):
        raise ValueError("a time from 1s to 36500d, for example 90s, 30m, 12h or 365d")
    return float(digits) * (unit or 1)


def one_of(*choices: str, **other_names: str) -> Callable[[str], str]:
    """One of these words, in any case. ``other_names`` maps further words to them."""

    def parse(value: str) -> str:
        word = other_names.get(value.lower(), value.lower())
        if word not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return word

    return parse


def or_auto(parse: Callable[[str], int]) -> Callable[[str], int | None]:
    """What ``parse`` accepts, or ``auto``, which is None."""

    def parse_or_auto(value: str) -> int | None:
        try:
            return None if value.lower() == "auto" else parse(value)
        except ValueError as error:
            raise ValueError(f"{error}, or auto") from error

    return parse_or_auto
