from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from harness.metrics.stats import Direction, Outcome, PairedTest, bootstrap_weights, holm_levels, interval, verdicts

SURE = np.array([[0.0, 0.0]])


def _spread(points: list[float], deviation: float) -> PairedTest:
    """A difference whose seed mean has standard deviation `deviation` over its two replicates."""
    replicates = np.array(points)[:, None] + deviation * np.array([-1.0, 1.0]) / math.sqrt(2)
    return PairedTest(np.array(points), replicates, "greater")


def test_bootstrap_weights_are_seeded_draws_with_replacement() -> None:
    weights = bootstrap_weights(50, replicates=400, seed=3)
    assert (weights.sum(axis=1) == 50).all()
    assert np.array_equal(weights, bootstrap_weights(50, replicates=400, seed=3))
    assert not np.array_equal(weights, bootstrap_weights(50, replicates=400, seed=4))
    # A multinomial count has mean 1 and variance 1 - 1/50; 20,000 of them.
    assert weights.var() == pytest.approx(0.98, abs=0.05)


def test_interval_of_seeds_alone() -> None:
    # Points 0.1, 0.2, 0.3: variance 0.01, over three seeds 0.01/3; t with 2 degrees of freedom: 4.302653.
    result = interval(np.array([0.1, 0.2, 0.3]), np.full((3, 10), 0.2))
    half = 4.302653 * math.sqrt(0.01 / 3)
    assert (result.estimate, result.low, result.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=1e-6)
    assert result.seeds == 3


def test_interval_adds_the_two_variances() -> None:
    # The seed mean is 0, 2 in two replicates: variance 2. Between seeds: 0.5 / 2 = 0.25. Both seeds move alike, so
    # nothing is counted twice. t with 1 * 2.25 / 0.25 = 9 degrees: 2.262157.
    result = interval(np.array([0.5, 1.5]), np.array([[0.0, 2.0], [0.0, 2.0]]))
    assert result.high - result.estimate == pytest.approx(2.262157 * math.sqrt(2 + 0.25), rel=1e-6)


def test_interval_counts_what_seeds_do_to_single_images_once() -> None:
    # Replicates 0, 3 and 0, 1: the mean is 0, 2 (variance 2); the seeds deviate from it by 0, 1 and 0, -1, variance
    # 1/2 each, so 1 / (2 * 1) = 0.5 of the 2 is in the variance between seeds (0.25) already. t with
    # 1 * 1.75 / 0.25 = 7 degrees: 2.364624.
    result = interval(np.array([0.5, 1.5]), np.array([[0.0, 3.0], [0.0, 1.0]]))
    assert result.high - result.estimate == pytest.approx(2.364624 * math.sqrt(1.5 + 0.25), rel=1e-6)


def test_interval_of_one_seed_is_the_image_bootstrap_alone() -> None:
    replicates = np.array([[1.0, 2.0, 3.0, 4.0]])
    result = interval(np.array([2.0]), replicates)
    assert result.high == pytest.approx(2 + 1.959964 * math.sqrt(5 / 3), abs=1e-6)
    assert result.seeds == 1


def test_level_sets_the_width() -> None:
    points, replicates = np.array([2.0]), np.array([[1.0, 3.0]])
    wide, narrow = interval(points, replicates, level=0.99), interval(points, replicates, level=0.9)
    assert (wide.high - 2) / (narrow.high - 2) == pytest.approx(norm.ppf(0.995) / norm.ppf(0.95))


def test_pairing_removes_what_both_share() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(3, 200))
    points = np.array([0.5, 0.6, 0.7])
    result = interval((points + 0.1) - points, (shared + 0.1) - shared)
    assert (result.low, result.high) == pytest.approx((0.1, 0.1))


def test_undefined_figures() -> None:
    undefined = interval(np.array([0.1, np.nan]), np.zeros((2, 5)))
    assert np.isnan([undefined.estimate, undefined.low, undefined.high]).all()
    # A replicate in which one seed is undefined is left out: 0, 2 remain.
    partly = interval(np.array([1.0]), np.array([[0.0, np.nan, 2.0]]))
    assert partly == interval(np.array([1.0]), np.array([[0.0, 2.0]]))
    nowhere = interval(np.array([1.0]), np.array([[np.nan, np.nan]]))
    assert nowhere.estimate == 1.0
    assert math.isnan(nowhere.low)


def test_points_and_replicates_must_agree() -> None:
    with pytest.raises(ValueError, match="replicates"):
        interval(np.array([0.1, 0.2]), np.zeros((3, 5)))


def test_holm_levels_of_hand_derived_p_values() -> None:
    # Ascending 0.01 < 0.05/3: rejected. 0.03 >= 0.05/2: stop; it and the rest are judged at 0.05/2.
    assert holm_levels([0.01, 0.04, 0.03], 0.05) == pytest.approx([0.05 / 3, 0.025, 0.025])
    # 0.02 >= 0.05/3 stops at once, so that 0.02 < 0.05/1 must not be rejected later.
    assert holm_levels([0.02, 0.02, 0.02], 0.05) == pytest.approx([0.05 / 3] * 3)
    assert holm_levels([0.001, 0.002, 0.04], 0.05) == pytest.approx([0.05 / 3, 0.025, 0.05])
    assert holm_levels([], 0.05).shape == (0,)


def _holm_rejections(p_values: list[float], alpha: float) -> set[int]:
    """Holm (1979) as adjusted p-values: the largest (m - j) p_(j) so far."""
    running, rejected = 0.0, set()
    for j, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, (len(p_values) - j) * p_values[index])
        if running < alpha:
            rejected.add(index)
    return rejected


@settings(max_examples=100)
@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=6))
def test_holm_levels_reject_what_adjusted_p_values_reject(p_values: list[float]) -> None:
    levels = holm_levels(p_values, 0.05)
    rejected = {index for index, (p, level) in enumerate(zip(p_values, levels, strict=True)) if p < level}
    assert rejected == _holm_rejections(p_values, 0.05)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0.1, 1), st.floats(-1, 1)), min_size=1, max_size=5))
def test_interval_and_p_value_agree(drawn: list[tuple[float, float, float]]) -> None:
    tests = [
        PairedTest(base.points, base.replicates, "greater", margin)
        for base, margin in ((_spread([mean - 0.1, mean + 0.1, mean], sd), margin) for mean, sd, margin in drawn)
    ]
    findings = verdicts(tests)
    rejected = _holm_rejections([verdict.p for verdict in findings], 0.05)
    for index, (test, verdict) in enumerate(zip(tests, findings, strict=True)):
        assert (index in rejected) == (verdict.outcome != "inconclusive")
        assert (verdict.outcome == "supported") == (verdict.low > test.margin)
        assert (verdict.outcome == "refuted") == (verdict.high < test.margin)


@pytest.mark.parametrize(
    ("estimate", "direction", "margin", "outcome"),
    [
        (3.0, "greater", 0.0, "supported"),
        (3.0, "less", 0.0, "refuted"),
        (-3.0, "greater", 0.0, "refuted"),
        (-3.0, "less", 0.0, "supported"),
        (1.0, "greater", 0.0, "inconclusive"),  # 1.96 standard errors reach from -0.96 to 2.96
        (3.0, "greater", 2.0, "inconclusive"),
        (1.0, "greater", -1.0, "supported"),  # a margin below 0: no worse than by 1
        (3.0, "less", 5.0, "supported"),
    ],
)
def test_verdict_of_one_seed(estimate: float, direction: Direction, margin: float, outcome: Outcome) -> None:
    base = _spread([estimate], 1.0)
    (verdict,) = verdicts([PairedTest(base.points, base.replicates, direction, margin)])
    assert verdict.outcome == outcome
    assert (verdict.low, verdict.high) == pytest.approx((estimate - 1.959964, estimate + 1.959964))
    assert verdict.p == pytest.approx(2 * norm.sf(abs(estimate - margin)))
    assert verdict.level == pytest.approx(0.95)
    assert verdict.seeds == 1


def test_more_hypotheses_widen_the_intervals() -> None:
    # z = 2.2: p = 0.028, significant alone, not among three of its kind (0.05 / 3).
    alone, among = verdicts([_spread([2.2], 1.0)])[0], verdicts([_spread([2.2], 1.0)] * 3)[0]
    assert (alone.outcome, among.outcome) == ("supported", "inconclusive")
    assert among.level == pytest.approx(1 - 0.05 / 3)
    assert verdicts([_spread([2.2], 1.0)] * 3, level=0.9)[0].outcome == "supported"


def test_undefined_and_certain_differences() -> None:
    undefined = PairedTest(np.array([np.nan]), SURE, "greater")
    equal, beyond = (PairedTest(np.array([x]), SURE + x, "greater") for x in (0.0, 0.5))
    first, second, third = verdicts([undefined, equal, beyond])
    assert (first.outcome, first.p) == ("inconclusive", 1.0)
    assert (second.outcome, second.p) == ("inconclusive", 1.0)
    assert (third.outcome, third.p, third.low) == ("supported", 0.0, 0.5)
