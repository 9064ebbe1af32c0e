"""Turns results into rows, differences to the base, and gains. No text is made here (see
harness.report.renderers.text)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.metrics.catalogue import (
    CATEGORY_COLUMNS,
    GAIN,
    MASK_COLUMNS,
    ROLLOUT_COLUMNS,
    WAY_COLUMNS,
    direction,
    diversity_columns,
    figure_names,
    gain_names,
)
from harness.metrics.stats import REPLICATES, Interval, interval, intervals
from harness.report.estimates import Floats
from harness.report.paths import Source, interpolate_path, on_same_images, over_images
from harness.report.results import Key, Results, once
from harness.suite.cells import BASE, ORACLES, after_sft, chains


@dataclass(frozen=True, slots=True)
class ReportRow:
    """A row of the table. figures: by name, empty without a finished cell; seeds: those of finished cells."""

    source: Source
    seeds: tuple[int, ...]
    failed: tuple[int, ...]
    missing: tuple[int, ...]
    figures: dict[str, Interval]

    @property
    def model(self) -> str:
        return self.source.model

    @property
    def label(self) -> str:
        return self.source.label

    @property
    def step(self) -> int | None:
        """Returns the step; None also where the row is read between steps."""
        return self.source.step if self.source.at_ap_of is None else None

    @property
    def title(self) -> str:
        """Returns the label, with the row whose AP it is read at or the temperature of its samples."""
        if self.source.temperature is not None:
            return f"{self.label} (T = {self.source.temperature:g})"
        return (
            self.label if self.source.at_ap_of is None else f"{self.label} (at the AP of {self.source.at_ap_of.label})"
        )


@dataclass(frozen=True, slots=True)
class CategoryLine:
    """CATEGORY_COLUMNS of a row by category id, and the number of validation images of each category."""

    model: str
    label: str
    title: str
    figures: dict[int, dict[str, Interval]]
    support: dict[int, int]


@dataclass(frozen=True, slots=True)
class TemperatureLine:
    """Figures of a row's samples at one temperature."""

    model: str
    label: str
    temperature: float
    figures: dict[str, Interval]

    @property
    def title(self) -> str:
        return f"{self.label} (T = {self.temperature:g})"


@once
def sources(results: Results) -> list[Source]:
    """Lists the sources of all rows in the order of the table: per model base, objectives, chains before their last
    stage, rows at the AP of others, other temperatures; then the oracles."""
    return list(_sources(results))


def _sources(results: Results) -> Iterator[Source]:
    suite = results.suite
    for model in suite.models:
        for label in (BASE, *(objective.label for objective in suite.objectives)):
            yield at_last_step(results, model.label, label)
        for chain in chains(suite):
            last = at_last_step(results, model.label, chain.label)
            yield replace(last, label=after_sft(chain), step=last.step and last.since, since=None, unfinished=True)
        for stop in suite.early_stops:
            yield replace(at_ap_of(results, model.label, stop.objective, stop.at_ap_of), label=stop.label)
        yield from resampled_rows(results, model.label)
    for oracle in ORACLES:
        yield at_last_step(results, oracle, oracle)


def resampled_rows(results: Results, model: str) -> list[Source]:
    """Lists rows of samples at other temperatures."""
    return [
        replace(at_last_step(results, model, other.objective), label=other.label, temperature=other.temperature)
        for other in results.suite.resampled
    ]


@once
def table(results: Results) -> list[ReportRow]:
    """Makes one row per source: every figure with the interval of its seed mean."""
    names = figure_names(results.samples, results.measures)
    return [compare_rows(results, source, names) for source in sources(results)]


def _has(row: ReportRow, name: str) -> bool:
    return name in row.figures and not math.isnan(row.figures[name].estimate)


def figure_lines(results: Results) -> Iterator[tuple[ReportRow, str]]:
    """Yields every row with the name of each figure of the table, defined or not, followed by the gains of chains."""
    rows = table(results)
    optional = (*WAY_COLUMNS, *MASK_COLUMNS, *ROLLOUT_COLUMNS)
    absent = {name for name in optional if not any(_has(row, name) for row in rows)}
    names = [name for name in figure_names(results.samples, results.measures) if name not in absent]
    for row in rows:
        yield from ((row, name) for name in names)
    for row in gains(results):
        yield from ((row, name) for name in row.figures)


@once
def differences(results: Results) -> list[ReportRow]:
    """Makes rows of the diversity figures of every trained row minus the base's, paired by seed and image."""
    by_name = {(source.model, source.label): source for source in sources(results)}
    names = [name for name in diversity_columns(results.samples) if name != "recall"]
    rows = []
    for (model, label), source in by_name.items():
        if label != BASE and label not in ORACLES:
            rows.append(compare_rows(results, source, names, minus=by_name[model, BASE]))
    return rows


@once
def gains(results: Results) -> list[ReportRow]:
    """Makes rows of what the last stage changed in the figures of each chain, paired by seed and image; empty without
    a chain."""
    labels = {chain.label for chain in chains(results.suite)}
    names = gain_names(results.samples)
    return [compare_rows(results, source, names) for source in sources(results) if source.label in labels]


def figures_of(
    results: Results,
    model: str,
    label: str,
    names: Sequence[str],
    step: int | None = None,
    temperature: float | None = None,
) -> dict[str, Interval]:
    """Computes the figures of a row's finished cells at a step (None: the last) and a temperature (None: that of the
    suite); empty without a finished cell."""
    source = replace(at_last_step(results, model, label), temperature=temperature)
    return compare_rows(results, source if step is None else replace(source, step=step), names).figures


def best(results: Results, rows: Sequence[ReportRow], names: Sequence[str]) -> dict[str, int]:
    """Maps each figure to the index of the best row, unless it is a tie: the interval of its paired difference to
    every other row must exclude 0.

    Only complete rows of fine-tuned cells of one model compete: neither the base and the oracles, which bound them,
    nor rows made of another row's cells.
    """
    objectives = {objective.label for objective in results.suite.objectives}
    competing = [i for i, row in enumerate(rows) if row.label in objectives and row.figures and not _incomplete(row)]
    winners: dict[str, int] = {}
    for name in names:
        better = direction(name, results.measures)
        values = {i: better * rows[i].figures[name].estimate for i in competing}
        defined = {i: value for i, value in values.items() if not math.isnan(value)}
        if len(defined) < 2 or not better:
            continue
        first = max(defined, key=defined.__getitem__)
        others = [rows[i].source for i in defined if i != first]
        gaps = [compare_rows(results, rows[first].source, [name], minus=other).figures[name] for other in others]
        if all(gap.low > 0 if better > 0 else gap.high < 0 for gap in gaps):
            winners[name] = first
    return winners


@once
def category_lines(results: Results) -> list[CategoryLine]:
    """Makes one line per row with a finished cell, without rows made of other rows' cells."""
    return [
        _category_line(results, source)
        for source in sources(results)
        if not source.derived and results.finished(source.model, source.label)
    ]


@once
def temperature_lines(results: Results) -> list[TemperatureLine]:
    """Makes one line per objective (and base) and temperature; empty where the suite samples at a single one."""
    heats = results.suite.sample.curve
    names = ("precision", *diversity_columns(results.samples))
    rows = [source for source in sources(results) if not source.derived and source.label not in ORACLES]
    return [
        TemperatureLine(source.model, source.label, heat, figures)
        for source in (rows if len(heats) > 1 else ())
        for heat in heats
        if (figures := figures_of(results, source.model, source.label, names, temperature=heat))
    ]


def seed_mean(results: Results, model: str, label: str, step: int, name: str) -> float:
    """Averages a figure over the finished seeds; nan where it is undefined for one."""
    return float(np.mean([results.points(key, step)[name] for key in results.finished(model, label)]))


def at_last_step(results: Results, model: str, label: str) -> Source:
    """Returns the source of a row at the end of its training."""
    steps = results.steps(model, label)
    chain = next((row for row in chains(results.suite) if row.label == label), None)
    since = None if chain is None else results.suite.train_of(results.model(model), chain).steps
    return Source(model, label, tuple(results.keys(model, label)), steps[-1] if steps else None, since=since)


def at_ap_of(results: Results, model: str, control: str, label: str, target_model: str | None = None) -> Source:
    """Returns the source of the row `control` where its path has the AP of the row `label`, seed by seed.

    Args:
        target_model: of the row `label`, where it is not that of the control.
    """
    model_of = model if target_model is None else target_model
    row = next((row_of for row_of in resampled_rows(results, model_of) if row_of.label == label), None)
    target = row or at_last_step(results, label if label in ORACLES else model_of, label)
    control_path = replace(path_source(results, model, control), at_ap_of=target)
    return over_images(control_path, control_path.early_images)


def path_source(results: Results, model: str, label: str) -> Source:
    """Returns the source of a row with the base at which its path of training begins."""
    path = replace(at_last_step(results, model, label), base=at_last_step(results, model, BASE))
    return over_images(path, early_images(results, model, label))


def early_images(results: Results, model: str, label: str) -> int | None:
    """Returns how many images the evaluations of a row before the last step are made of; None: all of them."""
    keys = results.finished(model, label)
    return (
        next((evaluation.images for evaluation in results.records[keys[0]].evaluations if evaluation.images), None)
        if keys
        else None
    )


def needed(source: Source) -> list[Key]:
    """Lists the cells without which a row has no figures."""
    others = [] if source.at_ap_of is None or source.base is None else [*source.at_ap_of.cells, *source.base.cells]
    return list(dict.fromkeys([*source.cells, *others]))


def _category_line(results: Results, source: Source) -> CategoryLine:
    assert source.step is not None
    keys = results.finished(source.model, source.label)
    estimates = [results.category_estimates(key, source.step) for key in keys]
    ids = [category.id for category in results.categories]
    figures: dict[int, dict[str, Interval]] = {category_id: {} for category_id in ids}
    for name in CATEGORY_COLUMNS:
        values = np.stack([columns[name] for columns in estimates])  # [S, 1 + R, C]
        for category_id, figure in zip(ids, intervals(values[:, 0], values[:, 1:]), strict=True):
            figures[category_id][name] = figure
    counts = dict(zip(ids, results.estimates(keys[0], source.step).support.tolist(), strict=True))
    return CategoryLine(source.model, source.label, source.label, figures, counts)


def _incomplete(row: ReportRow) -> bool:
    return bool(row.failed or row.missing)


def compare_rows(results: Results, source: Source, names: Sequence[str], minus: Source | None = None) -> ReportRow:
    """Computes the figures of a row, or their paired differences to another one, over the seeds that both have."""
    if minus is not None:
        source, minus = on_same_images(source, minus)
    used = [source] if minus is None else [source, minus]
    seeds = [key.seed for key in next((other for other in used if not other.once), source).cells]
    parts = [part for other in used for part in (other, other.at_ap_of, other.base) if part is not None]
    failed = {key.seed for part in parts for key in part.cells if key in results.failed}
    finished = [seed for seed in seeds if all(part.cell(seed) in results.records for part in parts)]
    figures = {}
    if finished and all(other.step is not None for other in used):
        for name in names:
            points, replicates = stacked(results, source, finished, name)
            if minus is not None:
                other_points, other_replicates = stacked(results, minus, finished, name)
                points, replicates = points - other_points, replicates - other_replicates
            figures[name] = interval(points, replicates)
    missing = tuple(seed for seed in seeds if seed not in finished and seed not in failed)
    return ReportRow(source, tuple(finished), tuple(sorted(failed)), missing, figures)


def stacked(results: Results, source: Source, seeds: Sequence[int], name: str) -> tuple[Floats, Floats]:
    """Returns points [S] and replicates [S, R] of a figure; for a gain, which only chains have, the difference of two
    steps."""
    assert source.step is not None
    if name in gain_names(results.samples):
        if source.since is None:
            return np.full(len(seeds), np.nan), np.full((len(seeds), REPLICATES), np.nan)
        ends = source, replace(source, step=source.since)
        after, before = (stacked(results, end, seeds, name.removesuffix(GAIN)) for end in ends)
        return after[0] - before[0], after[1] - before[1]
    values = np.stack([_of_seed(results, source, seed, name) for seed in seeds])  # [S, 1 + R]
    return values[:, 0], values[:, 1:]


def _of_seed(results: Results, source: Source, seed: int, name: str) -> Floats:
    """Returns the point estimate and the replicates of a figure, [1 + R]."""
    assert source.step is not None
    if source.at_ap_of is not None:
        target = _of_seed(results, source.at_ap_of, seed, "AP")
        return interpolate_path(path_of(results, source, seed, "AP"), path_of(results, source, seed, name), target)
    cell, early = source.cell(seed), source.early_images
    return results.estimates(cell, source.step, source.temperature, early_images=early).figures[name]


def path_of(results: Results, source: Source, seed: int, name: str) -> Floats:
    """Returns a figure at the base (where the row has one) and at every evaluated step of a row's cell, [k, 1 + R]."""
    start = [] if source.base is None else [_of_seed(results, source.base, seed, name)]
    key, early = source.cell(seed), source.early_images
    steps = results.records[key].steps
    return np.stack([*start, *(results.estimates(key, step, early_images=early).figures[name] for step in steps)])
