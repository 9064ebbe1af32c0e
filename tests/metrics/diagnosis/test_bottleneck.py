"""The floor that an output layer sets: by hand, against a search, and where it must be 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from harness.metrics.diagnosis.bottleneck import Branch, branches, divergence_from_uniform, least_divergence


def test_divergence_by_hand() -> None:
    """p = (1/2, 1/4, 1/4): of the first two log 1/2 - (log 1/2 + log 1/4) / 2 = log 2 / 2. Of all, log 1/3 - mean."""
    logits = np.log([0.5, 0.25, 0.25])
    assert divergence_from_uniform(logits, [0, 1]) == pytest.approx(math.log(2) / 2)
    assert divergence_from_uniform(logits + 5, [1, 2]) == pytest.approx(math.log(2))
    assert divergence_from_uniform(np.zeros(3), [0, 1, 2]) == pytest.approx(0)


def test_a_line_cannot_put_both_ends_first() -> None:
    """Tokens at -1, 0 and 1 of a line: whatever raises one end lowers the other, so that the best state is 0, where all
    three are equally likely and the ends have log 3/2 to go. The middle and an end can do better: x and 0."""
    line = np.array([[-1.0], [0.0], [1.0]])
    assert least_divergence(line, [0, 2], 10.0) == pytest.approx(math.log(1.5), abs=1e-9)
    assert least_divergence(line, [0, 1, 2], 10.0) == pytest.approx(0, abs=1e-9)
    h = np.linspace(-10, 10, 200_001)
    best = (np.log(np.exp(-h) + 1 + np.exp(h)) - h / 2 - math.log(2)).min()
    assert least_divergence(line, [1, 2], 10.0) == pytest.approx(best, abs=1e-7)


def test_a_corner_is_as_good_as_the_bound_lets_it_be() -> None:
    """Three tokens, each its own direction: the best state of length r for two of them is (r, r, -2 s)-like; checked
    against all directions of the sphere in steps. More room brings it nearer to 0."""
    corner = np.eye(3)
    divergences = [least_divergence(corner, [0, 1], radius) for radius in (0.0, 1.0, 4.0, 40.0)]
    assert divergences[0] == pytest.approx(math.log(1.5))
    assert divergences == sorted(divergences, reverse=True)
    assert divergences[-1] < 1e-9
    angles = np.linspace(0, 2 * np.pi, 721)
    grid = [
        divergence_from_uniform(np.array([np.cos(a) * np.cos(b), np.sin(a) * np.cos(b), np.sin(b)]), [0, 1])
        for a in angles
        for b in np.linspace(-np.pi / 2, np.pi / 2, 361)
    ]
    assert divergences[1] == pytest.approx(min(grid), abs=1e-5)


@hypothesis_settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 2.0, 8.0]))
def test_no_state_of_that_length_is_closer(seed: int, radius: float) -> None:
    rng = np.random.default_rng(seed)
    weight, valid = rng.normal(size=(9, 4)), [1, 4, 6]
    least = least_divergence(weight, valid, radius)
    states = rng.normal(size=(500, 4))
    states *= radius * rng.random((500, 1)) ** 0.25 / np.linalg.norm(states, axis=1, keepdims=True)
    assert least >= 0
    assert all(divergence_from_uniform(weight @ h, valid) >= least - 1e-6 for h in states)


def test_branches_of_names() -> None:
    """sofa (1 2), sofa bed (1 2 3), couch (4): they part at the beginning, and after sofa where the end is known."""
    ids = {"sofa": (1, 2), "sofa bed": (1, 2, 3), "couch": (4,), "bed": (3,)}
    names = {5: ("sofa", "sofa bed", "couch"), 7: ("bed",)}
    assert branches(names, ids) == [Branch(5, (), (1, 4))]
    assert branches(names, ids, end=[9]) == [Branch(5, (), (1, 4)), Branch(5, (1, 2), (3, 9))]
