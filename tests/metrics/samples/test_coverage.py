"""How often intervals cover the truth, by simulation: a model whose figure varies with images, seeds, and both."""

from __future__ import annotations

import numpy as np
import pytest

from harness.metrics.stats import LEVEL, bootstrap_weights, interval

IMAGES, REPLICATES = 100, 400
SHARES = (0.0, 0.5, 1.0, 2.0, 10.0)
"""Standard deviation of the seed mean that comes from seeds, over the one that comes from images."""


def covered(
    seeds: int, share: float, noise: float, simulations: int, level: float = LEVEL, alone: bool = False
) -> float:
    """Share of simulations whose interval holds the true value, 0.

    y[s, i] = image effect + seed effect + noise * normal; a seed's figure is its mean over the images. `alone`: from
    the image bootstrap of the seed mean, as if there were one seed.
    """
    rng = np.random.default_rng(0)
    weights = bootstrap_weights(IMAGES, REPLICATES).astype(np.float64) / IMAGES
    hits = 0
    for _ in range(simulations):
        y = rng.normal(size=IMAGES) + noise * rng.normal(size=(seeds, IMAGES))
        y += share * np.sqrt(seeds / IMAGES) * rng.normal(size=(seeds, 1))
        points, replicates = y.mean(axis=1), y @ weights.T
        if alone:
            points, replicates = points.mean(keepdims=True), replicates.mean(axis=0, keepdims=True)
        estimate = interval(points, replicates, level)
        hits += estimate.low <= 0 <= estimate.high
    return hits / simulations


def test_covers_the_truth() -> None:
    # 300 simulations: a standard deviation of 0.013, so a broken interval is found and chance is not.
    assert 0.91 <= covered(seeds=3, share=1.0, noise=1.0, simulations=300) <= 0.99
    assert covered(seeds=3, share=2.0, noise=1.0, simulations=300, alone=True) < 0.75


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.2, 1.0], ids=["alike", "own"])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("seeds", [3, 5])
def test_covers_the_truth_in_93_to_97_percent(seeds: int, share: float, noise: float) -> None:
    # 2,000 simulations: a standard deviation of 0.005.
    assert 0.93 <= covered(seeds, share, noise, simulations=2000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_covers_the_truth_at_the_levels_of_verdicts(seeds: int) -> None:
    # Holm's procedure reads intervals at 99% and beyond.
    assert 0.98 <= covered(seeds, share=1.0, noise=1.0, simulations=2000, level=0.99) <= 0.998
