"""Computes what the figures show from results, as plain values that tests compare. Nothing is drawn here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from harness.metrics.recorded import PROBE, TRAINING
from harness.metrics.samples.aggregate import REPORTABLE
from harness.metrics.stats import Interval, interval
from harness.records import Record
from harness.report.estimates import Floats
from harness.report.paths import interpolate_path
from harness.report.results import Key, Results
from harness.report.rows import figures_of, path_of, path_source, seed_mean, temperature_lines
from harness.suite.cells import BASE, ORACLES

Numbers = tuple[float, ...]

HEAT = ("recall", "precision", "name_diversity")
"""The figures that are shown over the temperature of the samples."""

EMPHASISED = 5
"""Rows in colour where a suite has many: as many as a reader follows."""
POINTS = 13
"""Number of APs along a frontier at which the rows are compared."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """AP against diversity of one row along training: seed means at `steps`; the intervals of the last step."""

    label: str
    steps: tuple[int, ...]
    diversity: Numbers
    ap: Numbers
    last: tuple[Interval, Interval] | None
    """The intervals of diversity and of AP at the last step."""


@dataclass(frozen=True, slots=True)
class Line:
    """y over x of one row; low and high: 95% intervals, or the range over seeds; empty where there are none."""

    label: str
    x: Numbers
    y: Numbers
    low: Numbers = ()
    high: Numbers = ()


@dataclass(frozen=True, slots=True)
class Cloud:
    """Normalised name diversity (seed mean) of each reportable category of one row that defines it, over the number of
    training images that have the category; ascending. middle: medians of diversity over bins of categories."""

    label: str
    train_images: Numbers
    diversity: Numbers
    middle: Line


T = TypeVar("T")


def by_model(results: Results, find: Callable[[Results, str], T]) -> dict[str, T]:
    """Returns what `find` finds for each model, without models for which it finds nothing."""
    all_models = {model: find(results, model) for model in models(results)}
    return {model: content for model, content in all_models.items() if content}


def models(results: Results) -> list[str]:
    return [model.label for model in results.suite.models]


def rows_of(results: Results, oracles: bool = False) -> list[str]:
    """Lists the labels of base, objectives and, if wanted, oracles, in the order of the tables."""
    objectives = [objective.label for objective in results.suite.objectives]
    return [BASE, *objectives, *(ORACLES if oracles else ())]


def emphasised_rows(results: Results) -> list[str]:
    """Lists the objectives that figures draw in colour, in the suite's order: all of up to EMPHASISED + 1; of more, the
    first one (the control), and those that most hypotheses and early stops are about, of equals the earlier one."""
    labels = rows_of(results)[1:]
    if len(labels) <= EMPHASISED + 1:
        return labels
    suite = results.suite
    named = Counter(name.rpartition("/")[2] for item in suite.hypotheses for name in (item.a, item.b))
    named.update(item.at_ap_of for item in suite.early_stops)
    others = sorted(labels[1:], key=lambda label: -named[label])
    return [label for label in labels if label in (labels[0], *others[: EMPHASISED - 1])]


def trajectories(results: Results, model: str) -> list[Trajectory]:
    """Returns the paths of the base (one step) and every objective of a model; empty where the task has no AP."""
    if results.suite.task == "caption":
        return []
    paths = []
    for label in rows_of(results):
        steps = results.steps(model, label)
        diversity = tuple(seed_mean(results, model, label, step, "name_diversity") for step in steps)
        ap = tuple(seed_mean(results, model, label, step, "AP") for step in steps)
        last = figures_of(results, model, label, ("name_diversity", "AP"))
        paths.append(Trajectory(label, steps, diversity, ap, (last["name_diversity"], last["AP"]) if last else None))
    paths = [path for path in paths if path.steps]
    return paths if sum(len(path.steps) for path in paths) > 1 else []  # one point is no figure


def ends_in_words(results: Results) -> str:
    """Says where the emphasised rows end: AP and name diversity at the last step."""
    parts = []
    for model in models(results):
        ends = {path.label: (path.ap[-1], path.diversity[-1]) for path in trajectories(results, model)}
        told = [
            f"{label} {ends[label][0]:.2f} and {ends[label][1]:.2f}"
            for label in emphasised_rows(results)
            if label in ends
        ]
        parts.append(f"{model}: " * (len(models(results)) > 1) + "; ".join(told))
    return f"AP and name diversity at the last step: {'. '.join(parts)}."


def frontier_lines(results: Results, model: str) -> list[Line]:
    """Returns name diversity over AP along the path of every objective, starting at the base, so that rows at equal
    AP are above each other. Covers the APs that the path passes; empty where the task has no AP."""
    if results.suite.task == "caption":
        return []
    frontiers = [_frontier(results, model, label) for label in rows_of(results)[1:]]
    return [line for line in frontiers if line is not None]


def _frontier(results: Results, model: str, label: str) -> Line | None:
    source = path_source(results, model, label)
    seeds = [key.seed for key in results.finished(model, label)]
    if not seeds or source.base is None or not all(key in results.records for key in source.base.cells):
        return None
    ap = [path_of(results, source, seed, "AP") for seed in seeds]
    diversity = [path_of(results, source, seed, "name_diversity") for seed in seeds]
    means = np.mean([curve[:, 0] for curve in ap], axis=0)
    x = np.linspace(means.min(), means.max(), POINTS)
    figures = []
    for target in x:
        goal = np.full(ap[0].shape[1], target)
        values = np.stack([interpolate_path(*of_seed, goal) for of_seed in zip(ap, diversity, strict=True)])
        figures.append(interval(values[:, 0], values[:, 1:]))
    return None if np.isnan(x).any() else line_of(label, x.tolist(), figures)


def coverage_lines(results: Results, model: str) -> list[Line]:
    """Returns coverage@k over k = 1..K of base, objectives and oracles."""
    ks = range(1, results.samples + 1)
    lines = []
    for label in rows_of(results, oracles=True):
        row_model = label if label in ORACLES else model
        figures = figures_of(results, row_model, label, [f"coverage@{k}" for k in ks])
        lines.append(line_of(label, ks, list(figures.values())) if figures else None)
    return [line for line in lines if line is not None]


def heat_lines(results: Results, model: str) -> dict[str, list[Line]]:
    """Maps each figure of HEAT to its lines over the temperature of the samples; empty where there is one
    temperature."""
    by_figure: dict[str, list[Line]] = {name: [] for name in HEAT}
    lines = temperature_lines(results)
    for label in rows_of(results):
        of_row = [line for line in lines if (line.model, line.label) == (model, label)]
        for name in by_figure if of_row else ():
            heats = [line.temperature for line in of_row]
            by_figure[name].append(line_of(label, heats, [line.figures[name] for line in of_row]))
    return by_figure if lines else {}


def clouds(results: Results, model: str) -> list[Cloud]:
    """Returns one cloud per row with a reportable category; empty where the records do not contain the training
    counts."""
    counts = [category.train_images for category in results.categories]
    if not counts or None in counts:
        return []
    drawn = [_cloud(results, model, label, np.array(counts, dtype=np.float64)) for label in rows_of(results)]
    return [cloud for cloud in drawn if cloud is not None]


def _cloud(results: Results, model: str, label: str, counts: Floats) -> Cloud | None:
    keys = results.finished(model, label)
    if not keys:
        return None
    estimates = [results.estimates(key, results.steps(model, label)[-1]) for key in keys]
    diversity = np.mean([estimate.categories["name_diversity"][0] for estimate in estimates], axis=0)
    drawn = np.flatnonzero((estimates[0].support >= REPORTABLE) & ~np.isnan(diversity))
    order = drawn[np.argsort(counts[drawn], kind="stable")]
    x, y = tuple(counts[order].tolist()), tuple(diversity[order].tolist())
    return Cloud(label, x, y, middle(label, x, y)) if x else None


def middle(label: str, x: Numbers, y: Numbers, per_bin: int = 4, most: int = 8) -> Line:
    """Computes medians of x and y over bins of equally many points, x ascending: at most `most` bins of at least
    `per_bin` points (one bin where there are fewer)."""
    bins = max(1, min(most, len(x) // per_bin))
    parts = np.array_split(np.arange(len(x)), bins)
    medians = [(float(np.median(np.array(x)[part])), float(np.median(np.array(y)[part]))) for part in parts]
    return Line(label, *(tuple(values) for values in zip(*medians, strict=True)))


def training_lines(results: Results, model: str) -> dict[str, list[Line]]:
    """Maps the measures of TRAINING that were logged to their lines over training steps: mean over seeds, and their
    range."""

    def lines(quantity: str) -> list[Line]:
        return _over_steps(results, model, lambda record: _log(record, quantity), base=quantity == "heldout_nll")

    return {item.name: drawn for item in TRAINING if (drawn := lines(item.name))}


def probe_lines(results: Results, model: str) -> dict[str, list[Line]]:
    """Maps the measures of PROBE that were recorded to their lines over training steps (0 is the base): mean over
    seeds, and their range."""

    def lines(quantity: str) -> list[Line]:
        return _over_steps(results, model, lambda record: _defined(record.probe, quantity), base=False)

    return {item.name: drawn for item in PROBE if (drawn := lines(item.name))}


def _over_steps(results: Results, model: str, log: Callable[[Record], dict[int, float]], base: bool) -> list[Line]:
    """Returns the lines of a measure over training steps. base: whether they begin with the base's value, at step 0."""
    start = _over_seeds(results, results.finished(model, BASE), log) if base else {}
    lines = []
    for objective in results.suite.objectives:
        points = _over_seeds(results, results.finished(model, objective.label), log)
        if points:
            points = start | points
            mean, low, high = zip(*points.values(), strict=True)
            lines.append(Line(objective.label, tuple(map(float, points)), mean, low, high))
    return lines


def _over_seeds(
    results: Results, keys: Sequence[Key], log: Callable[[Record], dict[int, float]]
) -> dict[int, tuple[float, float, float]]:
    """Returns mean, smallest and largest value over the seeds at each step that every seed has."""
    logs = [log(results.records[key]) for key in keys]
    steps = sorted(set.intersection(*map(set, logs))) if logs else []
    values = {step: [log[step] for log in logs] for step in steps}
    return {step: (float(np.mean(each)), min(each), max(each)) for step, each in values.items()}


def _log(record: Record, quantity: str) -> dict[int, float]:
    """Reads the log of a cell by step: the held-out NLL from its evaluations, everything else from training."""
    if quantity == "heldout_nll":
        return {item.step: item.heldout_nll for item in record.evaluations if item.heldout_nll is not None}
    return _defined(record.curve, quantity)


def _defined(rows: Sequence[dict[str, float | None]], quantity: str) -> dict[int, float]:
    by_step = {}
    for row in rows:
        step, value = row["step"], row.get(quantity)
        if step is not None and value is not None:
            by_step[int(step)] = value
    return by_step


def line_of(label: str, x: Sequence[float], figures: Sequence[Interval]) -> Line:
    """Makes a line of estimates and their intervals over x."""
    y, low, high = zip(*((figure.estimate, figure.low, figure.high) for figure in figures), strict=True)
    return Line(label, tuple(map(float, x)), y, low, high)
