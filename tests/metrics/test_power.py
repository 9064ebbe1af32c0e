"""What a run of another size will give: by hand, against the interval itself, and against simulated runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import nct
from scipy.stats import t as student

from harness.metrics.power import VarianceComponents, foresee, variance_components
from harness.metrics.stats import PairedTest, bootstrap_weights, interval, verdicts

Floats = NDArray[np.float64]
SEEDS, IMAGES = 4, 60


def run(rng: np.random.Generator, seeds: int, images: int, true: VarianceComponents, shift: float) -> Floats:
    """Differences of single images, [S, I], whose means have these components: of seeds, images, and both together."""
    size = true.number_of_images  # single images vary so many times more than the mean of so many
    of_seeds = rng.normal(0, math.sqrt(true.seeds), (seeds, 1))
    of_images = rng.normal(0, math.sqrt(true.images * size), (1, images))
    mixed = rng.normal(0, math.sqrt(true.mixed * size), (seeds, images))
    return shift + of_seeds + of_images + mixed


def measured(differences: Floats) -> tuple[Floats, Floats]:
    weights = bootstrap_weights(differences.shape[1])
    return differences.mean(axis=1), differences @ weights.T / differences.shape[1]


def test_at_the_size_of_the_run_the_half_width_is_that_of_its_interval() -> None:
    true = VarianceComponents(0.05**2, 0.03**2, 0.01**2, IMAGES)
    points, replicates = measured(run(np.random.default_rng(0), SEEDS, IMAGES, true, 0.05))
    components = variance_components(points, replicates, IMAGES)
    assert components is not None
    now = interval(points, replicates)
    outlook = foresee(components, now.estimate, 0.0, SEEDS, IMAGES, 0.95)
    assert outlook.half_width == pytest.approx((now.high - now.low) / 2)


def test_components_by_hand() -> None:
    """Two seeds, two replicates. d_1r = 1, 3 and d_2r = 2, 8, so that the mean is 1.5, 5.5 with variance 8. What is
    left: -0.5, -2.5 and 0.5, 2.5, each of variance 2, so mixed = (2 + 2) / (2 - 1) = 4. Var(1, 7) = 18."""
    components = variance_components(np.array([1.0, 7.0]), np.array([[1.0, 3.0], [2.0, 8.0]]), 10)
    assert components == VarianceComponents(seeds=18 - 4, images=8 - 4 / 2, mixed=4, number_of_images=10)


def test_the_half_width_by_hand() -> None:
    """Twice the images halve images and mixed: (4 + 2/2) / 5 + 6/2 = 4 with a share of 1 in it, so 16 degrees; the
    t quantile of 97.5% is 2.1199, its product with sqrt(4) 4.2398."""
    outlook = foresee(VarianceComponents(4, 6, 2, 100), 1.0, 0.0, 5, 200, 0.95)
    assert outlook.half_width == pytest.approx(4.2398, abs=1e-4)


def test_more_seeds_and_images_never_harm() -> None:
    components = VarianceComponents(4, 6, 2, 100)
    widths = [foresee(components, 3.0, 0.0, seeds, 100, 0.95).half_width for seeds in (2, 3, 5, 9)]
    chances = [foresee(components, 3.0, 0.0, 5, images, 0.95).chance for images in (50, 100, 400, 10**6)]
    assert widths == sorted(widths, reverse=True)
    assert chances == sorted(chances)


def test_the_chance_at_the_margin_is_what_the_level_leaves() -> None:
    """Where nothing is to be found, a verdict comes out in 5% of the runs."""
    assert foresee(VarianceComponents(4, 6, 2, 100), 0.3, 0.3, 5, 100, 0.95).chance == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize(("seeds", "difference"), [(2, 0.5), (2, 4.0), (5, 2.0), (20, 0.6)])
def test_the_chance_is_that_of_a_non_central_t(seeds: int, difference: float) -> None:
    """By SciPy's own, where it can: all of the variance is the seeds', so there are seeds - 1 degrees."""
    error = 1 / math.sqrt(seeds)
    beyond = student.isf(0.025, seeds - 1)
    expected = nct.sf(beyond, seeds - 1, difference / error) + nct.cdf(-beyond, seeds - 1, difference / error)
    outlook = foresee(VarianceComponents(1, 0, 0, 9), difference, 0.0, seeds, 9, 0.95)
    assert outlook.chance == pytest.approx(expected, abs=1e-4)


def test_a_chance_is_never_undefined() -> None:
    """SciPy's distribution gives nan for some of these."""
    components = VarianceComponents(4e-4, 1e-4, 1e-4, 300)
    chances = [foresee(components, 0.08, 0.0, seeds, 300, 0.99).chance for seeds in range(2, 60)]
    assert all(0 <= chance <= 1 + 1e-9 for chance in chances)


def test_nothing_is_foreseen_from_one_seed_or_an_undefined_difference() -> None:
    assert variance_components(np.zeros(1), np.zeros((1, 9)), 5) is None
    assert variance_components(np.array([0.0, np.nan]), np.zeros((2, 9)), 5) is None
    with pytest.raises(ValueError, match="at least 2 seeds"):
        foresee(VarianceComponents(1, 1, 1, 1), 0.0, 0.0, 1, 5, 0.95)


def test_a_difference_without_variance_is_decided() -> None:
    assert foresee(VarianceComponents(0, 0, 0, 5), 0.2, 0.0, 2, 5, 0.95).chance == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "images"), [(3, 120), (8, 60), (8, 240)])
def test_simulated_runs_come_out_as_foreseen(seeds: int, images: int) -> None:
    """From true components: the half-width within 6% on average, the chance of a verdict within 5 points."""
    true, difference, margin = VarianceComponents(0.02**2, 0.02**2, 0.015**2, IMAGES), 0.06, 0.0
    rng = np.random.default_rng(1)
    runs = [measured(run(rng, seeds, images, true, difference)) for _ in range(600)]
    intervals = [interval(*paired) for paired in runs]
    decided = [verdicts([PairedTest(*paired, "greater", margin)])[0].outcome != "inconclusive" for paired in runs]
    outlook = foresee(true, difference, margin, seeds, images, 0.95)
    half_width = float(np.mean([(one.high - one.low) / 2 for one in intervals]))
    assert outlook.half_width == pytest.approx(half_width, rel=0.06)
    assert outlook.chance == pytest.approx(np.mean(decided), abs=0.05)
