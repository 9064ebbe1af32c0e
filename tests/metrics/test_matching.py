from __future__ import annotations

import importlib
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics.matching import iou_matrix, match_sample
from harness.types import Box, Example, Mention
from tests.metrics.builders import XYWH, example, mention

mask: Any = importlib.import_module("pycocotools.mask")  # it has no types

# A coarse grid makes shared, equal and threshold-exact overlaps common.
BOXES = st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(1, 4)] * 2)
OBJECTS = st.lists(st.tuples(st.integers(0, 1), BOXES), max_size=4)


def test_iou_of_hand_derived_boxes() -> None:
    a = np.array([[0.0, 0, 2, 2]])
    # the same; half of it: 2 / 4; shifted by one: 1 / (4 + 4 - 1); touching edges; without area
    b = np.array([[0.0, 0, 2, 2], [0, 0, 2, 1], [1, 1, 2, 2], [2, 0, 2, 2], [0, 0, 0, 2]])
    assert iou_matrix(a, b).tolist() == [[1.0, 0.5, 1 / 7, 0.0, 0.0]]


def test_iou_equals_pycocotools_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    a, b = (np.concatenate([rng.uniform(0, 9, (n, 2)), rng.uniform(0, 9, (n, 2))], axis=1) for n in (40, 30))
    assert np.array_equal(iou_matrix(a, b), mask.iou(a, b, [0] * len(b)))


def test_iou_of_no_boxes_is_empty() -> None:
    assert iou_matrix(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)


def _iou(a: Box, b: Box) -> float:
    """Counted in unit squares: an independent way for boxes on an integer grid."""
    cells = [{(x, y) for x in range(int(c.x), int(c.x + c.w)) for y in range(int(c.y), int(c.y + c.h))} for c in (a, b)]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


def _best_by_brute_force(image: Example, mentions: list[Mention], threshold: float) -> tuple[int, float]:
    """Number of pairs and total IoU of the best one-to-one assignment: tries all of them."""
    best = (0, 0.0)
    slots: list[int | None] = [*range(len(image.instances)), *[None] * len(mentions)]
    for choice in set(permutations(slots, len(mentions))):
        pairs, total = 0, 0.0
        for item, slot in zip(mentions, choice, strict=True):
            if slot is None or image.instances[slot].category_id != item.category_id:
                continue
            iou = _iou(item.box, image.instances[slot].box)
            pairs, total = (pairs + 1, total + iou) if iou >= threshold else (pairs, total)
        best = max(best, (pairs, round(total, 9)))
    return best


@settings(max_examples=60, deadline=None)
@given(OBJECTS, st.lists(st.tuples(st.integers(0, 1), BOXES), max_size=3), st.sampled_from([0.2, 0.5]))
def test_match_is_the_brute_force_optimum(
    objects: list[tuple[int, XYWH]], said: list[tuple[int, XYWH]], threshold: float
) -> None:
    image, mentions = example(objects), [mention(c, box) for c, box in said]
    matched = match_sample(image, mentions, threshold)
    verified = [match for match in matched if match.verified]
    ids = [match.instance_id for match in verified]
    assert len(set(ids)) == len(ids)
    total = round(sum(match.iou for match in verified), 9)
    assert (len(verified), total) == _best_by_brute_force(image, mentions, threshold)


@settings(max_examples=60, deadline=None)
@given(OBJECTS, st.lists(st.tuples(st.integers(0, 2), BOXES), max_size=5))
def test_flags_follow_their_definitions(objects: list[tuple[int, XYWH]], said: list[tuple[int, XYWH]]) -> None:
    image = example(objects, negative=[2], not_exhaustive=[1])
    mentions = [mention(c, box) for c, box in said]
    matched = match_sample(image, mentions)
    taken = {match.instance_id for match in matched}
    category = {instance.id: instance.category_id for instance in image.instances}
    for item, match in zip(mentions, matched, strict=True):
        ious = {i.id: _iou(item.box, i.box) for i in image.instances if i.category_id == item.category_id}
        if match.instance_id is not None:
            assert category[match.instance_id] == item.category_id
            assert match.iou == pytest.approx(ious[match.instance_id])
            assert match.iou >= 0.5
            assert (match.duplicate, match.neutral) == (False, False)
        else:
            assert match.iou == pytest.approx(max(ious.values(), default=0.0))
            assert match.duplicate == any(iou >= 0.5 and i in taken for i, iou in ious.items())
            assert match.neutral == (item.category_id == 1)
        assert match.hallucination == (item.category_id == 2)


def test_number_of_pairs_comes_before_total_iou() -> None:
    # Instances A = [0, 10], B = [6, 16] (intervals of height 1). Mention p = A exactly: IoU 1 with A, 4/16
    # with B. Mention q = [-5, 5]: 5/15 with A, none with B. Greedy, or the largest total, gives A to p and
    # leaves q unverified; with a threshold of 0.2 the most pairs are p -> B, q -> A.
    image = example([(0, (0, 0, 10, 1)), (0, (6, 0, 10, 1))])
    mentions = [mention(0, (0, 0, 10, 1)), mention(0, (-5, 0, 10, 1))]
    matched = match_sample(image, mentions, iou_threshold=0.2)
    assert [match.instance_id for match in matched] == [2, 1]
    assert [match.iou for match in matched] == pytest.approx([1 / 4, 1 / 3])


def test_order_of_mentions_does_not_matter() -> None:
    image = example([(0, (0, 0, 10, 1)), (0, (3, 0, 10, 1)), (1, (0, 0, 10, 1))])
    mentions = [mention(0, (x, 0, 10, 1)) for x in (0, -3, 2)] + [mention(1, (1, 0, 10, 1))]
    expected = dict(zip(mentions, match_sample(image, mentions), strict=True))
    for order in permutations(mentions):
        assert dict(zip(order, match_sample(image, order), strict=True)) == expected


def test_second_mention_of_an_instance_is_a_duplicate_and_the_worse_one() -> None:
    image = example([(0, (0, 0, 10, 10))])
    worse, better = match_sample(image, [mention(0, (0, 0, 10, 8)), mention(0, (0, 0, 10, 9))])
    assert (worse.instance_id, worse.duplicate, worse.iou) == (None, True, 0.8)
    assert (better.instance_id, better.duplicate, better.iou) == (1, False, 0.9)


def test_unknown_name_matches_nothing() -> None:
    (match,) = match_sample(example([(0, (0, 0, 10, 10))]), [mention(None, (0, 0, 10, 10))])
    assert (match.unknown, match.verified, match.iou, match.duplicate) == (True, False, 0.0, False)


def test_iou_exactly_at_the_threshold_verifies() -> None:
    image = example([(0, (0, 0, 10, 10))])
    assert match_sample(image, [mention(0, (0, 0, 10, 5))])[0].verified
    assert not match_sample(image, [mention(0, (0, 0, 10, 5))], iou_threshold=0.51)[0].verified


def test_no_mentions_and_no_instances() -> None:
    assert match_sample(example([(0, (0, 0, 1, 1))]), []) == []
    (match,) = match_sample(example([]), [mention(0, (0, 0, 1, 1))])
    assert (match.verified, match.iou, match.duplicate) == (False, 0.0, False)
