"""Intervals against the official figures on resampled images."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import numpy as np
import pytest

from benchmarks.evaluators.evaluator import evaluate
from benchmarks.evaluators.intervals import bootstrap, compare
from harness.errors import DataError
from harness.metrics import stats
from harness.metrics.detection.rules import Protocol
from harness.types import Detections
from tests.benchmarks.cases import Case, random_case, repeated

PROTOCOLS: tuple[Protocol, ...] = ("lvis", "lvis-fixed", "coco")
REPLICATES = 8


def case_of(protocol: Protocol) -> Case:
    return random_case(2, protocol, images=8, crowded=120, ties=False)


def worse(detections: Detections) -> Detections:
    """The same with every fourth row gone."""
    return detections.take(np.arange(len(detections)) % 4 > 0)


def resampled(case: Case, protocol: Protocol, name: str) -> tuple[float, list[float]]:
    """The figure by the engine: as it is, and on the images of each replicate."""
    weights = stats.bootstrap_weights(len(case[0].examples), REPLICATES, seed=5).astype(int)
    figures = [evaluate(*c, protocol).metrics[name] for c in (case, *(repeated(case, w.tolist()) for w in weights))]
    plain, *rest = (np.nan if value is None else value for value in figures)
    return plain, rest


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bootstrap_is_the_engine_on_resampled_images(protocol: Protocol) -> None:
    case = case_of(protocol)
    intervals = bootstrap(*case, protocol, replicates=REPLICATES, seed=5)
    parts = [] if protocol == "coco" else ["APr", "APc", "APf"]
    assert list(intervals) == ["AP", "AP50", "AP75", "APs", "APm", "APl", *parts]
    for name, interval in intervals.items():
        plain, replicates = resampled(case, protocol, name)
        expected = stats.interval(np.array([plain]), np.array([replicates]))
        assert (interval.estimate, interval.low, interval.high) == pytest.approx(
            (expected.estimate, expected.low, expected.high), abs=1e-9
        )
        assert interval.low < interval.estimate < interval.high


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_compare_is_the_engine_on_the_same_images_for_both(protocol: Protocol) -> None:
    annotations, a = case_of(protocol)
    b = worse(a)
    intervals = compare(annotations, a, b, protocol, replicates=REPLICATES, seed=5)
    for name in ("AP", "AP75", "APm"):
        (plain_a, rest_a), (plain_b, rest_b) = (resampled((annotations, d), protocol, name) for d in (a, b))
        expected = stats.interval(np.array([plain_a - plain_b]), np.array([rest_a]) - np.array([rest_b]))
        assert (intervals[name].estimate, intervals[name].low, intervals[name].high) == pytest.approx(
            (expected.estimate, expected.low, expected.high), abs=1e-9
        )


def test_a_set_does_not_differ_from_itself() -> None:
    annotations, detections = case_of("lvis")
    for interval in compare(annotations, detections, detections, replicates=20).values():
        assert (interval.estimate, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_pairing_takes_out_what_the_sets_share() -> None:
    annotations, a = case_of("lvis")
    b = worse(a)
    intervals = (bootstrap(annotations, a)["AP"], bootstrap(annotations, b)["AP"], compare(annotations, a, b)["AP"])
    of_a, of_b, paired = (interval.high - interval.low for interval in intervals)
    assert paired < 0.7 * np.hypot(of_a, of_b)


def test_the_seed_decides() -> None:
    case = case_of("coco")
    first, again, other = (bootstrap(*case, "coco", replicates=20, seed=seed)["AP"] for seed in (1, 1, 2))
    assert first == again
    assert first.estimate == other.estimate
    assert first.low != other.low


def test_undefined_figures_have_no_interval() -> None:
    annotations, detections = case_of("lvis")
    categories = tuple(replace(category, frequency="f") for category in annotations.categories)
    intervals = bootstrap(replace(annotations, categories=categories), detections, replicates=10)
    assert isnan(intervals["APr"].estimate)
    assert isnan(intervals["APr"].low)
    assert intervals["APf"].estimate == intervals["AP"].estimate


def test_invalid_detections_are_named() -> None:
    annotations, detections = case_of("lvis")
    detections.scores[3] = np.nan
    with pytest.raises(DataError, match=r"detections\[3\]: expected a finite score"):
        bootstrap(annotations, detections)
