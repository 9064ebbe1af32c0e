from __future__ import annotations

import importlib
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from harness.metrics.samples import matching
from harness.metrics.samples.matching import f_score, iou_matrix, match_sample, verify
from harness.metrics.samples.mentions import mentions_of, truth_of
from harness.types import Box, Example, Mention, Parsed
from tests.metrics.builders import CATEGORIES, OBJECTS, SAID, XYWH, cases, columns, example, mention, parsed

mask: Any = importlib.import_module("pycocotools.mask")  # it has no types


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


def _best_by_brute_force(image: Example, mentions: Sequence[Mention], threshold: float) -> tuple[int, float]:
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
        best = max(best, (pairs, round(total, 6)))
    return best


@settings(max_examples=60)
@given(
    st.lists(st.tuples(OBJECTS, st.lists(st.lists(SAID, max_size=3), min_size=2, max_size=2)), min_size=1, max_size=3),
    st.sampled_from([0.2, 0.5]),
)
def test_verify_is_the_brute_force_optimum_in_every_sample(
    scenes: list[tuple[list[tuple[int, XYWH]], list[list[Mention]]]], threshold: float
) -> None:
    images = [example(objects, image_id) for image_id, (objects, _) in enumerate(scenes)]
    truth, mentions = truth_of(images, CATEGORIES), mentions_of([samples for _, samples in scenes], CATEGORIES)
    verification = verify(truth, mentions, threshold)
    for index, (image, (_, samples)) in enumerate(zip(images, scenes, strict=True)):
        for number, sample in enumerate(samples):
            of_sample = (mentions.image == index) & (mentions.sample == number) & (verification.instance >= 0)
            assert len(set(verification.instance[of_sample])) == of_sample.sum()
            assert (truth.image[verification.instance[of_sample]] == index).all()
            assert (truth.category[verification.instance[of_sample]] == mentions.category[of_sample]).all()
            pairs, total = _best_by_brute_force(image, sample, threshold)
            assert (of_sample.sum(), verification.iou[of_sample].sum()) == (pairs, pytest.approx(total, abs=1e-5))


@settings(max_examples=60)
@given(cases())
def test_flags_follow_their_definitions(case: tuple[list[Example], list[list[Parsed]]]) -> None:
    images, samples = case
    truth, _, verification = columns(images, samples, CATEGORIES)
    rows = [
        (image, k, item)
        for image, of_image in enumerate(samples)
        for k, one in enumerate(of_image)
        for item in one.mentions
    ]
    taken = {
        (image, k, truth.ids[instance])
        for (image, k, _), instance in zip(rows, verification.instance, strict=True)
        if instance >= 0
    }
    for row, (index, k, item) in enumerate(rows):
        image, category = images[index], item.category_id
        ious = {i.id: _iou(item.box, i.box) for i in image.instances if i.category_id == category}
        instance = verification.instance[row]
        assert verification.unknown[row] == (category is None)
        assert verification.hallucination[row] == (category in image.negative)
        assert verification.neutral[row] == (instance < 0 and category in image.not_exhaustive)
        if instance >= 0:
            assert verification.iou[row] == pytest.approx(ious[truth.ids[instance]])
            assert verification.iou[row] >= 0.5
            assert not verification.duplicate[row]
        else:
            assert verification.iou[row] == pytest.approx(max(ious.values(), default=0.0))
            assert verification.duplicate[row] == any(iou >= 0.5 for i, iou in ious.items() if (index, k, i) in taken)


@pytest.mark.parametrize("seed", range(4))
def test_crowded_scenes_equal_one_assignment_of_everything(seed: int) -> None:
    # 30 instances and 40 mentions of one category that all overlap: stars, long components and everything between.
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(0, 40, (70, 2)), rng.uniform(8, 16, (70, 2))], axis=1)
    image = example([(5, tuple(box)) for box in boxes[:30].tolist()])
    mentions = [mention(5, tuple(box)) for box in boxes[30:].tolist()]
    for threshold in (0.1, 0.3, 0.5):
        iou = iou_matrix(boxes[30:], boxes[:30])
        rows, instances = linear_sum_assignment(np.where(iou >= threshold, 100 + iou, 0.0), maximize=True)
        real = iou[rows, instances] >= threshold
        matches = match_sample(image, mentions, threshold)
        assert [match.instance_id for match in matches if match.verified] == (instances[real] + 1).tolist()
        assert [row for row, match in enumerate(matches) if match.verified] == rows[real].tolist()


def test_images_and_samples_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, in chunks of any size, is what each sample gives alone."""
    rng = np.random.default_rng(0)
    images, samples = [], []
    for image_id in range(12):
        boxes = rng.integers((0, 0, 6, 6), (6, 6, 12, 12), (6, 4))
        objects = [(int(rng.choice([5, 7])), tuple(box)) for box in boxes.tolist()]
        images.append(example(objects[: image_id % 7], image_id, negative=[8], not_exhaustive=[7]))
        shuffled = [[objects[i] for i in rng.integers(0, 6, image_id % 5 + k)] for k in range(3)]
        samples.append(
            [parsed([mention(c, box) for c, box in drawn] + [mention(8, (0, 0, 9, 9))]) for drawn in shuffled]
        )
    truth, answers, verification = columns(images, samples, CATEGORIES)
    alone = [
        match
        for i, of_image in zip(images, samples, strict=True)
        for one in of_image
        for match in match_sample(i, one.mentions)
    ]
    assert [None if row < 0 else truth.ids[row] for row in verification.instance] == [
        match.instance_id for match in alone
    ]
    for name in ("iou", "duplicate", "hallucination", "neutral", "unknown"):
        assert getattr(verification, name).tolist() == [getattr(match, name) for match in alone], name
    monkeypatch.setattr(matching, "CHUNK", 5)
    again = verify(truth, answers.mentions)
    assert all(
        np.array_equal(getattr(again, name), getattr(verification, name)) for name in verification.__dataclass_fields__
    )


def test_of_equal_mentions_the_earlier_verifies() -> None:
    a, b = (0, 0, 10, 10), (2, 0, 10, 10)  # IoU of a and b: 8 / 12
    twice = [mention(5, a, name) for name in ("first", "second")]
    star = match_sample(example([(5, a)]), twice)
    assert [match.verified for match in star] == [True, False]
    # Two instances, three mentions that overlap both: the Hungarian algorithm decides.
    shared = match_sample(example([(5, a), (5, b)]), [*twice, mention(5, b)])
    assert [match.instance_id for match in shared] == [1, None, 2]
    shared = match_sample(example([(5, a), (5, b)]), [mention(5, b), *twice])
    assert [match.instance_id for match in shared] == [2, 1, None]


def test_boxes_whose_area_overflows_match_nothing() -> None:
    (match,) = match_sample(example([(5, (0, 0, 1e200, 1e200))]), [mention(5, (0, 0, 1e200, 1e200))])
    assert (match.verified, match.iou, match.duplicate) == (False, 0.0, False)


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


def test_f_score_of_hand_derived_samples() -> None:
    # Two of three instances found; of five mentions one repeats, one is of a category that is not annotated
    # exhaustively (left out), one is unknown; one entry could not be read: 2 * 2 / (5 + 1 - 1 + 3).
    a, b, c = (0, 0, 10, 10), (20, 0, 10, 10), (40, 0, 10, 10)
    image = example([(5, a), (5, b), (5, c)], not_exhaustive=[7])
    mentions = [mention(5, a), mention(5, a), mention(5, b), mention(7, c), mention(None, c)]
    assert f_score(image, parsed(mentions, malformed=1)) == 4 / 8
    assert f_score(example([]), parsed([])) == 1.0
    assert f_score(image, parsed([])) == f_score(example([]), parsed(mentions)) == 0.0
