"""compose.yaml: safe defaults, and files that are there."""

from __future__ import annotations

from typing import Any

import yaml
from support import ROOT

import echod

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_compose_publishes_every_port_on_loopback_alone() -> None:
    """No other host reaches services without a password."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_grafana_allows_anonymous_viewing_and_no_login() -> None:
    """No account, no form, no default password."""
    settings = SERVICES["grafana"]["environment"]
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert settings["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not [name for name in settings if "PASSWORD" in name]


def test_grafana_makes_no_outside_requests() -> None:
    """By default it looks for releases, reports its use, and fetches plugins when it starts."""
    settings = SERVICES["grafana"]["environment"]
    for name in ("REPORTING_ENABLED", "CHECK_FOR_UPDATES", "CHECK_FOR_PLUGIN_UPDATES"):
        assert settings[f"GF_ANALYTICS_{name}"] == "false"
    assert settings["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"


def test_compose_runs_this_release_with_least_privileges() -> None:
    """With the lab's prefixes and versions."""
    for version, prefix in (("v1", "one"), ("v2", "two")):
        service = SERVICES[version]
        assert service["image"] == f"echod:{echod.__version__}"
        assert service["command"] == ["9000", prefix]
        assert service["environment"] == {"ECHOD_SERVICE_VERSION": version}
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


def test_compose_mounts_files_of_the_checkout_alone() -> None:
    """Read-only, from the project's own files."""
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", ())]
    assert len(mounts) == 5
    for mount in mounts:
        source, _, mode = mount.split(":")
        assert (ROOT / source).exists(), source
        assert mode == "ro"


def test_the_dashboard_is_provisioned_where_it_is_mounted() -> None:
    """With the Prometheus that is beside it."""
    (provider,) = yaml.safe_load((ROOT / "compose/grafana/dashboards/echod.yaml").read_text())[
        "providers"
    ]
    assert (
        f"./monitoring/dashboard.json:{provider['options']['path']}/dashboard.json:ro"
        in (SERVICES["grafana"]["volumes"])
    )
    (source,) = yaml.safe_load((ROOT / "compose/grafana/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
