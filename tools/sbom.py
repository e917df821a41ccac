"""Lists what an image holds, as CycloneDX 1.5 in JSON: ``make sbom`` runs this inside the image.

The base's packages (Debian's or Alpine's), Python, and the packages beside it. Only the standard
library is there. The same image gives the same bytes.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG = Path("/var/lib/dpkg/status")
APK = Path("/lib/apk/db/installed")
OWN = "tcp-echod"

Component = dict[str, Any]


def component(kind: str, name: str, version: str, purl: str, **more: Any) -> Component:
    """A component; its package URL is its reference too."""
    parts = {"type": kind, "name": name, "version": version, "bom-ref": purl, "purl": purl}
    return parts | more


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The fields of each package in the database of dpkg or apk; continued lines are left out."""
    for stanza in text.split("\n\n"):
        pairs = re.findall(r"^(\w[\w-]*): ?(.*)$", stanza, re.MULTILINE)
        if pairs:
            yield dict(pairs)


def system() -> dict[str, str]:
    """The names and versions of /etc/os-release."""
    try:
        return dict(platform.freedesktop_os_release())
    except OSError:
        return {"ID": "unknown"}


def debian(text: str, release: dict[str, str]) -> Iterator[Component]:
    """Packages of dpkg's database."""
    for one in stanzas(text):
        if one.get("Status", "").endswith(" installed"):
            where = f"{release['ID']}-{release.get('VERSION_ID', '')}".rstrip("-")
            version = quote(one["Version"], safe="")
            purl = f"pkg:deb/{release['ID']}/{quote(one['Package'])}@{version}"
            purl += f"?arch={one['Architecture']}&distro={where}"
            yield component("library", one["Package"], one["Version"], purl)


def alpine(text: str, release: dict[str, str]) -> Iterator[Component]:
    """Packages of apk's database."""
    for one in stanzas(text):
        purl = (
            f"pkg:apk/{release['ID']}/{quote(one['P'])}@{quote(one['V'], safe='')}?arch={one['A']}"
        )
        more = {"licenses": [{"expression": one["L"]}]} if "L" in one else {}
        yield component("library", one["P"], one["V"], purl, **more)


def python() -> Iterator[Component]:
    """The interpreter, and the packages that it finds."""
    version = platform.python_version()
    yield component("platform", "python", version, f"pkg:generic/python@{version}")
    for one in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        kind = "application" if name == OWN else "library"
        known = "License-Expression" in one.metadata
        more = {"licenses": [{"expression": one.metadata["License-Expression"]}]} if known else {}
        purl = f"pkg:pypi/{name}@{quote(one.version, safe='')}"
        yield component(kind, name, one.version, purl, **more)


def components() -> list[Component]:
    """Everything, in the order of the package URLs."""
    release = system()
    found = list(python())
    for path, read in ((DPKG, debian), (APK, alpine)):
        if path.exists():
            found += read(path.read_text(), release)
    name, version = release["ID"], release.get("VERSION_ID", "")
    found.append({"type": "operating-system", "name": name, "version": version, "bom-ref": "os"})
    return sorted(found, key=lambda one: str(one["bom-ref"]))


def document(found: list[Component]) -> dict[str, Any]:
    """A bill of materials for echod with what is around it."""
    own = [one for one in found if one["name"] == OWN]
    others = [one for one in found if one["name"] != OWN]
    content = json.dumps(found, sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {"component": own[0]} if own else {},
        "components": others,
    }


if __name__ == "__main__":
    print(json.dumps(document(components()), indent=2))
