"""The kinds of panels in the dashboard, each with all required fields."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import prometheus as prometheus_models

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8  # grid rows of 38 pixels
DASHED = {"fill": "dash", "dash": [8, 6]}
COLOURS = {"v1": "blue", "v2": "orange"}
"""Of the exercise's versions, as in docs/split.svg. Others have the palette's next one.

Not the palette by series name: before Grafana 11.2.2 that goes by the name of Prometheus' field,
which is the same for all series, and in bar gauges it does so in later ones too.
"""

Panel = TypeVar(
    "Panel",
    bargauge.Panel,
    heatmap.Panel,
    statetimeline.Panel,
    table.Panel,
    timeseries.Panel,
)


@dataclass(frozen=True)
class About:
    """The fields of every panel; ``width`` is in columns of 24."""

    title: str
    unit: str
    description: str
    width: int = 8


@dataclass(frozen=True)
class Query:
    """An expression, and the name of each of its series."""

    expression: str
    legend: str = "{{version}}"


Versioned = TypeVar("Versioned", bargauge.Panel, timeseries.Panel)
Limits = Sequence[tuple[float, str]]
"""Colors with the values from which on they apply; below the first it is green."""


def _dressed(panel: Panel, about: About) -> Panel:
    panel.title(about.title).description(about.description).unit(about.unit)
    panel.datasource(DATASOURCE).height(HEIGHT).span(about.width)
    return panel


def _target(number: int, query: Query) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend)
    target.ref_id(chr(ord("A") + number)).datasource(DATASOURCE)
    return target.editor_mode(prometheus_models.QueryEditorMode.CODE)


def _thresholds(limits: Limits, below: str = "green") -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=None, color=below)]
    steps += [models.Threshold(value=value, color=color) for value, color in limits]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _color(mode: models.FieldColorModeId) -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(mode)


def coloured(panel: Versioned) -> Versioned:
    """The same, with a fixed color for each version, even if more text follows the name."""
    for version, colour in COLOURS.items():
        fixed = {"mode": "fixed", "fixedColor": colour}
        properties = [models.DynamicConfigValue(id_val="color", value=fixed)]
        panel.override_by_regexp(f"/^{version}( [a-z0-9]+)?$/", properties)
    return panel


def _by_version(query: Query) -> bool:
    return bool(re.fullmatch(r"{{version}}( [a-z0-9]+)?", query.legend))


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().show_legend(True)
    legend.display_mode(common_models.LegendDisplayMode.TABLE)
    legend.placement(common_models.LegendPlacement.BOTTOM)
    return legend.calcs(["lastNotNull", "mean", "max"])


def _tooltip() -> common.VizTooltipOptions:
    tooltip = common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI)
    return tooltip.sort(common_models.SortOrder.DESCENDING)


def graph(about: About, queries: Iterable[Query], limits: Limits = ()) -> timeseries.Panel:
    """Lines over time; a version has the same color everywhere. ``limits`` are drawn dashed."""
    panel = _dressed(timeseries.Panel(), about).legend(_legend()).tooltip(_tooltip())
    asked = list(queries)
    for number, query in enumerate(asked):
        panel.with_target(_target(number, query).range())
    panel.line_width(2).fill_opacity(8).show_points(common_models.VisibilityMode.NEVER)
    panel.color_scheme(_color(models.FieldColorModeId.PALETTE_CLASSIC))
    if all(map(_by_version, asked)):
        coloured(panel)
    if limits:
        style = common.GraphThresholdsStyleConfig()
        panel.thresholds_style(style.mode(common_models.GraphThresholdsStyleMode.DASHED))
    return panel.thresholds(_thresholds(limits))


def counts(about: About, queries: Iterable[Query], limits: Limits = ()) -> timeseries.Panel:
    """A graph of values that are never negative."""
    return graph(about, queries, limits).min(0)


def fractions(about: About, queries: Iterable[Query], limits: Limits = ()) -> timeseries.Panel:
    """A graph from 0 to 100 %."""
    return counts(about, queries, limits).max(1)


def stacked(panel: timeseries.Panel, fill: float = 40) -> timeseries.Panel:
    """The same, with stacked series."""
    stacking = common.StackingConfig().group("A").mode(common_models.StackingMode.NORMAL)
    return panel.stacking(stacking).fill_opacity(fill).line_width(1)


def bars(panel: timeseries.Panel) -> timeseries.Panel:
    """The same as bars, for rare events."""
    return stacked(panel.draw_style(common_models.GraphDrawStyle.BARS), 80)


def ranked(panel: timeseries.Panel) -> timeseries.Panel:
    """The same, with the largest first in the legend, for many series."""
    return panel.legend(_legend().sort_by("Max").sort_desc(True))


def dashed(panel: timeseries.Panel, ending: str) -> timeseries.Panel:
    """The same, with dashed lines for series whose name has this ending."""
    properties = [
        models.DynamicConfigValue(id_val="custom.lineStyle", value=DASHED),
        models.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
    ]
    return panel.override_by_regexp(f"/ {ending}$/", properties)


def gauge(about: About, queries: Iterable[Query]) -> bargauge.Panel:
    """A bar for each series: one value for the whole time shown."""
    panel = _dressed(bargauge.Panel(), about)
    for number, query in enumerate(queries):
        panel.with_target(_target(number, query).instant())
    panel.orientation(common_models.VizOrientation.HORIZONTAL)
    panel.display_mode(common_models.BarGaugeDisplayMode.BASIC)
    panel.color_scheme(_color(models.FieldColorModeId.PALETTE_CLASSIC))
    return panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))


def within(panel: bargauge.Panel, bound: float) -> bargauge.Panel:
    """The same, green within a bound on both sides of 0 and red beyond, for all series."""
    panel.thresholds(_thresholds([(-bound, "green"), (bound, "red")], below="red"))
    panel.min(-2 * bound).max(2 * bound)
    return panel.color_scheme(_color(models.FieldColorModeId.THRESHOLDS))


def buckets(about: About, expression: str) -> heatmap.Panel:
    """A histogram over time: a column is a moment, a row a bucket, the color a count."""
    target = _target(0, Query(expression, "{{le}}")).range()
    target.format(prometheus_models.PromQueryFormat.HEATMAP)
    panel = _dressed(heatmap.Panel(), about).with_target(target).calculate(False)
    color = heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME)
    color.scheme("Oranges").fill("dark-orange").steps(64)
    color.scale(heatmap_models.HeatmapColorScale.EXPONENTIAL).exponent(0.5)
    panel.color(color).cell_gap(1).filter_values(heatmap.FilterValueRange().le(1e-9))
    panel.y_axis(heatmap.YAxisConfig().unit(about.unit)).cell_values(
        heatmap.CellValues().unit("short").decimals(0)
    )
    linear = common.ScaleDistributionConfig().type(common_models.ScaleDistribution.LINEAR)
    return panel.show_y_histogram().scale_distribution(linear)


def states(
    about: About, query: Query, names: dict[str, models.ValueMappingResult]
) -> statetimeline.Panel:
    """A band for each series, colored by the meaning of its value."""
    panel = _dressed(statetimeline.Panel(), about).with_target(_target(0, query).range())
    panel.mappings([models.ValueMap(options=names)]).thresholds(_thresholds(()))
    panel.color_scheme(_color(models.FieldColorModeId.THRESHOLDS)).merge_values(True)
    panel.show_value(common_models.VisibilityMode.NEVER).row_height(0.8).line_width(0).fill_opacity(
        80
    )
    legend = common.VizLegendOptions().show_legend(True)
    legend.display_mode(common_models.LegendDisplayMode.LIST)
    return panel.legend(legend.placement(common_models.LegendPlacement.BOTTOM).calcs([]))


def listing(
    about: About, expression: str, columns: Iterable[str], hidden: Iterable[str]
) -> table.Panel:
    """A row for each series, and a column for each label that is not hidden.

    ``columns`` are in the given order; Grafana would sort them alphabetically.
    """
    target = _target(0, Query(expression, "")).instant()
    target.format(prometheus_models.PromQueryFormat.TABLE)
    panel = _dressed(table.Panel(), about).with_target(target).filterable(True)
    options = {
        "excludeByName": dict.fromkeys(hidden, True),
        "indexByName": {name: place for place, name in enumerate(columns)},
        "renameByName": {},
    }
    return panel.with_transformation(
        models.DataTransformerConfig(id_val="organize", options=options)
    )
