"""Results -> figures, as PNG and SVG. What is drawn comes from `trajectories` and `curves`, which tests can compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator

from harness.metrics.stats import Interval
from harness.plotting import COLOURS, STYLE, save
from harness.records import Record
from harness.results import Results
from harness.rows import Row, seed_mean, table
from harness.suite import BASE

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
"""For readers of grey prints; eleven, so that no pair of colour and marker comes twice before 66 objectives."""
DASHES = ("-", "--", "-.", ":")

CURVES = (
    ("heldout_nll", "held-out NLL (nats per token)"),
    ("entropy", "entropy (nats)"),
    ("p_y", "probability of the label"),
    ("selected", "selected share"),
)

Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """AP against diversity of one row along training: seed means at `steps`; the intervals of the last step."""

    label: str
    steps: tuple[int, ...]
    diversity: tuple[float, ...]
    ap: tuple[float, ...]
    last: tuple[Interval, Interval] | None
    """Of diversity and of AP."""


def draw(results: Results, folder: Path) -> list[Path]:
    """Writes the available figures as PNG and SVG; the same results give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        made = {name: _FIGURES[name](results) for name in available(results)}
        return [save(figure, folder / f"{name}.{suffix}") for name, figure in made.items() for suffix in ("png", "svg")]


def available(results: Results) -> list[str]:
    """Names of the figures that there is something to draw for."""
    models = [model.label for model in results.suite.models]
    drawable = {
        "ap-vs-diversity": any(trajectories(results, model) for model in models),
        "training": bool(_drawn_curves(results)),
    }
    return [name for name, there_is in drawable.items() if there_is]


def trajectories(results: Results, model: str) -> list[Trajectory]:
    """The base (one step) and every objective of a model."""
    rows = {row.label: row for row in table(results) if row.model == model and not row.source.early}
    found = []
    for label, row in rows.items():
        steps = results.steps(model, label)
        diversity = tuple(seed_mean(results, model, label, step, "name_diversity") for step in steps)
        ap = tuple(seed_mean(results, model, label, step, "AP") for step in steps)
        found.append(Trajectory(label, steps, diversity, ap, _last(row)))
    return [path for path in found if path.steps]


def curves(results: Results, model: str, quantity: str) -> dict[str, Points]:
    """Label -> (step, mean over seeds) of one of CURVES, for the objectives that logged it."""
    found = {}
    for objective in results.suite.objectives:
        keys = results.finished(model, objective.label)
        logs = [_log(results.records[key], quantity) for key in keys]
        steps = sorted(set.intersection(*map(set, logs))) if logs else []
        if steps:
            points = [(step, float(np.mean([log[step] for log in logs]))) for step in steps]
            found[objective.label] = _base_nll(results, model, quantity) + points
    return found


def _last(row: Row) -> tuple[Interval, Interval] | None:
    return (row.figures["name_diversity"], row.figures["AP"]) if row.figures else None


def _log(record: Record, quantity: str) -> dict[int, float]:
    """The held-out NLL is measured with each evaluation, the rest is logged in training."""
    if quantity == "heldout_nll":
        return {item.step: item.heldout_nll for item in record.evaluations if item.heldout_nll is not None}
    return {row["step"]: row[quantity] for row in record.curve if row.get(quantity) is not None}


def _base_nll(results: Results, model: str, quantity: str) -> Points:
    """Training starts from the base: its held-out NLL is the one at step 0."""
    if quantity != "heldout_nll":
        return []
    logs = [value for key in results.finished(model, BASE) for value in _log(results.records[key], quantity).values()]
    return [(0, float(np.mean(logs)))] if logs else []


# ---- drawing -----------------------------------------------------------------------------------------------------


def _ap_vs_diversity(results: Results) -> Figure:
    models = [model.label for model in results.suite.models]
    found = {model: trajectories(results, model) for model in models}
    figure = Figure(figsize=(4.6 * len(models), 4.0), layout="constrained")
    panels = figure.subplots(1, len(models), sharex=True, sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        _draw_trajectories(axes, found[model], [objective.label for objective in results.suite.objectives])
        axes.set_xlabel("normalised name diversity")
        if len(models) > 1:
            axes.set_title(model, pad=16)
    panels[0].set_ylabel("AP (greedy answer)")
    _legend_below(figure, panels)
    return figure


def _draw_trajectories(axes: Axes, found: Sequence[Trajectory], labels: Sequence[str]) -> None:
    axes.grid(visible=False, axis="x")
    for bound, meaning, side in ((0.0, "one name", "left"), (1.0, "uniform", "right")):
        axes.axvline(bound, color="#b0b0b0", linewidth=1, zorder=0.5)
        axes.text(bound, 1.01, meaning, color="#707070", size=8, ha=side, transform=axes.get_xaxis_transform())
    for path in found:
        if path.label == BASE:
            axes.plot(path.diversity, path.ap, "*", color="black", markersize=13, label=BASE, zorder=4)
            continue
        colour, marker = _look(labels.index(path.label))
        axes.plot(path.diversity, path.ap, "-", color=colour, linewidth=1.2, alpha=0.7, zorder=2)
        axes.plot(path.diversity[:-1], path.ap[:-1], marker, color=colour, markersize=4.5, mfc="white", zorder=3)
        _draw_last(axes, path, colour, marker)
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
        label=path.label,
        zorder=5,
    )


def _half(figure: Interval | None) -> float | None:
    return None if figure is None or math.isnan(figure.high) else (figure.high - figure.low) / 2


def _training(results: Results) -> Figure:
    models = [model.label for model in results.suite.models]
    drawn = _drawn_curves(results)
    figure = Figure(figsize=(2.9 * len(drawn), 2.7 * len(models) + 0.4), layout="constrained")
    panels = figure.subplots(len(models), len(drawn), sharex=True, squeeze=False)
    labels = [objective.label for objective in results.suite.objectives]
    for row, model in zip(panels, models, strict=True):
        for axes, (quantity, title) in zip(row, drawn, strict=True):
            _draw_curves(axes, curves(results, model, quantity), labels)
            axes.set_title(title if len(models) == 1 else f"{model}: {title}", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("training step")
    _legend_below(figure, list(panels.flat))
    return figure


def _drawn_curves(results: Results) -> list[tuple[str, str]]:
    models = [model.label for model in results.suite.models]
    return [pair for pair in CURVES if any(curves(results, model, pair[0]) for model in models)]


def _draw_curves(axes: Axes, found: dict[str, Points], labels: Sequence[str]) -> None:
    for label, points in found.items():
        index = labels.index(label)
        colour, marker = _look(index)
        steps, values = zip(*points, strict=True)
        style = DASHES[index % len(DASHES)]
        every = max(1, len(steps) // 6)
        axes.plot(
            steps,
            values,
            style,
            color=colour,
            marker=marker,
            markevery=every,
            markersize=3.5,
            linewidth=1.2,
            label=label,
        )
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _look(index: int) -> tuple[str, str]:
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]


def _legend_below(figure: Figure, panels: Sequence[Axes]) -> Legend:
    """One legend for all panels, outside of them."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    widest = 0.5 + 0.085 * max(map(len, entries))  # inches: handle and gaps, then the text at 9 points
    columns = max(1, min(len(entries), int(figure.get_figwidth() / widest)))
    return figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


_FIGURES: dict[str, Callable[[Results], Figure]] = {
    "ap-vs-diversity": _ap_vs_diversity,
    "training": _training,
}
