from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics.diversity import (
    box_spread,
    category_rows,
    coverage,
    gini_simpson,
    image_row,
    order_distance,
)
from harness.metrics.matching import match_sample
from harness.types import Box, Parsed
from tests.metrics.builders import example, matched_samples, mention, parsed_samples

A, B, C = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 10.0, 10.0), (40.0, 0.0, 10.0, 10.0)


def test_category_rows_of_a_hand_derived_image() -> None:
    # Category 5 has instances A and B, category 7 has C. Four samples:
    #   1: sofa A, couch B      2: sofa A (9 of 10 rows: IoU 0.9)      3: couch A, sofa B      4: nothing
    # A is verified 3 times (sofa, sofa, couch): two of three pairs differ -> 2/3. B twice (couch, sofa) -> 1.
    # name_diversity (2/3 + 1) / 2 = 5/6; two names. Spread of A: pairs (1,2) 0.1, (1,3) 0, (2,3) 0.1, mean
    # 0.2/3; of B: 0; mean 0.1/3. C is never verified, so all is undefined there.
    image = example([(5, A), (5, B), (7, C)], image_id=3)
    samples = [
        [mention(5, A, "sofa"), mention(5, B, "couch")],
        [mention(5, (0, 0, 10, 9), "sofa")],
        [mention(5, A, "couch"), mention(5, B, "sofa")],
        [],
    ]
    first, second = category_rows(image, matched_samples(image, samples))
    assert (first.image_id, first.category_id, first.instances, first.verified) == (3, 5, 2, (3, 2))
    assert first.name_diversity == pytest.approx(5 / 6)
    assert first.distinct_names == 2
    assert first.box_spread == pytest.approx(0.1 / 3)
    assert (second.category_id, second.instances, second.verified) == (7, 1, (0,))
    assert (second.name_diversity, second.distinct_names, second.box_spread) == (None, None, None)


def test_one_verifying_sample_leaves_diversity_undefined_but_counts_a_name() -> None:
    image = example([(5, A)])
    (row,) = category_rows(image, matched_samples(image, [[mention(5, A, "sofa")], []]))
    assert (row.verified, row.name_diversity, row.box_spread, row.distinct_names) == ((1,), None, None, 1)


def test_unverified_mentions_do_not_pass_for_diversity() -> None:
    image = example([(5, A)])
    noise = [mention(5, B, "lounge"), mention(None, A, "thing"), mention(7, A, "chair")]
    (row,) = category_rows(image, matched_samples(image, [[mention(5, A, "sofa"), *noise]] * 3))
    assert (row.verified, row.name_diversity, row.distinct_names) == ((3,), 0.0, 1)


def test_name_repeated_within_a_sample_is_no_second_verification() -> None:
    image = example([(5, A)])
    twice = [mention(5, A, "sofa"), mention(5, (0, 0, 10, 9), "couch")]
    (row,) = category_rows(image, matched_samples(image, [twice]))
    assert (row.verified, row.name_diversity, row.distinct_names) == ((1,), None, 1)


@pytest.mark.parametrize(("names", "draws"), [(2, 2), (3, 4), (4, 3)])
def test_gini_simpson_is_unbiased(names: int, draws: int) -> None:
    # The mean over all equally likely samples is the population's 1 - 1/S, whatever their number.
    values = [gini_simpson(chosen) for chosen in product("abcd"[:names], repeat=draws)]
    assert np.mean([value for value in values if value is not None]) == pytest.approx(1 - 1 / names)


def test_gini_simpson_golden_and_undefined() -> None:
    assert gini_simpson(["a", "a", "b", "c"]) == pytest.approx(5 / 6)  # of 6 pairs only a-a agrees
    assert gini_simpson(["a"] * 8) == 0.0
    assert gini_simpson(["a", "b"]) == 1.0
    assert gini_simpson(["a"]) is None
    assert gini_simpson([]) is None


def test_box_spread_of_equal_boxes_is_exactly_zero() -> None:
    assert box_spread([Box(0.1, 0.2, 3.3, 4.4)] * 3) == 0.0
    assert box_spread([Box(*A), Box(*B)]) == 1.0
    assert box_spread([Box(*A)]) is None


def test_order_distance_of_hand_derived_orders() -> None:
    assert order_distance([[1, 2, 3], [1, 2, 3]]) == 0.0
    assert order_distance([[1, 2, 3], [3, 2, 1]]) == 1.0
    assert order_distance([[1, 2, 3], [1, 3, 2]]) == pytest.approx(1 / 3)
    # Samples 1, 2 share {1, 2} in opposite order: 1; samples 1, 3 share {1, 3}: 0; samples 2, 3 share only 1.
    assert order_distance([[1, 2, 3], [2, 1], [1, 3]]) == 0.5
    assert order_distance([[1, 2], [1, 3]]) is None
    assert order_distance([[], []]) is None


def _order_distance_by_loops(orders: list[list[int]]) -> float | None:
    distances = []
    for a, b in combinations(orders, 2):
        pairs = list(combinations([i for i in a if i in b], 2))
        if pairs:
            distances.append(sum(b.index(i) > b.index(j) for i, j in pairs) / len(pairs))
    return sum(distances) / len(distances) if distances else None


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), unique=True, max_size=6), min_size=1, max_size=5))
def test_order_distance_equals_the_definition(orders: list[list[int]]) -> None:
    expected = _order_distance_by_loops(orders)
    assert order_distance(orders) == (None if expected is None else pytest.approx(expected))


def test_coverage_equals_enumeration_of_subsets() -> None:
    samples = 6
    for v, k in product(range(samples + 1), range(1, samples + 1)):
        hits = [min(subset) < v for subset in combinations(range(samples), k)]  # samples 0..v-1 verify
        assert coverage(np.array([v]), samples, k) == pytest.approx(np.mean(hits))


def test_coverage_bounds_and_monotony() -> None:
    v = np.arange(9)
    curves = np.array([coverage(v, 8, k) for k in range(1, 9)])
    assert np.allclose(curves[0], v / 8)
    assert np.array_equal(curves[-1], v > 0)
    assert (np.diff(curves, axis=0) >= -1e-15).all()
    with pytest.raises(ValueError, match="k = 9"):
        coverage(v, 8, 9)


def test_image_row_of_a_hand_derived_image() -> None:
    # Names in order: (a, b), (a, b) with another box, (b, a), (a,) -> 3 of 4 name sequences, 4 of 4 contents.
    # Order: samples 1, 2 agree; 1, 3 and 2, 3 disagree; sample 4 verifies one object only -> 2/3.
    # Category 7 is absent: its mention is a hallucination. "zzz" is no name.
    image = example([(5, A), (6, B)], image_id=9, negative=[7])
    samples = [
        [mention(5, A, "a"), mention(6, B, "b")],
        [mention(5, (0, 0, 10, 9), "a"), mention(6, B, "b")],
        [mention(6, B, "b"), mention(5, A, "a")],
        [mention(5, A, "a")],
    ]
    row = image_row(image, parsed_samples(image, samples))
    assert (row.image_id, row.samples, row.mentions) == (9, 4, 7)
    assert (row.unique_name_sequences, row.unique_sequences) == (0.75, 1.0)
    assert row.order_distance == pytest.approx(2 / 3)
    assert (row.duplicates, row.hallucinations, row.unknown_names, row.malformed, row.truncated) == (0,) * 5


def test_image_row_counts_what_is_wrong() -> None:
    image = example([(5, A), (6, B)], negative=[7], not_exhaustive=[6])
    mentions = (
        mention(5, A),
        mention(5, A),  # duplicate
        mention(6, B),
        mention(6, B),  # the same in a category that is not annotated exhaustively: neither right nor wrong
        mention(7, C),  # hallucination
        mention(None, C, "zzz"),  # unknown
    )
    sample = (Parsed(mentions, malformed=2, truncated=True), match_sample(image, mentions))
    row = image_row(image, [sample, sample])
    assert (row.mentions, row.duplicates, row.hallucinations, row.unknown_names) == (12, 2, 2, 2)
    assert (row.malformed, row.truncated, row.order_distance) == (4, 2, 0.0)
    assert row.unique_name_sequences == row.unique_sequences == 0.5
