"""The Grafana dashboard, as far as its JSON can be read: what it shows and what it asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from support import ROOT

from echod.telemetry.metrics import FAMILIES

PATH = ROOT / "monitoring/dashboard.json"
BOARD: dict[str, Any] = json.loads(PATH.read_text())
ITEMS: list[dict[str, Any]] = BOARD["panels"]
PANELS = [item for item in ITEMS if item["type"] != "row"]
VARIABLES: list[dict[str, Any]] = BOARD["templating"]["list"]
TITLES = [panel["title"] for panel in PANELS]

RULES = {
    "echod:requests:rate3m",
    "echod:connections_opened:rate3m",
    "echod:received_bytes:rate3m",
    "echod:sent_bytes:rate3m",
    "echod:connections_active:sum",
}
MESH = {
    "istio_tcp_connections_opened_total",
    "istio_tcp_received_bytes_total",
    "istio_tcp_sent_bytes_total",
}
GRAFANA = {"__rate_interval", "__range"}
"""Variables that Grafana itself defines."""

WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "or", "and", "unless"}


def exported() -> set[str]:
    """The names of all samples of the daemon's own families."""
    names = {family.name for family in FAMILIES if family.kind != "histogram"}
    for family in FAMILIES:
        if family.kind == "histogram":
            names |= {f"{family.name}_{ending}" for ending in ("bucket", "count", "sum")}
    return names


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def every_query() -> Iterator[str]:
    for panel in PANELS:
        yield from queries(panel)
    for variable in VARIABLES:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])
            assert found, variable["name"]
            yield found[1]


def metrics(query: str) -> set[str]:
    """The names of the series that a query asks for."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", bare)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    names = re.findall(r"(?<![\w:.])[a-z_][\w:]*\b(?!\s*\()", bare, re.IGNORECASE)
    return set(names) - WORDS


def used_variables(text: str) -> set[str]:
    return set(re.findall(r"\$\{?([a-z_]\w*)", text, re.IGNORECASE))


def squares(item: dict[str, Any]) -> set[tuple[int, int]]:
    grid = item["gridPos"]
    columns = range(grid.get("x", 0), grid.get("x", 0) + grid["w"])
    return {(x, y) for x in columns for y in range(grid["y"], grid["y"] + grid["h"])}


def test_the_first_panel_is_requests_per_second_by_version() -> None:
    """It is on top and as wide as the dashboard."""
    first = ITEMS[0]
    assert first["title"] == "Requests per second by version"
    assert first["fieldConfig"]["defaults"]["unit"] == "reqps"
    assert (first["gridPos"].get("x", 0), first["gridPos"]["y"], first["gridPos"]["w"]) == (
        0,
        0,
        24,
    )
    (query,) = queries(first)
    assert "sum by (version) (echod:requests:rate3m{" in query


def test_the_dashboard_has_the_documented_rows() -> None:
    """Each question has its row."""
    rows = [item["title"] for item in ITEMS if item["type"] == "row"]
    assert rows == [
        "Requests",
        "The split",
        "Traffic",
        "State",
        "The process",
        "The mesh's own view",
    ]


def test_the_dashboard_is_small_enough_for_a_config_map() -> None:
    """Under 200 KB, with room for the sidecar that loads it."""
    assert PATH.stat().st_size < 200_000


def test_panels_have_unique_titles_and_ids() -> None:
    """By title and by number; links to one go by its number."""
    assert len(set(TITLES)) == len(TITLES)
    assert len({item["id"] for item in ITEMS}) == len(ITEMS)


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_each_panel_explains_itself(panel: dict[str, Any]) -> None:
    """With a title, a unit and a sentence or more."""
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["description"].endswith(".")


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_each_panel_asks_the_chosen_data_source(panel: dict[str, Any]) -> None:
    """Nothing is tied to one installation's own."""
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    assert [panel["datasource"]] + [target["datasource"] for target in panel["targets"]] == [
        chosen
    ] * (1 + len(panel["targets"]))
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references)


def test_panels_lie_side_by_side_in_24_columns() -> None:
    """None over another, none past the edge, none too narrow to read at 1280 pixels."""
    for item in ITEMS:
        grid = item["gridPos"]
        assert grid.get("x", 0) + grid["w"] <= 24
        assert grid["w"] >= 6
    for one, other in combinations(ITEMS, 2):
        assert not squares(one) & squares(other), f"{one['title']} and {other['title']}"


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_panel_titles_fit_their_width(panel: dict[str, Any]) -> None:
    """Four characters a column go into what Grafana's menu leaves of 1280 pixels."""
    assert len(panel["title"]) <= 4 * panel["gridPos"]["w"]


def test_queries_use_metrics_that_are_exported() -> None:
    """The daemon, its process, the recording rules, the mesh, or the one who sets the weights."""
    known = exported() | RULES | MESH | {"echod_expected_share"}
    for query in every_query():
        names = metrics(query)
        assert names, query
        unknown = {name for name in names - known if not name.startswith(("process_", "python_"))}
        assert not unknown, query


def test_every_family_of_the_daemon_is_shown() -> None:
    """As it is, or by the recording rule made of it."""
    shown = set().union(*map(metrics, every_query()))
    text = " ".join(shown)
    for family in FAMILIES:
        stem = family.name.removeprefix("echod_").removesuffix("_total")
        assert re.search(rf"\bechod[_:]{stem}(?![a-z])", text), family.name


def test_every_rule_and_view_of_the_mesh_is_shown() -> None:
    """What was recorded for the dashboard is on it, and is recorded."""
    assert set().union(*map(metrics, every_query())) >= RULES | MESH
    recorded = re.findall(r"record: (\S+)", (ROOT / "monitoring/rules.yml").read_text())
    assert set(recorded) >= RULES


def test_dashboard_variables_are_defined_and_used() -> None:
    """A choice that changes nothing would mislead."""
    defined = {variable["name"] for variable in VARIABLES}
    assert defined == {"datasource", "job", "namespace", "version", "port", "app"}
    panels = json.dumps(PANELS)
    assert used_variables(panels) - GRAFANA == defined
    assert used_variables(" ".join(every_query())) - GRAFANA <= defined


def test_all_includes_series_that_lack_the_label() -> None:
    """On VMs there is no namespace, and without a service version there may be none."""
    for variable in VARIABLES:
        if variable["type"] == "query":
            assert variable["includeAll"]
            assert variable["multi"]
            assert variable["allValue"] == ".*"
    for query in every_query():
        for matcher in re.findall(r'(\w+)(=~?|!=|!~)"\$', query):
            assert matcher[1] == "=~", query


def test_versions_are_settled_before_they_are_selected() -> None:
    """A raw family is asked for with exported_version and without, never by version alone."""
    for query in every_query():
        for name, matchers in re.findall(r"(\w[\w:]*)\{([^}]*)\}", query):
            if name in exported() and "version" in matchers:
                assert re.search(r'exported_version(=""|!="")', matchers), query


def test_shares_are_of_all_versions() -> None:
    """One version selected alone does not have all of the traffic."""
    for panel in PANELS:
        if panel["title"].startswith("Share of"):
            whole = queries(panel)[0].partition("group_left () ")[2]
            assert "sum(" in whole
            assert "$version" not in whole


def test_the_dashboard_has_tags_links_and_a_refresh_interval() -> None:
    """Tags, links that open beside it, and a refresh of its own."""
    assert {"echod", "istio"} <= set(BOARD["tags"])
    assert BOARD["uid"]
    assert BOARD["refresh"] == "30s"
    assert BOARD["links"]
    for link in BOARD["links"]:
        assert link["url"].startswith("https://")
        assert link["targetBlank"]


def test_the_dashboards_schema_is_that_of_the_oldest_supported_grafana() -> None:
    """Schema 39 is that of Grafana 10.4; later ones migrate it, earlier ones could not."""
    assert BOARD["schemaVersion"] <= 39


def test_versions_have_their_colours() -> None:
    """In lines and bars alike; no Grafana before 11.2.2 tells series of Prometheus by name."""
    assert "by-name" not in json.dumps(PANELS)
    for panel in PANELS:
        legends = {target["legendFormat"] for target in panel["targets"]}
        mode = panel["fieldConfig"]["defaults"].get("color", {}).get("mode")
        if mode == "palette-classic" and "{{version}}" in legends:
            colours: dict[str, str] = {}
            for override in panel["fieldConfig"]["overrides"]:
                pattern = re.compile(override["matcher"]["options"].strip("/"))
                for one in override["properties"]:
                    if one["id"] == "color":
                        colours |= dict.fromkeys(
                            filter(pattern.search, ("v1", "v2", "v2 expected", "v20")),
                            one["value"]["fixedColor"],
                        )
            assert colours == {"v1": "blue", "v2": "orange", "v2 expected": "orange"}
