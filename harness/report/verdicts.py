"""Judges the hypotheses that a suite states."""

from __future__ import annotations

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
    """A hypothesis for one model, the paired difference (or correlation) that it states, and the missing cells, in
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
    """Returns every hypothesis of the suite, for every model, with the difference of its rows: nan where cells are
    missing."""
    by_name = {(source.model, source.label): source for source in sources(results)}
    stated = []
    for hypothesis in results.suite.hypotheses:
        if hypothesis.predictor:
            stated += [_stated_correlation(results, hypothesis, model.label) for model in results.suite.models]
            continue
        (model_a, row_a), (model_b, row_b) = hypothesis.model_rows
        each = [(model.label, model.label, model.label) for model in results.suite.models]
        for model, of_a, of_b in [(None, model_a, model_b)] if model_a and model_b else each:
            a, b = (by_name.get(name) or by_name[name[1], name[1]] for name in ((of_a, row_a), (of_b, row_b)))
            if hypothesis.at == "equal_AP":
                b = at_ap_of(results, of_b, row_b, row_a, target_model=of_a)
            a, b = on_same_images(a, b)
            missing = tuple(dict.fromkeys([*_absent(results, a), *_absent(results, b)]))
            test = _paired_test(results, hypothesis, a, b, complete=not missing)
            gap = None if missing else _ap_gap(results, a, b)
            stated.append(StatedTest(hypothesis, model, test, missing, gap))
    return stated


def _stated_correlation(results: Results, hypothesis: Hypothesis, model: str) -> StatedTest:
    """Correlates, seed by seed over the rows, the predictor at the end of fine-tuning with the metric at the last step.
    Rows of one seed share its batches and its choice of images, so that no row is far from another by the seed."""
    of_rows = [source for source in sources(results) if source.model == model and source.label in hypothesis.rows]
    missing = tuple(dict.fromkeys(text for source in of_rows for text in _absent(results, source)))
    if missing:
        test = _undefined_test(results, hypothesis)
    else:
        seeds = results.suite.seeds
        before = [stacked(results, replace(row, step=row.since), seeds, hypothesis.predictor) for row in of_rows]
        after = [stacked(results, row, seeds, hypothesis.metric) for row in of_rows]
        points, replicates = (
            pearson(np.stack([row[part] for row in before]), np.stack([row[part] for row in after])) for part in (0, 1)
        )
        test = PairedTest(points, replicates, hypothesis.direction, hypothesis.margin)
    return StatedTest(hypothesis, model, test, missing, None)


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


def _paired_test(results: Results, hypothesis: Hypothesis, a: Source, b: Source, complete: bool) -> PairedTest:
    """Makes the input of Holm's procedure for a hypothesis; it is undefined where cells are missing."""
    available = figure_names(results.samples, results.measures) + gain_names(results.samples)
    if hypothesis.metric not in available:
        raise ConfigError(f"hypothesis {hypothesis.id}: {unknown('metric', hypothesis.metric, available)}")
    if not complete:
        return _undefined_test(results, hypothesis)
    points, replicates = _difference(results, hypothesis.metric, a, b)
    return PairedTest(points, replicates, hypothesis.direction, hypothesis.margin)


def _undefined_test(results: Results, hypothesis: Hypothesis) -> PairedTest:
    seeds = len(results.suite.seeds)
    points, replicates = np.full(seeds, np.nan), np.full((seeds, REPLICATES), np.nan)
    return PairedTest(points, replicates, hypothesis.direction, hypothesis.margin)
