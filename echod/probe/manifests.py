"""Kubernetes manifests, as far as routes need them: documents and fields of objects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml

from echod.errors import UsageError, shown

MOST_NAMED = 5

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader in C, if installed: the other is slow to refuse documents nested too deeply."""

Object = Mapping[str, Any]


class Refused(Exception):
    """Something in a manifest is invalid. The text names it."""


@contextmanager
def told(source: str) -> Iterator[None]:
    """Turn every exception from reading a manifest into UsageError, naming the source."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{source}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise UsageError(f"{source}{line}: is not YAML") from error
    except Refused as refused:
        raise UsageError(f"{source}: {refused}") from refused


def documents(text: bytes) -> list[Any]:
    """The documents in a text. The size of the text bounds time and memory."""
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, _LOADER)):
        raise Refused("aliases (*NAME): must not be used")
    return list(yaml.load_all(text, _LOADER))


def named(document: Object) -> str:
    """The kind and the name of an object: ``TCPRoute tcp-echo``."""
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    plain = isinstance(name, str) and re.fullmatch(r"[\w.-]{1,63}", name, re.ASCII)
    return f"{document['kind']} {name if plain else shown(str(name))}"


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def mapping(value: Any, field: str) -> Object:
    """The value of a field, which must be a mapping."""
    if not isinstance(value, dict):
        raise Refused(f"{field}: is missing or not a mapping")
    return value


def sequence(value: Any, field: str) -> list[Any]:
    """The value of a field, which must be a list or missing."""
    if value is not None and not isinstance(value, list):
        raise Refused(f"{field}: is not a list")
    return value or []


def mappings(value: Any, field: str) -> list[Object]:
    """The value of a field, which must be a non-empty list of mappings."""
    if not isinstance(value, list) or not value:
        raise Refused(f"{field}: is missing or not a list")
    return [mapping(one, f"{field}[{number}]") for number, one in enumerate(value)]
