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
    """Turns nan, which marks an undefined figure in arrays, into None, which marks it in files."""
    return None if math.isnan(value) else float(value)


def pearson(x: Floats, y: Floats) -> Floats:
    """Computes Pearson's correlation along the first axis, [n, ...] -> [...]:

        sum_i (x_i - mean x) (y_i - mean y) / sqrt(sum_i (x_i - mean x)^2 * sum_i (y_i - mean y)^2)

    nan where x or y is constant or has a nan.
    """
    varies = (np.ptp(x, axis=0) > 0) & (np.ptp(y, axis=0) > 0)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    norm = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    return np.asarray(np.divide((x * y).sum(axis=0), norm, out=np.full_like(norm, math.nan), where=varies))


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds with its confidence interval; all nan where the figure is undefined for a seed.

    With `seeds == 1` it covers the choice of images only, because one seed does not show the spread between seeds.
    """

    estimate: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A hypothesis about a difference a - b (or about a correlation): that it lies beyond `margin` in `direction`.

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


class Decomposition(NamedTuple):
    """What the figures of S seeds vary by, for each of N figures; see `decompose`."""

    usable: NDArray[np.bool_]
    """[N]: the figure is defined for every seed and in at least two replicates."""
    seeds: Floats | None
    """[N]: variance over seeds, ddof 1; None with one seed."""
    means: Floats
    """[N]: variance over replicates of the mean over seeds."""
    apart: Floats | None
    """[N]: sum over seeds of the variance over replicates of (seed - mean over seeds); None with one seed."""


class _Moments(NamedTuple):
    """Estimate, standard error and degrees of freedom of N figures, each [N]."""

    estimate: Floats
    standard_error: Floats
    degrees: Floats
    """Degrees of freedom of the t distribution; infinite (a normal distribution) where seeds do not vary or there is
    only one."""


def bootstrap_weights(n_images: int, replicates: int = REPLICATES, seed: int = 0) -> NDArray[np.float32]:
    """Draws how often each image counts in each replicate, [R, I]; every row sums to I.

    The same arguments give the same draws, so that all cells of a suite are resampled alike and differences
    between them are paired.
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((replicates, n_images), dtype=np.float32)
    for row in weights:
        row[:] = np.bincount(rng.integers(n_images, size=n_images), minlength=n_images)
    return weights


def interval(points: Floats, replicates: Floats, level: float = LEVEL) -> Interval:
    """Computes the confidence interval of the mean over seeds.

    points [S]: the figure for each seed; replicates [S, R]: the same under the bootstrap weights. The interval is
    mean +- q * sqrt(variance), and the variance has two parts:

    seeds   Var over seeds (ddof 1) / S. It contains what each seed varies on single images.
    images  Var over replicates of the seed mean, minus what the seeds vary on single images, which the first part
            contains already: sum over seeds of Var over replicates of (seed - seed mean) / (S (S - 1)); at least 0.

    q is the t quantile with (S - 1) * variance / seeds degrees of freedom: S - 1 where only seeds vary, and more
    where part of the variance is due to the many images. (With S - 1 throughout, an interval covers up to 100% where
    images matter; with Satterthwaite's degrees, 92% with 3 seeds; resampling seeds and then images, 80%. This one
    covers 94 to 97%: tests/metrics/samples/test_coverage.py.) With S = 1 there is no first part and q is the normal
    quantile. Replicates in which some seed is undefined are left out. The interval of a paired difference is
    `interval(points_a - points_b, replicates_a - replicates_b)`.
    """
    return intervals(points[:, None], replicates[..., None], level)[0]


def intervals(points: Floats, replicates: Floats, level: float = LEVEL) -> list[Interval]:
    """Computes `interval` for N figures at once: points [S, N], replicates [S, R, N]."""
    moments = _moments(points, replicates)
    low, high = _bounds(moments, level)
    rows = zip(moments.estimate.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(*row, seeds=len(points)) for row in rows]


def verdicts(tests: Sequence[PairedTest], level: float = LEVEL) -> list[Verdict]:
    """Judges m hypotheses stated together, with the family-wise error held at 1 - level (Holm, 1979).

    Each hypothesis gets the two-sided p-value of (difference - margin) = 0 under the t distribution of
    `interval`, Holm's step-down procedure turns the p-values into a level for each (`holm_levels`), and the
    verdict is read off the interval at that level: `supported` if it lies wholly beyond the margin in the
    stated direction, `refuted` if wholly on the other side, else `inconclusive`. Interval and Holm's
    rejection always agree. An undefined difference counts among the m, has p = 1 and is inconclusive.
    """
    moments = [_moments(test.points[:, None], test.replicates[..., None]) for test in tests]
    p_values = [_p_value(item, test.margin) for item, test in zip(moments, tests, strict=True)]
    levels = 1.0 - holm_levels(p_values, alpha=1.0 - level)
    return [
        _verdict(test, item, p, float(adjusted))
        for test, item, p, adjusted in zip(tests, moments, p_values, levels, strict=True)
    ]


def holm_levels(p_values: Sequence[float], alpha: float) -> Floats:
    """Returns the significance level at which Holm's procedure judges each of m hypotheses, [m].

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


def decompose(points: Floats, replicates: Floats) -> Decomposition:
    """Splits the variance of N figures into its parts, from points [S, N] and replicates [S, R, N].

    Replicates in which some seed is undefined are left out. Raises ValueError without a seed.
    """
    if not len(points) or len(replicates) != len(points):
        raise ValueError(f"expected [S] points and [S, R] replicates, got {points.shape[:1]}, {replicates.shape[:2]}")
    defined: NDArray[np.bool_] = np.asarray(~np.isnan(replicates).any(axis=0))  # [R, N]
    drawn = defined.sum(axis=0)
    means = np.where(defined, replicates.mean(axis=0), 0.0)
    apart = np.where(defined, replicates, 0.0) - means
    several = len(points) > 1
    return Decomposition(
        usable=(drawn >= 2) & ~np.isnan(points).any(axis=0),
        seeds=points.var(axis=0, ddof=1) if several else None,
        means=_variance(means, defined, drawn),
        apart=np.sum([_variance(of_seed, defined, drawn) for of_seed in apart], axis=0) if several else None,
    )


def _moments(points: Floats, replicates: Floats) -> _Moments:
    """Computes the moments of N figures from points [S, N] and replicates [S, R, N]."""
    parts, count = decompose(points, replicates), len(points)
    if parts.seeds is None or parts.apart is None:
        variance, degrees = parts.means, np.full(len(parts.means), math.inf)
    else:
        of_seeds = parts.seeds / count
        variance = of_seeds + np.maximum(0.0, parts.means - parts.apart / (count * (count - 1)))
        with np.errstate(divide="ignore", invalid="ignore"):
            degrees = np.where(of_seeds > 0, (count - 1) * variance / of_seeds, math.inf)
    error = np.where(parts.usable, np.sqrt(variance), math.nan)
    return _Moments(points.mean(axis=0), error, np.where(parts.usable, degrees, math.inf))


def _variance(values: Floats, defined: NDArray[np.bool_], count: NDArray[np.int64]) -> Floats:
    """Computes the variance over the defined rows of values [R, N] with ddof 1, [N]; undefined rows hold 0."""
    distance = np.where(defined, values - values.sum(axis=0) / np.maximum(count, 1), 0.0)
    return np.asarray((distance**2).sum(axis=0) / np.maximum(count - 1, 1))


def _bounds(moments: _Moments, level: float) -> tuple[Floats, Floats]:
    half = student.isf((1.0 - level) / 2.0, moments.degrees) * moments.standard_error
    return moments.estimate - half, moments.estimate + half


def _p_value(moments: _Moments, margin: float) -> float:
    """Returns the two-sided p-value of (estimate - margin) of one figure; 1 where it is undefined or the two are
    equal."""
    distance, error = abs(moments.estimate[0] - margin), moments.standard_error[0]
    if math.isnan(error) or distance == 0:
        return 1.0
    if error == 0:
        return 0.0
    return float(2.0 * student.sf(distance / error, moments.degrees[0]))


def _verdict(test: PairedTest, moments: _Moments, p: float, level: float) -> Verdict:
    low, high = (float(bound[0]) for bound in _bounds(moments, level))
    above, below = low > test.margin, high < test.margin
    supported, refuted = (above, below) if test.direction == "greater" else (below, above)
    outcome: Outcome = "supported" if supported else "refuted" if refuted else "inconclusive"
    return Verdict(outcome, float(moments.estimate[0]), low, high, level, p, seeds=len(test.points))
