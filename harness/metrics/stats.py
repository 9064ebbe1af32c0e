"""Intervals over images and seeds, and verdicts on hypotheses.

Shape legend: S seeds, R bootstrap replicates, I images, m hypotheses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]
Direction = Literal["greater", "less"]
Outcome = Literal["supported", "refuted", "inconclusive"]

LEVEL = 0.95
REPLICATES = 1000


def nan_to_none(value: float) -> float | None:
    """Turns nan, which is how arrays say that a figure is undefined, into None, which is how files say it."""
    return None if math.isnan(value) else float(value)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds with its confidence interval; all nan where the figure is undefined for a seed.

    With `seeds == 1` it covers the choice of images only: nothing is known about the spread between seeds.
    """

    estimate: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A hypothesis about a difference a - b: that it lies beyond `margin` in `direction`.

    points [S]: the difference for each seed; replicates [S, R]: the same under the bootstrap weights, which
    draw the same images for a and b. nan where undefined.
    """

    points: Floats
    replicates: Floats
    direction: Direction
    margin: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one hypothesis among several (see `verdicts`).

    low, high: interval of the difference at `level`, the confidence level that Holm's procedure leaves it;
    p: two-sided p-value of (difference - margin), not adjusted.
    """

    outcome: Outcome
    estimate: float
    low: float
    high: float
    level: float
    p: float
    seeds: int


class _Moments(NamedTuple):
    estimate: float
    standard_error: float
    degrees: float
    """Of freedom, for the t distribution; infinite (a normal distribution) where seeds do not vary or there is one."""


def bootstrap_weights(n_images: int, replicates: int = REPLICATES, seed: int = 0) -> NDArray[np.float32]:
    """How often each image is drawn in each replicate, [R, I]; every row sums to I.

    The same arguments give the same draws, so that all cells of a suite are resampled alike and differences
    between them are paired.
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((replicates, n_images), dtype=np.float32)
    for row in weights:
        row[:] = np.bincount(rng.integers(n_images, size=n_images), minlength=n_images)
    return weights


def interval(points: Floats, replicates: Floats, level: float = LEVEL) -> Interval:
    """Confidence interval of the mean over seeds.

    points [S]: the figure for each seed; replicates [S, R]: the same under the bootstrap weights. The interval is
    mean +- q * sqrt(variance), and the variance has two parts:

    seeds   Var over seeds (ddof 1) / S. What a seed adds on single images is part of it.
    images  Var over replicates of the seed mean, less what the seeds add to it on single images, which is in the
            first part already: sum over seeds of Var over replicates of (seed - seed mean) / (S (S - 1)); 0 at least.

    q is the t quantile with (S - 1) * variance / seeds degrees of freedom: S - 1 where seeds are all there is, and
    more as the images, of which there are many, take their share. (With S - 1 throughout, an interval covers up to
    100% where images matter; with Satterthwaite's degrees, 92% with 3 seeds; resampling seeds and then images, 80%.
    This one covers 94 to 97%: tests/metrics/samples/test_coverage.py.) With S = 1 there is no first part and q is the
    normal quantile. Replicates in which some seed is undefined are left out. The interval of a paired difference is
    `interval(points_a - points_b, replicates_a - replicates_b)`.
    """
    moments = _moments(points, replicates)
    return Interval(moments.estimate, *_bounds(moments, level), seeds=len(points))


def verdicts(tests: Sequence[PairedTest], level: float = LEVEL) -> list[Verdict]:
    """Verdicts on m hypotheses stated together, with the family-wise error held at 1 - level (Holm, 1979).

    Each hypothesis gets the two-sided p-value of (difference - margin) = 0 under the t distribution of
    `interval`, Holm's step-down procedure turns the p-values into a level for each (`holm_levels`), and the
    verdict is read off the interval at that level: `supported` if it lies wholly beyond the margin in the
    stated direction, `refuted` if wholly on the other side, else `inconclusive`. Interval and Holm's
    rejection always agree. An undefined difference counts among the m, has p = 1 and is inconclusive.
    """
    moments = [_moments(test.points, test.replicates) for test in tests]
    p_values = [_p_value(item, test.margin) for item, test in zip(moments, tests, strict=True)]
    levels = 1.0 - holm_levels(p_values, alpha=1.0 - level)
    return [
        _verdict(test, item, p, float(adjusted))
        for test, item, p, adjusted in zip(tests, moments, p_values, levels, strict=True)
    ]


def holm_levels(p_values: Sequence[float], alpha: float) -> Floats:
    """The significance level at which Holm's procedure judges each of m hypotheses, [m].

    The p-values are visited in ascending order; the j-th (from 0) is rejected if p < alpha / (m - j), and the
    first that is not rejected ends the procedure. That one and all after it are judged at its level, under
    which none of them can be rejected, their p-values being at least as large.
    """
    ranked = np.argsort(p_values, kind="stable")
    ladder = alpha / np.arange(len(ranked), 0, -1)
    failed = np.flatnonzero(np.asarray(p_values)[ranked] >= ladder)
    if len(failed):
        ladder[failed[0] :] = ladder[failed[0]]
    levels = np.empty(len(ranked))
    levels[ranked] = ladder
    return levels


def _moments(points: Floats, replicates: Floats) -> _Moments:
    if not len(points) or replicates.shape[0] != len(points):
        raise ValueError(f"expected [S] points and [S, R] replicates, got {points.shape}, {replicates.shape}")
    seeds = len(points)
    defined = replicates[:, ~np.isnan(replicates).any(axis=0)]
    if np.isnan(points).any() or defined.shape[1] < 2:
        return _Moments(float(points.mean()), math.nan, math.inf)
    means = defined.mean(axis=0)
    if seeds == 1:
        return _Moments(float(points[0]), float(means.std(ddof=1)), math.inf)
    of_seeds = points.var(ddof=1) / seeds
    shared = (defined - means).var(axis=1, ddof=1).sum() / (seeds * (seeds - 1))
    variance = of_seeds + max(0.0, means.var(ddof=1) - shared)
    degrees = (seeds - 1) * variance / of_seeds if of_seeds > 0 else math.inf
    return _Moments(float(points.mean()), math.sqrt(variance), degrees)


def _bounds(moments: _Moments, level: float) -> tuple[float, float]:
    half = float(student.isf((1.0 - level) / 2.0, moments.degrees)) * moments.standard_error
    return moments.estimate - half, moments.estimate + half


def _p_value(moments: _Moments, margin: float) -> float:
    """Two-sided p-value of (estimate - margin); 1 where undefined or where there is nothing to tell apart."""
    distance = abs(moments.estimate - margin)
    if math.isnan(moments.standard_error) or distance == 0:
        return 1.0
    if moments.standard_error == 0:
        return 0.0
    return float(2.0 * student.sf(distance / moments.standard_error, moments.degrees))


def _verdict(test: PairedTest, moments: _Moments, p: float, level: float) -> Verdict:
    low, high = _bounds(moments, level)
    above, below = low > test.margin, high < test.margin
    supported, refuted = (above, below) if test.direction == "greater" else (below, above)
    outcome: Outcome = "supported" if supported else "refuted" if refuted else "inconclusive"
    return Verdict(outcome, moments.estimate, low, high, level, p, seeds=len(test.points))
