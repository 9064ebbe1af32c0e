"""Draws figures of lines: coverage, temperature, training, and the probe set during training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.metrics.catalogue import axis_label
from harness.metrics.measure import Measure
from harness.metrics.recorded import PROBE, TRAINING
from harness.report.figures.data import (
    HEAT,
    Line,
    by_model,
    coverage_lines,
    emphasised_rows,
    frontier_lines,
    heat_lines,
    models,
    probe_lines,
    training_lines,
)
from harness.report.figures.style import (
    OTHERS,
    PALE,
    Look,
    even_lines,
    keep_panels,
    label_ends,
    legend_below,
    looks,
    shown,
    within_share,
)
from harness.report.results import Results
from harness.suite.cells import BASE, ORACLES

BOUNDS = dict(zip((BASE, *ORACLES), (("#000000", "*", "-"), ("#505050", "", "--"), (PALE, "", "-")), strict=True))
"""Base and oracles are drawn without a hue, as the objectives are compared with them. Where the oracles coincide, the
dashes of the first lie on the pale line of the second."""
IN_FRONT = {ORACLES[1]: 3.0, ORACLES[0]: 3.1, BASE: 3.2}
"""Heights at which they are drawn, above the objectives."""
MARKS = 6
"""Approximate number of markers along a line."""


def draw_frontier(results: Results) -> Figure:
    """Draws diversity at equal AP, one panel per model."""
    figure = Figure(figsize=(5.4 * len(models(results)), 4.4), layout="constrained")
    panels = figure.subplots(1, len(models(results)), sharex=True, sharey=True, squeeze=False)[0]
    look_of = row_looks(results)
    for axes, model in zip(panels, models(results), strict=True):
        drawn = frontier_lines(results, model)
        draw_lines(axes, drawn, look_of, shares=True)
        label_ends(axes, {line.label: (line.x[-1], line.y[-1]) for line in drawn}, look_of)
        axes.set_xlabel(axis_label("AP"))
        axes.set_title(model if len(panels) > 1 else "")
        axes.xaxis.set_major_locator(MaxNLocator(6))
    panels[0].set_ylabel(axis_label("name_diversity"))
    return figure


def row_looks(results: Results) -> dict[str, Look]:
    """Returns the look of every row of a suite: base and oracles without a hue, emphasised objectives in colour."""
    titles = {objective.label: objective.title or "" for objective in results.suite.objectives}
    return looks(titles, emphasised_rows(results)) | {label: Look(*look) for label, look in BOUNDS.items()}


def draw_coverage(results: Results) -> Figure:
    figure = Figure(figsize=(5.4 * len(models(results)), 4.4), layout="constrained")
    panels = figure.subplots(1, len(models(results)), sharey=True, squeeze=False)[0]
    look_of = row_looks(results)
    ticks = MaxNLocator(8, integer=True).tick_values(1, results.samples)
    for axes, model in zip(panels, models(results), strict=True):
        drawn = coverage_lines(results, model)
        draw_lines(axes, drawn, look_of, shares=True)
        label_ends(axes, {line.label: (line.x[-1], line.y[-1]) for line in drawn}, look_of)
        axes.set_xlabel("samples per image, k")
        axes.set_title(model if len(panels) > 1 else "")
        axes.set_xticks([k for k in ticks if 1 <= k <= results.samples])
    panels[0].set_ylabel(axis_label("coverage@k"))
    return figure


def draw_heat(results: Results) -> Figure:
    """Draws every figure of HEAT over the temperature, and recall against diversity along it."""
    figure = Figure(figsize=(11.2, 2.9 * len(models(results)) + 0.5), layout="constrained")
    panels = figure.subplots(len(models(results)), len(HEAT) + 1, squeeze=False)
    look_of = row_looks(results)
    for line, model in zip(panels, models(results), strict=True):
        by_figure, heats = heat_lines(results, model), results.suite.sample.curve
        for axes, name in zip(line[:-1], HEAT, strict=True):
            draw_lines(axes, by_figure[name], look_of, shares=True)
            axes.set_title(_titled(results, model, axis_label(name)), fontsize=9)
            axes.set_xlabel("temperature")
            axes.set_xticks(heats, [f"{heat:g}" for heat in heats])
        along = paths(by_figure["name_diversity"], by_figure["recall"])
        draw_lines(line[-1], along, look_of, every_point=True)
        for path in along:
            _hollow(line[-1], path, look_of[path.label])
        line[-1].set_title(_titled(results, model, "hollow: the coldest"), fontsize=9)
        line[-1].set(xlabel=axis_label("name_diversity"), ylabel=axis_label("recall"))
    legend_below(figure, list(panels.flat))
    return figure


def paths(across: Sequence[Line], up: Sequence[Line]) -> list[Line]:
    """Joins the lines `up` and `across` in the order of their common x, where both are defined."""
    joined = []
    for first, second in zip(across, up, strict=True):
        points = [pair for pair in zip(first.y, second.y, strict=True) if not np.isnan(pair).any()]
        if points:
            joined.append(Line(first.label, tuple(x for x, _ in points), tuple(y for _, y in points)))
    return joined


def draw_training(results: Results) -> Figure:
    """Draws the training log."""
    by_name = by_model(results, training_lines)
    drawn = [measure for measure in TRAINING if any(measure.name in names for names in by_name.values())]
    return _draw_over_steps(results, by_name, drawn, even_lines(len(drawn)))


def draw_dynamics(results: Results) -> Figure:
    """Draws the probe, two lines of panels per model: all tokens, and names."""
    return _draw_over_steps(results, by_model(results, probe_lines), PROBE, across=len(PROBE) // 2)


def _draw_over_steps(
    results: Results, by_name: Mapping[str, Mapping[str, Sequence[Line]]], drawn: Sequence[Measure], across: int
) -> Figure:
    """Draws one panel per model and measure of `drawn`, `across` of them in a line; each model begins a line."""
    down = math.ceil(len(drawn) / across)
    figure = Figure(figsize=(3 * across, 2.4 * down * len(by_name) + 0.5), layout="constrained")
    panels = figure.subplots(down * len(by_name), across, sharex=True, squeeze=False)
    look_of, used = row_looks(results), []
    for model, of_model in zip(by_name, np.split(panels, len(by_name)), strict=True):
        for axes, measure in zip(of_model.flat, drawn, strict=False):
            draw_lines(axes, by_name[model].get(measure.name, ()), look_of)
            axes.set_title(_titled(results, model, measure.heading), fontsize=9)
            used.append(axes)
    keep_panels(panels, used, "training step")
    legend_below(figure, used)
    return figure


def draw_lines(
    axes: Axes, lines: Sequence[Line], look_of: Mapping[str, Look], every_point: bool = False, shares: bool = False
) -> None:
    """Draws lines, the emphasised ones with their bands and in front. look_of: the look of each row. shares: whether
    the values are shares, beyond which no band goes."""
    for line in lines:
        style = look_of[line.label]
        if line.low and not style.behind:
            bands = zip(line.y, line.low, line.high, strict=True)
            low, high = zip(*(within_share(*band) if shares else band[1:] for band in bands), strict=True)
            axes.fill_between(line.x, low, high, color=style.colour, alpha=0.13, linewidth=0, zorder=1)
        axes.plot(
            line.x,
            line.y,
            style.dash,
            color=style.colour,
            marker=style.marker,
            markevery=1 if every_point else max(1, len(line.x) // MARKS),
            markersize=7 if style.marker == "*" else 3.5,
            linewidth=0.8 if style.behind else 1.4,
            label=OTHERS if style.behind else shown(line.label, style),
            zorder=1.5 if style.behind else IN_FRONT.get(line.label, 2),
        )
    if any(line.low for line in lines):
        _keep_in_view(axes, lines)
    whole = all(float(x).is_integer() for line in lines for x in line.x)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=whole))


def _hollow(axes: Axes, line: Line, style: Look) -> None:
    """Marks the beginning of a line with a hollow marker."""
    axes.plot(
        line.x[:1],
        line.y[:1],
        style.marker,
        color=style.colour,
        mfc="white",
        ms=7 if style.marker == "*" else 5,
        zorder=4,
    )


def _keep_in_view(axes: Axes, lines: Sequence[Line]) -> None:
    """Limits an axis to the values. Values with bands lie in [0, 1] up to noise; with few seeds the bands reach far
    beyond and would hide the lines."""
    y = [value for line in lines for value in line.y if not np.isnan(value)]
    low, high = axes.get_ylim()
    axes.set_ylim(
        max(low, min([-0.03, *(value - 0.03 for value in y)])), min(high, max([1.03, *(v + 0.03 for v in y)]))
    )


def _titled(results: Results, model: str, title: str) -> str:
    return title if len(models(results)) == 1 else f"{model}: {title}"
