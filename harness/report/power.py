"""Plans the seeds, images and hours that a suite's hypotheses need to be decided, from the variances of a finished
run.

In:  the cells of a run, and the hypotheses of its suite or of one that is planned.
Out: for each hypothesis its current interval, and for other numbers of seeds and images the expected half-width and
the
     chance of a verdict; the cheapest size that decides every hypothesis with the chance ENOUGH.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from harness.errors import ConfigError, unknown
from harness.metrics.power import Outlook, VarianceComponents, foresee, variance_components
from harness.metrics.stats import LEVEL, Interval, interval
from harness.report.grids.grid import UNDEFINED, Grid, GridCell, format_interval, number
from harness.report.results import Results
from harness.report.rows import sources
from harness.report.verdicts import StatedTest, stated_tests
from harness.suite.cells import BASE, ORACLES
from harness.suite.schema import Suite

SEEDS = (3, 5, 8, 12, 20, 40)
TIMES_IMAGES = (1, 2, 4, 8)
"""Sizes of validation sets that are considered, as multiples of the run's."""
ENOUGH = 0.8
"""The chance of a verdict that a plan aims at for each hypothesis."""


@dataclass(frozen=True, slots=True)
class RunSize:
    """The size of a possible run. hours: on the machine of the records, estimated from the time that their cells
    took."""

    seeds: int
    images: int
    hours: float


@dataclass(frozen=True, slots=True)
class Prospect:
    """The expected outcome of one hypothesis in runs of other sizes.

    now: its interval, not adjusted for the other hypotheses. components: None with too few seeds or missing cells;
    then there are no outlooks.
    """

    stated: StatedTest
    now: Interval
    components: VarianceComponents | None
    outlooks: dict[RunSize, Outlook]


def with_hypotheses(results: Results, planned: Suite) -> Results:
    """Returns the same cells with the hypotheses of another suite. Raises ConfigError where these name rows that the
    cells do not make up."""
    rows = sorted({source.label for source in sources(results)})
    models = [model.label for model in results.suite.models]
    named = [pair for hypothesis in planned.hypotheses for pair in hypothesis.model_rows]
    absent = [unknown("row of the run", row, rows) for _, row in named if row not in rows]
    absent += [unknown("model of the run", model, models) for model, _ in named if model and model not in models]
    if absent:
        raise ConfigError(*dict.fromkeys(absent))
    return replace(results, suite=results.suite.model_copy(update={"hypotheses": planned.hypotheses}), made={})


def run_sizes(results: Results) -> list[RunSize]:
    """Lists the sizes that are considered, cheapest first."""
    sizes = product(SEEDS, (times * results.images for times in TIMES_IMAGES))
    return sorted((RunSize(*size, hours(results, *size)) for size in sizes), key=lambda size: size.hours)


def hours(results: Results, seeds: int, images: int) -> float:
    """Estimates the hours of all rows of the suite, from the mean time of their finished cells. Training time does
    not depend on the validation images, evaluation time grows with them; the base and the oracles are computed once
    for all seeds."""
    total = 0.0
    labels = dict.fromkeys((key.model, key.label) for key in results.folders)
    for model, label in labels:
        timings = [results.records[key].timings for key in results.finished(model, label)]
        if not timings:
            continue
        trained = np.mean([timing.get("train", 0.0) + timing.get("probe", 0.0) for timing in timings])
        evaluated = np.mean([timing.get("evaluate", 0.0) for timing in timings]) * images / results.images
        total += float(trained + evaluated) * (1 if label in (BASE, *ORACLES) else seeds)
    return total / 3600


def prospects(results: Results, sizes: Sequence[RunSize]) -> list[Prospect]:
    """Computes the prospect of every hypothesis at the level that Holm's procedure leaves the first of them: no other
    hypothesis has a stricter one."""
    stated = stated_tests(results)
    level = 1 - (1 - LEVEL) / max(1, len(stated))
    rows = []
    for stated_test in stated:
        test = stated_test.test
        components = None if stated_test.missing else variance_components(test.points, test.replicates, results.images)
        now = interval(test.points, test.replicates)
        outlooks: dict[RunSize, Outlook] = {}
        if components is not None:
            for size in sizes:
                outlooks[size] = foresee(components, now.estimate, test.margin, size.seeds, size.images, level)
        rows.append(Prospect(stated_test, now, components, outlooks))
    return rows


def cheapest(planned: Sequence[Prospect], sizes: Sequence[RunSize]) -> RunSize | None:
    """Returns the first of the sizes at which every hypothesis has the chance ENOUGH; None if there is none."""
    told = [prospect.outlooks for prospect in planned if prospect.outlooks]
    return next((size for size in sizes if told and all(outlooks[size].chance >= ENOUGH for outlooks in told)), None)


def power_grids(results: Results) -> list[Grid]:
    """Makes the tables: the hypotheses now, then one for each with the outlook at other sizes, then what each size
    decides and costs.

    Raises ConfigError where the suite states no hypothesis.
    """
    if not results.suite.hypotheses:
        raise ConfigError(f"suite {results.suite.suite}: expected hypotheses, got none; --suite names others")
    sizes = run_sizes(results)
    planned = prospects(results, sizes)
    return [
        _now_grid(planned, sizes),
        *(_outlook_grid(prospect, results) for prospect in planned if prospect.outlooks),
        _cost_grid(planned, sizes),
    ]


def _now_grid(planned: Sequence[Prospect], sizes: Sequence[RunSize]) -> Grid:
    headings = ("id", "difference", "metric", "margin", "now", "cheapest to decide it", "hours")
    rows = tuple(_now_row(prospect, cheapest([prospect], sizes)) for prospect in planned)
    note = (
        f"Now: the difference and its 95% interval, not adjusted. To decide: a chance of at least {ENOUGH:.0%} that "
        "the interval, at the level that Holm's procedure leaves the first hypothesis, leaves out the margin, if the "
        "true difference is the one seen now."
    )
    return Grid("Hypotheses now, and what would decide them", headings, rows, words=3, note=note)


def _now_row(prospect: Prospect, size: RunSize | None) -> tuple[GridCell, ...]:
    stated = prospect.stated.hypothesis
    if prospect.components is None:
        needed = "cells are missing" if prospect.stated.missing else "two seeds or more are needed"
    else:
        needed = f"none up to {SEEDS[-1]} seeds" if size is None else f"{size.seeds} seeds, {size.images} images"
    return (
        GridCell(stated.id),
        GridCell(stated.compared),
        GridCell(stated.metric),
        GridCell(number(stated.margin, signed=True), stated.margin),
        GridCell(format_interval(prospect.now, signed=True), prospect.now.estimate),
        GridCell(needed),
        GridCell(UNDEFINED if size is None else f"{size.hours:.1f}", math.nan if size is None else size.hours),
    )


def _outlook_grid(prospect: Prospect, results: Results) -> Grid:
    """Makes a table with seeds down and images across: the half-width, and the chance of a verdict."""
    images = [times * results.images for times in TIMES_IMAGES]
    by_size = {(size.seeds, size.images): outlook for size, outlook in prospect.outlooks.items()}
    rows = tuple(
        (
            GridCell(str(seeds), seeds),
            *(GridCell(_shown(by_size[seeds, many]), by_size[seeds, many].chance) for many in images),
        )
        for seeds in SEEDS
    )
    stated = prospect.stated.hypothesis
    about = stated.id if prospect.stated.model is None else f"{stated.id} ({prospect.stated.model})"
    title = f"{about}: {stated.metric} of {stated.compared}, half-width and chance"
    return Grid(title, ("seeds", *(f"{many} images" for many in images)), rows, words=1)


def _shown(outlook: Outlook) -> str:
    return f"±{outlook.half_width:.3f}  {outlook.chance:.0%}"


def _cost_grid(planned: Sequence[Prospect], sizes: Sequence[RunSize]) -> Grid:
    """Makes a table of the sizes that decide more hypotheses than any cheaper one."""
    rows: list[tuple[GridCell, ...]] = []
    most = 0
    for size in sizes:
        decided = [
            prospect.stated.hypothesis.id
            for prospect in planned
            if prospect.outlooks and prospect.outlooks[size].chance >= ENOUGH
        ]
        if len(decided) > most:
            most = len(decided)
            words = (str(size.seeds), str(size.images), f"{most} of {len(planned)}", ", ".join(decided))
            rows.append((*map(GridCell, words), GridCell(f"{size.hours:.1f}", size.hours)))
    whole = cheapest(planned, sizes)
    if whole is None:
        told = f"No size up to {SEEDS[-1]} seeds and {TIMES_IMAGES[-1]} times the images decides all with {ENOUGH:.0%}."
    else:
        shown = f"{whole.seeds} seeds, {whole.images} images, {whole.hours:.1f} hours"
        told = f"The cheapest that decides all with {ENOUGH:.0%}: {shown}."
    headings = ("seeds", "images", "decides", "which", "hours")
    note = f"{told} Hours are those of the records' machine."
    return Grid("What a larger run decides", headings, tuple(rows), words=4, note=note)
