"""Calibration by hand, by an independent formula, and where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.metrics.diagnosis.calibration import BINS, reliability, undefined

Scored = list[tuple[float, bool]]


def _split(scored: Scored) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return np.array([s for s, _ in scored], dtype=np.float64), np.array([c for _, c in scored], dtype=np.bool_)


def test_two_bins_by_hand() -> None:
    # Bin 0, (0, 0.5]: scores 0.2, 0.5, one of two correct: |0.5 - 0.35| = 0.15.
    # Bin 1, (0.5, 1]: scores 0.6, 0.9, 0.9, one of three correct: |1/3 - 0.8| = 0.4667.
    # ECE = 2/5 * 0.15 + 3/5 * 0.4667 = 0.34.
    curve = reliability(*_split([(0.2, True), (0.5, False), (0.6, False), (0.9, True), (0.9, False)]), bins=2)
    assert curve.count.tolist() == [2, 3]
    assert curve.confidence == pytest.approx([0.35, 0.8])
    assert curve.accuracy == pytest.approx([0.5, 1 / 3])
    assert curve.ece == pytest.approx(0.34)
    assert curve.max_gap == pytest.approx(0.8 - 1 / 3)


def test_an_empty_bin_has_no_accuracy_and_no_share_in_the_error() -> None:
    curve = reliability(*_split([(0.0, False), (1.0, True)]))
    assert curve.count.tolist() == [1, *[0] * (BINS - 2), 1]
    assert np.isnan(curve.accuracy[1:-1]).all()
    assert (curve.ece, curve.max_gap) == (0.0, 0.0)


def test_an_edge_belongs_to_the_lower_bin() -> None:
    edges = np.linspace(0, 1, BINS + 1)
    assert reliability(edges, np.ones(BINS + 1, dtype=np.bool_)).count.tolist() == [2, *[1] * (BINS - 1)]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_ece_is_the_mean_size_of_the_summed_residuals(scored: Scored, bins: int) -> None:
    # count / n * |accuracy - confidence| = |sum over the bin of (correct - score)| / n, bin by bin.
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for m in range(bins):
        low = -1.0 if m == 0 else edges[m]
        total += abs(math.fsum(c - s for s, c in scored if low < s <= edges[m + 1]))
    curve = reliability(*_split(scored), bins)
    assert curve.ece == pytest.approx(total / len(scored), abs=1e-12)
    assert curve.ece <= curve.max_gap + 1e-12
    assert curve.count.sum() == len(scored)


@pytest.mark.parametrize(
    ("scores", "reason"), [([], "no detection"), ([0.5, 1.1], "no probabilities"), ([-3.0], "from -3 to -3")]
)
def test_what_is_no_probability_has_no_calibration(scores: list[float], reason: str) -> None:
    values = np.array(scores, dtype=np.float64)
    assert reason in (undefined(values) or "")
    with pytest.raises(ValueError, match=reason):
        reliability(values, np.ones(len(values), dtype=np.bool_))
