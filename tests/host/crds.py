"""Custom resources against the schemas in their definitions, as an API server would see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from support.manifests import Manifest

Schema = dict[str, Any]
OBJECT: Schema = {"apiVersion": {}, "kind": {}, "metadata": {}}
"""What every object has and no definition describes."""


def closed(schema: Schema) -> Schema:
    """The schema with unknown fields refused wherever it names the known ones."""
    made = {
        key: value
        for key, value in schema.items()
        if not key.startswith("x-") and key not in ("description", "default", "format")
    }
    if "properties" in schema:
        made["properties"] = {key: closed(one) for key, one in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            made[key] = closed(schema[key])
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


class Definitions:
    """The kinds that the files of a directory define."""

    def __init__(self, directory: Path) -> None:
        self._schemas = dict(_schemas(directory))
        assert self._schemas, f"no CustomResourceDefinition in {directory}"

    def knows(self, manifest: Manifest) -> bool:
        return (manifest["apiVersion"], manifest["kind"]) in self._schemas

    def errors(self, manifest: Manifest) -> list[str]:
        validator = self._schemas[manifest["apiVersion"], manifest["kind"]]
        return [f"{one.json_path}: {one.message}" for one in validator.iter_errors(manifest)]


def _schemas(
    directory: Path,
) -> Iterator[tuple[tuple[str, str], jsonschema.Draft7Validator]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for path in sorted(directory.glob("*.yaml")):
        for document in yaml.load_all(path.read_text(), loader):
            if document and document["kind"] == "CustomResourceDefinition":
                spec = document["spec"]
                for version in spec["versions"]:
                    schema = closed(version["schema"]["openAPIV3Schema"])
                    schema["properties"] = OBJECT | schema["properties"] | {"metadata": {}}
                    key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                    yield key, jsonschema.Draft7Validator(schema)
