"""Diversity as a reward: by hand, against determinants, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.samples.group_novelty import SHRINKAGE, group_novelty, novelty_of
from harness.metrics.samples.matching import verify
from harness.metrics.samples.mentions import answers_of, truth_of
from harness.types import Box, Category, Mention, Parsed
from tests.metrics.builders import example

LEAST = 1 - SHRINKAGE**2


def test_by_hand() -> None:
    """Samples {a}, {a, b}, {c}: similarities 1/sqrt 2, 0, 0. The first two are each 1 - 0.99^2 / 2 away from the span
    of the others, the third 1."""
    novelty = novelty_of(np.array([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]]))
    apart = (1 - SHRINKAGE**2 / 2 - LEAST) / (1 - LEAST)
    assert novelty.tolist() == pytest.approx([apart, apart, 1.0])


@pytest.mark.parametrize("times", [2, 3, 8])
def test_what_is_repeated_is_worth_nothing_and_what_is_alone_everything(times: int) -> None:
    novelty = novelty_of(np.array([[1.0, 1, 0]] * times + [[0, 0, 1.0]]))
    assert novelty.tolist() == pytest.approx([0.0] * times + [1.0], abs=1e-12)


def test_a_sample_without_features_is_worth_nothing_and_changes_nothing() -> None:
    with_it = novelty_of(np.array([[1.0, 0], [1, 1], [0, 0]]))
    assert with_it.tolist() == pytest.approx([*novelty_of(np.array([[1.0, 0], [1, 1]])).tolist(), 0.0])


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5).filter(any), min_size=2, max_size=6))
def test_against_determinants(chosen: list[list[bool]]) -> None:
    """det(K) / det(K without the sample); all ratios in sequence multiply to det(K)."""
    features = np.array(chosen, dtype=float)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    kernel = SHRINKAGE * unit @ unit.T + (1 - SHRINKAGE) * np.eye(len(unit))
    ratios = []
    for index in range(len(unit)):
        rest = np.delete(np.delete(kernel, index, 0), index, 1)
        ratios.append(np.linalg.det(kernel) / np.linalg.det(rest))
    expected = np.clip((np.array(ratios) - LEAST) / (1 - LEAST), 0, 1)
    assert novelty_of(features) == pytest.approx(expected, abs=1e-7)


def test_where_a_sample_stands_changes_nothing_to_the_last_bit() -> None:
    """Differences by rounding would become advantages: of six samples in all kinds of orders."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        features, order = rng.integers(0, 2, (6, 7)).astype(float), rng.permutation(6)
        assert novelty_of(features[order]).tolist() == novelty_of(features)[order].tolist()


CATEGORIES = [Category(5, ("sofa", "couch"), None), Category(7, ("bed",), None)]
A, B, NOWHERE = (0, 0, 10, 10), (30, 0, 10, 10), (50, 50, 4, 4)


def test_of_answers() -> None:
    """Of one image: a sofa twice (in one with an invented bed, which counts for nothing), a couch, nothing right. Of
    the other all say the same, and nobody adds anything."""
    first, second = example([(5, A), (7, B)]), example([(7, B)], image_id=2)
    samples = [
        [[(5, "sofa", A)], [(5, "sofa", A), (7, "bed", NOWHERE)], [(5, "couch", A)], [(7, "bed", NOWHERE)]],
        [[(7, "bed", B)]] * 4,
    ]
    parsed = [
        [Parsed(tuple(Mention(name, c, Box(*box)) for c, name, box in mentions), 0, False) for mentions in of_image]
        for of_image in samples
    ]
    truth, answers = truth_of([first, second], CATEGORIES), answers_of(parsed, CATEGORIES)
    novelty = group_novelty(answers, verify(truth, answers.mentions))
    assert novelty[0].tolist() == pytest.approx([0, 0, 1, 0], abs=1e-12)
    assert novelty[1].tolist() == pytest.approx([0, 0, 0, 0], abs=1e-12)
