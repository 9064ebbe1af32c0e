"""Draws figures of points: AP against diversity, and the diversity of each category."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, SymmetricalLogLocator

from harness.metrics.catalogue import axis_label
from harness.metrics.stats import Interval
from harness.report.figures.data import Cloud, Trajectory, clouds, models, rows_of, trajectories
from harness.report.figures.lines import row_looks
from harness.report.figures.style import (
    GREY,
    GREY_TEXT,
    OTHERS,
    Look,
    even_lines,
    keep_panels,
    label_points,
    legend_below,
    look,
    shown,
    within_share,
)
from harness.report.results import Results
from harness.suite.cells import BASE

BASE_CLOUD = Look("#8a8a8a", "*", "--")
PANEL = (3.4, 2.9)
"""Inches of one of two panels for AP against diversity, about."""


def draw_trajectories(results: Results) -> Figure:
    """Draws two panels per model: the paths of training from the base, and where they end, with intervals."""
    look_of = row_looks(results)
    figure = Figure(figsize=(8.4, 3.9 * len(models(results))), layout="constrained")
    panels = figure.subplots(len(models(results)), 2, squeeze=False)
    for (paths, ends), model in zip(panels, models(results), strict=True):
        drawn = trajectories(results, model)
        _draw_paths(paths, drawn, look_of)
        _draw_ends(ends, [path for path in drawn if path.label != BASE], look_of)
        for axes, title in ((paths, "along training"), (ends, "at the last step")):
            axes.set_title(title if len(panels) == 1 else f"{model}: {title}", pad=16, fontsize=9)
            axes.set_xlabel(axis_label("name_diversity"))
        paths.set_ylabel(axis_label("AP"))
    if any(look.behind for look in look_of.values()):
        legend_below(figure, list(panels[:, 0]), only=(OTHERS,))
    return figure


def _draw_paths(axes: Axes, trajectories: Sequence[Trajectory], look_of: Mapping[str, Look]) -> None:
    axes.grid(visible=False, axis="x")
    for bound, meaning, side in ((0.0, "one name", "left"), (1.0, "uniform", "right")):
        axes.axvline(bound, color=GREY, linewidth=1, zorder=0.5)
        axes.text(bound, 1.01, meaning, color=GREY_TEXT, size=8, ha=side, transform=axes.get_xaxis_transform())
    for path in trajectories:
        style = look_of[path.label]
        if path.label == BASE:
            axes.plot(path.diversity, path.ap, "*", color="black", markersize=11, label=BASE, zorder=4)
            continue
        axes.plot(
            path.diversity,
            path.ap,
            style.dash,
            marker=style.marker or ("o" if len(path.ap) == 1 else ""),  # of one point, nothing else would be seen
            color=style.colour,
            linewidth=0.8 if style.behind else 1.4,
            markersize=4,
            label=OTHERS if style.behind else shown(path.label, style),
            zorder=1.5 if style.behind else 3,
        )
    axes.xaxis.set_major_locator(MaxNLocator(6))
    starts = {path.label: (path.diversity[-1], path.ap[-1]) for path in trajectories if path.label == BASE}
    label_points(axes, starts, look_of, PANEL)


def _draw_ends(axes: Axes, trajectories: Sequence[Trajectory], look_of: Mapping[str, Look]) -> None:
    """Draws the last step of each row: its interval and name where the row is emphasised, a grey point elsewhere."""
    bars = []
    for path in trajectories:
        style = look_of[path.label]
        x, y = path.diversity[-1], path.ap[-1]
        if style.behind:
            axes.plot(x, y, "o", color=style.colour, markersize=4, zorder=2)
            continue
        diversity, ap = path.last or (None, None)
        across = _bars(x, diversity)
        bars.append((x - across[0][0], x + across[1][0], y) if across else (x, x, y))
        axes.errorbar(
            x,
            y,
            xerr=across,
            yerr=_bars(y, ap),
            fmt=style.marker,
            color=style.colour,
            markersize=6,
            elinewidth=1.2,
            capsize=2,
            zorder=5,
        )
    axes.xaxis.set_major_locator(MaxNLocator(5))
    last = {path.label: (path.diversity[-1], path.ap[-1]) for path in trajectories}
    label_points(axes, last, look_of, PANEL, bars)


def _bars(value: float, figure: Interval | None) -> list[list[float]] | None:
    """Returns how far the interval reaches below and above the value, [2, 1]: not beyond what a share can be."""
    if figure is None or math.isnan(figure.high):
        return None
    low, high = within_share(value, figure.low, figure.high)
    return [[value - low], [high - value]]


def draw_clouds(results: Results) -> Figure:
    """Draws one panel per objective: its categories in front of those of the base, which are grey."""
    by_model = [(model, clouds(results, model)) for model in models(results)]
    drawn = [
        (model, cloud, of_model)
        for model, of_model in by_model
        for cloud in of_model
        if cloud.label != BASE or len(of_model) == 1
    ]
    across = even_lines(len(drawn))
    down = math.ceil(len(drawn) / across)
    figure = Figure(figsize=(max(2.4 * across, 3.6), 2.1 * down + 0.7), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    labels, titled = rows_of(results)[1:], row_looks(results)
    for axes, (model, cloud, of_model) in zip(panels.flat, drawn, strict=False):
        for base in (other for other in of_model if other.label == BASE):
            _draw_cloud(axes, base, BASE_CLOUD, BASE, only_middle=cloud.label != BASE)
        if cloud.label != BASE:
            _draw_cloud(axes, cloud, look(labels.index(cloud.label)), None)
        title = shown(cloud.label, titled.get(cloud.label)).strip()
        axes.set_title(title if len(by_model) == 1 else f"{model}: {title}", fontsize=9)
        _log_axis(axes)
    used = list(panels.flat)[: len(drawn)]
    keep_panels(panels, used, "training images")
    figure.supylabel(axis_label("name_diversity"), size=9)
    if any(axes.get_legend_handles_labels()[0] for axes in used):
        legend_below(figure, used)
    return figure


def _draw_cloud(axes: Axes, cloud: Cloud, style: Look, name: str | None, only_middle: bool = False) -> None:
    """Draws the points of a row and its medians; only_middle: the medians alone, where the points would be repeated."""
    dash = "--" if name else "-"  # one line a panel beside the base's: no other dash is needed
    if only_middle:
        axes.plot(cloud.middle.x, cloud.middle.y, dash, color=style.colour, linewidth=1.6, zorder=3, label=name)
        return
    axes.plot(cloud.train_images, cloud.diversity, style.marker, color=style.colour, ms=4, alpha=0.55, mew=0, zorder=2)
    axes.plot(cloud.middle.x, cloud.middle.y, dash, color=style.colour, linewidth=1.6, zorder=3)
    axes.plot([], [], dash, marker=style.marker, color=style.colour, label=name)


def _log_axis(axes: Axes) -> None:
    """Sets a logarithmic axis from 1 upwards; a category without a training image is placed at 0."""
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.minorticks_off()
