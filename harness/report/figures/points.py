"""Draws figures of points: AP against diversity, and the diversity of each category."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, SymmetricalLogLocator

from harness.metrics.catalogue import axis_label
from harness.metrics.stats import Interval
from harness.report.figures.data import Cloud, Trajectory, clouds, models, rows_of, trajectories
from harness.report.figures.style import Look, legend_below, look, shown
from harness.report.results import Results
from harness.suite.cells import BASE

GREY = Look("#8a8a8a", "*", "--")
ACROSS = 4
"""Panels in a line."""


def draw_trajectories(results: Results) -> Figure:
    labels = rows_of(results)[1:]
    figure = Figure(figsize=(4.6 * len(models(results)), 4.0), layout="constrained")
    panels = figure.subplots(1, len(models(results)), sharex=True, sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models(results), strict=True):
        _draw_trajectories(axes, trajectories(results, model), labels)
        axes.set_xlabel(axis_label("name_diversity"))
        if len(panels) > 1:
            axes.set_title(model, pad=16)
    panels[0].set_ylabel(axis_label("AP"))
    legend_below(figure, panels)
    return figure


def _draw_trajectories(axes: Axes, trajectories: Sequence[Trajectory], labels: Sequence[str]) -> None:
    axes.grid(visible=False, axis="x")
    for bound, meaning, side in ((0.0, "one name", "left"), (1.0, "uniform", "right")):
        axes.axvline(bound, color="#b0b0b0", linewidth=1, zorder=0.5)
        axes.text(bound, 1.01, meaning, color="#707070", size=8, ha=side, transform=axes.get_xaxis_transform())
    for path in trajectories:
        if path.label == BASE:
            axes.plot(path.diversity, path.ap, "*", color="black", markersize=13, label=BASE, zorder=4)
            continue
        style = look(labels.index(path.label))
        axes.plot(path.diversity, path.ap, "-", color=style.colour, linewidth=1.2, alpha=0.7, zorder=2)
        axes.plot(
            path.diversity[:-1], path.ap[:-1], style.marker, color=style.colour, markersize=4.5, mfc="w", zorder=3
        )
        _draw_last(axes, path, style.colour, style.marker)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _draw_last(axes: Axes, path: Trajectory, colour: str, marker: str) -> None:
    diversity, ap = path.last or (None, None)
    axes.errorbar(
        path.diversity[-1],
        path.ap[-1],
        xerr=_half(diversity),
        yerr=_half(ap),
        fmt=marker,
        color=colour,
        markersize=7,
        elinewidth=1.2,
        capsize=2,
        label=shown(path.label),
        zorder=5,
    )


def _half(figure: Interval | None) -> float | None:
    return None if figure is None or math.isnan(figure.high) else (figure.high - figure.low) / 2


def draw_clouds(results: Results) -> Figure:
    """Draws one panel per objective: its categories in front of those of the base, which are grey."""
    by_model = [(model, clouds(results, model)) for model in models(results)]
    drawn = [
        (model, cloud, of_model)
        for model, of_model in by_model
        for cloud in of_model
        if cloud.label != BASE or len(of_model) == 1
    ]
    across = min(ACROSS, len(drawn))
    down = math.ceil(len(drawn) / across)
    figure = Figure(figsize=(max(2.4 * across, 3.6), 2.1 * down + 0.7), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    labels = rows_of(results)[1:]
    for axes, (model, cloud, of_model) in zip(panels.flat, drawn, strict=False):
        for base in (other for other in of_model if other.label == BASE):
            _draw_cloud(axes, base, GREY, BASE)
        if cloud.label != BASE:
            _draw_cloud(axes, cloud, look(labels.index(cloud.label)), None)
        axes.set_title(cloud.label if len(by_model) == 1 else f"{model}: {cloud.label}", fontsize=9)
        _log_axis(axes)
    for axes in list(panels.flat)[len(drawn) :]:
        axes.remove()
    for axes in list(panels.flat)[max(0, len(drawn) - across) : len(drawn)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("training images")
    figure.supylabel(axis_label("name_diversity"), size=9)
    if any(axes.get_legend_handles_labels()[0] for axes in panels.flat):
        legend_below(figure, list(panels.flat))
    return figure


def _draw_cloud(axes: Axes, cloud: Cloud, style: Look, name: str | None) -> None:
    dash = "--" if name else "-"  # one line a panel beside the base's: no other dash is needed
    axes.plot(cloud.train_images, cloud.diversity, style.marker, color=style.colour, ms=4, alpha=0.55, mew=0, zorder=2)
    axes.plot(cloud.middle.x, cloud.middle.y, dash, color=style.colour, linewidth=1.6, zorder=3)
    axes.plot([], [], dash, marker=style.marker, color=style.colour, label=name)


def _log_axis(axes: Axes) -> None:
    """Sets a logarithmic axis from 1 upwards; a category without a training image is placed at 0."""
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.minorticks_off()
