"""How many seeds and images a hypothesis needs: what a run tells of its variances, and what another size would give.

In: a paired difference of a finished run, by seed and bootstrap replicate, as in harness.metrics.stats. Out: the
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

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class VarianceComponents:
    """What makes a difference vary, each a variance of the difference of one seed on `images` images.

    seeds      between seeds, were there endlessly many images
    images     from the choice of images, the same for all seeds
    mixed      from the choice of images, of each seed's own
    """

    seeds: float
    images: float
    mixed: float
    number_of_images: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run of another size can be expected to give: the half-width of the interval, and the chance that the
    verdict is `supported` or `refuted` if the true difference is the one seen now."""

    half_width: float
    chance: float


def variance_components(points: Floats, replicates: Floats, images: int) -> VarianceComponents | None:
    """Estimate the components of a difference from its value for each seed and under the bootstrap.

    With d_s the difference of seed s and d_sr its replicate r, over S seeds:

    mixed   = sum over s of Var_r(d_sr - mean over s of d_sr) / (S - 1)
    seeds   = Var_s(d_s) - mixed, 0 at least: what a seed adds on single images is in Var_s too
    images  = Var_r(mean over s of d_sr) - mixed / S, 0 at least

    Args:
        points: [S] differences.
        replicates: [S, R] the same under bootstrap weights; replicates in which some seed is undefined are left out.
        images: How many there were.

    Returns:
        None with fewer than two seeds, which say nothing of the variance between seeds, and where the difference is
        undefined.
    """
    defined = replicates[:, ~np.isnan(replicates).any(axis=0)]
    if len(points) < 2 or np.isnan(points).any() or defined.shape[1] < 2:
        return None
    means = defined.mean(axis=0)
    mixed = float((defined - means).var(axis=1, ddof=1).sum() / (len(points) - 1))
    between = float(points.var(ddof=1))
    shared = float(means.var(ddof=1)) - mixed / len(points)
    return VarianceComponents(max(0.0, between - mixed), max(0.0, shared), mixed, images)


def foresee(
    components: VarianceComponents, difference: float, margin: float, seeds: int, images: int, level: float
) -> Outlook:
    """Foresee the interval and the verdict of a run with other numbers of seeds and images.

    The variances of the choice of images shrink as 1 / images, those between seeds as 1 / seeds. The interval is that
    of harness.metrics.stats: mean +- q * sqrt(variance), q of the t distribution with (seeds - 1) * variance / (the
    seeds' share) degrees of freedom. The verdict comes out where the interval leaves out the margin, so the chance is
    that of a non-central t beyond q, whose centre is (difference - margin) / sqrt(variance).

    Args:
        components: What makes the difference vary.
        difference: The true one, as far as is known.
        margin: Of the hypothesis.
        seeds, images: Of the run to be planned; at least 2 seeds.
        level: Of the interval, e.g. 0.95; with m hypotheses 1 - 0.05 / m is the most that Holm's procedure asks for.
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
    """P(|Z + centre| > beyond * s), Z normal and s the error's estimate over its true value, s^2 = chi^2 / degrees: a
    non-central t outside of +-beyond, whose own tails SciPy gives as nan where they are small.

    The mean over s, by Gauss-Legendre quadrature over its quantiles.
    """
    scale = np.array([1.0]) if math.isinf(degrees) else np.sqrt(chi2.ppf(QUANTILES, degrees) / degrees)
    weights = np.array([1.0]) if math.isinf(degrees) else WEIGHTS
    return float(weights @ (norm.sf(beyond * scale - centre) + norm.cdf(-beyond * scale - centre)))


_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(200)
QUANTILES, WEIGHTS = (_NODES + 1) / 2, _NODE_WEIGHTS / 2
"""Nodes and weights of a mean over quantiles in [0, 1]; twice as many change no chance by more than 1e-5."""
