"""Plans how many seeds and images a hypothesis needs, from the variances that a finished run has shown.

In: the paired difference of a finished run, by seed and bootstrap replicate, as in harness.metrics.stats. Out: the
half-width that its interval would have with other numbers of seeds and images, and the chance of a verdict.

Shape legend: S seeds, R bootstrap replicates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm
from scipy.stats import t as student

from harness.metrics.stats import decompose

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class VarianceComponents:
    """The variance of a difference between two rows, of one seed on `images` images, split by its source.

    seeds      between seeds, if the number of images were infinite
    images     due to the choice of images, shared by all seeds
    mixed      due to the choice of images, but different for each seed
    """

    seeds: float
    images: float
    mixed: float
    number_of_images: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run of another size would give: the half-width of the interval, and the chance that the verdict is
    `supported` or `refuted` if the true difference equals the one that is estimated now."""

    half_width: float
    chance: float


def variance_components(points: Floats, replicates: Floats, images: int) -> VarianceComponents | None:
    """Estimates the variance components of a difference from its values for each seed and their bootstrap replicates.

    With d_s the difference of seed s and d_sr its replicate r, over S seeds:

    mixed   = sum over s of Var_r(d_sr - mean over s of d_sr) / (S - 1)
    seeds   = Var_s(d_s) - mixed, at least 0: Var_s contains `mixed` as well
    images  = Var_r(mean over s of d_sr) - mixed / S, at least 0

    Args:
        points: [S] differences. replicates: [S, R] the same under bootstrap weights; replicates in which some seed is
        undefined are left out. images: Number of images of the run.

    Returns:
        None where the difference is undefined or there are fewer than two seeds, as the variance between seeds is
        then unknown.
    """
    parts, count = decompose(points[:, None], replicates[..., None]), len(points)
    if parts.seeds is None or parts.apart is None or not parts.usable[0]:
        return None
    between, mixed = float(parts.seeds[0]), float(parts.apart[0]) / (count - 1)
    return VarianceComponents(max(0.0, between - mixed), max(0.0, float(parts.means[0]) - mixed / count), mixed, images)


def foresee(
    components: VarianceComponents, difference: float, margin: float, seeds: int, images: int, level: float
) -> Outlook:
    """Foresee the interval and the verdict of a run with other numbers of seeds and images.

    The variances due to the choice of images shrink as 1 / images, those between seeds as 1 / seeds. The interval is
    that of harness.metrics.stats: mean +- q * sqrt(variance), q of the t distribution with (seeds - 1) * variance /
    (the seeds' share) degrees of freedom. A verdict is reached where the interval does not contain the margin, so its
    chance is the probability that a non-central t variable lies beyond q, whose centre is (difference - margin) /
    sqrt(variance).

    Args:
        components: Variance components of the difference. difference: The best estimate of the true difference.
        margin: Margin that the hypothesis states. seeds, images: Size of the planned run; at least 2 seeds. level:
        Confidence level of the interval, e.g. 0.95; with m hypotheses Holm's procedure asks for at most 1 - 0.05 / m.
    """
    if seeds < 2 or images < 1:
        raise ValueError(f"expected at least 2 seeds and 1 image, got {seeds} and {images}")
    scale = components.number_of_images / images
    of_seeds = (components.seeds + components.mixed * scale) / seeds
    variance = of_seeds + components.images * scale
    if variance == 0:
        return Outlook(0.0, float(difference != margin))
    degrees = (seeds - 1) * variance / of_seeds if of_seeds > 0 else math.inf
    error = math.sqrt(variance)
    beyond = float(student.isf((1 - level) / 2, degrees))
    return Outlook(beyond * error, _chance(beyond, degrees, abs(difference - margin) / error))


def _chance(beyond: float, degrees: float, centre: float) -> float:
    """Returns P(|Z + centre| > beyond * s): the probability that a non-central t variable lies outside of +-beyond.

    Z is normal, and s is the estimated over the true standard error: s^2 = chi^2 / degrees. Computed as the mean over
    s by Gauss-Legendre quadrature over its quantiles, because SciPy returns nan for small tails of a non-central t.
    """
    scale = np.array([1.0]) if math.isinf(degrees) else np.sqrt(chi2.ppf(QUANTILES, degrees) / degrees)
    weights = np.array([1.0]) if math.isinf(degrees) else WEIGHTS
    return float(weights @ (norm.sf(beyond * scale - centre) + norm.cdf(-beyond * scale - centre)))


_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(200)
QUANTILES, WEIGHTS = (_NODES + 1) / 2, _NODE_WEIGHTS / 2
"""Nodes and weights of a mean over quantiles in [0, 1]; twice as many change no chance by more than 1e-5."""
