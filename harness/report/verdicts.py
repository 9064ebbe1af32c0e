"""Judges the hypotheses that a suite states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.errors import ConfigError, unknown
from harness.metrics.catalogue import figure_names, gain_names
from harness.metrics.stats import REPLICATES, Interval, PairedTest, Verdict, interval, pearson
from harness.metrics.stats import verdicts as judge
from harness.report.estimates import Floats
from harness.report.paths import Source, is_comparable, on_same_images
from harness.report.results import Results, once
from harness.report.rows import at_ap_of, needed, sources, stacked
from harness.suite.schema import Hypothesis


@dataclass(frozen=True, slots=True)
class Finding:
    """A hypothesis for one model and its verdict, which is None where cells are missing."""

    hypothesis: Hypothesis
    model: str | None
    """None where it compares models."""
    verdict: Verdict | None
    missing: tuple[str, ...] = ()
    gap: Interval | None = None
    """In a comparison at equal AP: by how much the AP of a still exceeds that of b."""

    @property
    def outcome(self) -> str:
        """Returns the verdict in words; empty without one."""
        if self.verdict is None:
            return ""
        return self.verdict.outcome if self.gap is None or is_comparable(self.gap.estimate) else "not comparable"


@dataclass(frozen=True, slots=True)
class StatedTest:
    """A hypothesis for one model, the difference, figure or correlation that it is about, and the missing cells in
    words."""

    hypothesis: Hypothesis
    model: str | None
    """None where it compares models."""
    test: PairedTest
    missing: tuple[str, ...]
    gap: Interval | None
    """See `Finding`."""


@once
def verdicts(results: Results) -> list[Finding]:
    """Judges every hypothesis of the suite, for every model. Holm's procedure also counts those that cannot be
    tested: missing cells must not make the other hypotheses easier to support."""
    stated = stated_tests(results)
    return [
        Finding(item.hypothesis, item.model, None if item.missing else verdict, item.missing, item.gap)
        for item, verdict in zip(stated, judge([item.test for item in stated]), strict=True)
    ]


def stated_tests(results: Results) -> list[StatedTest]:
    """Returns every hypothesis of the suite, for every model, with the difference of its rows, the figure of its row,
    or its correlation: nan where cells are missing."""
    stated = []
    for hypothesis in results.suite.hypotheses:
        named = [model for model, _ in hypothesis.model_rows]
        if all(named):
            stated.append(_stated_test(results, hypothesis, None))
        else:
            stated += [_stated_test(results, hypothesis, model.label) for model in results.suite.models]
    return stated


def _stated_test(results: Results, hypothesis: Hypothesis, model: str | None) -> StatedTest:
    by_name = {(source.model, source.label): source for source in sources(results)}
    named = [(model or model_of, row) for model_of, row in hypothesis.model_rows]
    rows = [by_name.get((str(model_of), row)) or by_name[row, row] for model_of, row in named]  # oracles have no model
    if hypothesis.at == "equal_AP":
        (model_a, row_a), (model_b, row_b) = named
        rows[1] = at_ap_of(results, str(model_b), row_b, row_a, target_model=model_a)
    if hypothesis.b:
        rows = list(on_same_images(*rows))
    missing = tuple(dict.fromkeys(text for row in rows for text in _absent(results, row)))
    points, replicates = _undefined(results) if missing else _values(results, hypothesis, rows)
    test = PairedTest(points, replicates, hypothesis.direction, hypothesis.margin)
    return StatedTest(
        hypothesis, model, test, missing, None if missing or not hypothesis.b else _ap_gap(results, *rows)
    )


def _values(results: Results, hypothesis: Hypothesis, rows: Sequence[Source]) -> tuple[Floats, Floats]:
    """Returns for every seed what is to lie beyond the margin: points [S], replicates [S, R]."""
    available = figure_names(results.samples, results.measures) + gain_names(results.samples)
    if hypothesis.metric not in available:
        raise ConfigError(f"hypothesis {hypothesis.id}: {unknown('metric', hypothesis.metric, available)}")
    if hypothesis.predictor:
        return _correlation(results, hypothesis, rows)
    if hypothesis.b:
        return _difference(results, hypothesis.metric, *rows)
    (row,) = rows
    return stacked(results, row, results.suite.seeds[: 1 if row.once else None], hypothesis.metric)


def _correlation(results: Results, hypothesis: Hypothesis, rows: Sequence[Source]) -> tuple[Floats, Floats]:
    """Correlates, seed by seed over the rows, the predictor at the end of fine-tuning with the metric at the last step.
    Rows of one seed share its batches and its choice of images, so that no row is far from another by the seed."""
    seeds = results.suite.seeds
    before = [stacked(results, replace(row, step=row.since), seeds, hypothesis.predictor) for row in rows]
    after = [stacked(results, row, seeds, hypothesis.metric) for row in rows]
    points, replicates = (
        pearson(np.stack([row[part] for row in before]), np.stack([row[part] for row in after])) for part in (0, 1)
    )
    return points, replicates


def _ap_gap(results: Results, a: Source, b: Source) -> Interval | None:
    """Returns the difference in AP of two rows; None where neither is read at the AP of a row."""
    if a.at_ap_of is None and b.at_ap_of is None:
        return None
    points, replicates = _difference(results, "AP", a, b)
    return interval(points, replicates)


def _absent(results: Results, source: Source) -> list[str]:
    """Describes the cells that a test of this row lacks."""
    absent = [key for key in needed(source) if key not in results.records]
    return [f"{key} (failed)" if key in results.failed else str(key) for key in absent]


def _difference(results: Results, metric: str, a: Source, b: Source) -> tuple[Floats, Floats]:
    """Returns the difference for every seed: points [S], replicates [S, R]."""
    seeds = results.suite.seeds[: 1 if a.once and b.once else None]
    points_a, replicates_a = stacked(results, a, seeds, metric)
    points_b, replicates_b = stacked(results, b, seeds, metric)
    return points_a - points_b, replicates_a - replicates_b


def _undefined(results: Results) -> tuple[Floats, Floats]:
    seeds = len(results.suite.seeds)
    return np.full(seeds, np.nan), np.full((seeds, REPLICATES), np.nan)
