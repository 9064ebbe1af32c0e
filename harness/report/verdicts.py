"""What became of the hypotheses that a suite states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.errors import ConfigError, unknown
from harness.metrics.catalogue import figure_names, gain_names
from harness.metrics.stats import REPLICATES, PairedTest, Verdict
from harness.metrics.stats import verdicts as judge
from harness.report.results import Results, once
from harness.report.rows import Source, sources, stacked
from harness.suite.schema import Hypothesis


@dataclass(frozen=True, slots=True)
class Finding:
    """A hypothesis for one model, and what came of it; verdict is None where cells are missing."""

    hypothesis: Hypothesis
    model: str
    verdict: Verdict | None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StatedTest:
    """A hypothesis for one model, the paired difference that it is about, and what it lacks, in words."""

    hypothesis: Hypothesis
    model: str
    test: PairedTest
    missing: tuple[str, ...]


@once
def verdicts(results: Results) -> list[Finding]:
    """Every hypothesis of the suite, for every model. Holm's procedure counts those that cannot be tested
    too: which cells happen to be missing must not make the others easier to support."""
    stated = stated_tests(results)
    return [
        Finding(own.hypothesis, own.model, None if own.missing else verdict, own.missing)
        for own, verdict in zip(stated, judge([own.test for own in stated]), strict=True)
    ]


def stated_tests(results: Results) -> list[StatedTest]:
    """Every hypothesis of the suite, for every model, with the difference of its rows: nan where cells are missing."""
    by_name = {(source.model, source.label): source for source in sources(results)}
    stated = []
    for hypothesis in results.suite.hypotheses:
        for model in results.suite.models:
            a, b = (
                by_name.get((model.label, label)) or by_name[label, label] for label in (hypothesis.a, hypothesis.b)
            )
            missing = tuple(dict.fromkeys([*_absent(results, a), *_absent(results, b)]))
            test = _paired_test(results, hypothesis, a, b, complete=not missing)
            stated.append(StatedTest(hypothesis, model.label, test, missing))
    return stated


def _absent(results: Results, source: Source) -> list[str]:
    """What a test of this row lacks, in words."""
    needed = [key for key in (*source.cells, *source.matched) if key not in results.records]
    absent = [f"{key} (failed)" if key in results.failed else str(key) for key in needed]
    if not absent and source.step is None:
        return [f"{source.label}: no step to stop at"]
    return absent


def _paired_test(results: Results, hypothesis: Hypothesis, a: Source, b: Source, complete: bool) -> PairedTest:
    known = figure_names(results.samples) + gain_names(results.samples)
    if hypothesis.metric not in known:
        raise ConfigError(f"hypothesis {hypothesis.id}: {unknown('metric', hypothesis.metric, known)}")
    seeds = results.suite.seeds[: 1 if a.once and b.once else None]
    points, replicates = np.full(len(seeds), np.nan), np.full((len(seeds), REPLICATES), np.nan)
    if complete:
        points_a, replicates_a = stacked(results, a, seeds, hypothesis.metric)
        points_b, replicates_b = stacked(results, b, seeds, hypothesis.metric)
        points, replicates = points_a - points_b, replicates_a - replicates_b
    return PairedTest(points, replicates, hypothesis.direction, hypothesis.margin)
