from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics.samples.consensus import Consensus, consensus
from harness.metrics.samples.mentions import Mentions

XYWH = tuple[float, float, float, float]
Row = tuple[int, int, int, XYWH, float]  # image, sample, category, box, score
Found = tuple[int, int, XYWH, float]  # image, category, box, score

A, B = (0.0, 0.0, 10.0, 10.0), (40.0, 0.0, 10.0, 10.0)


def mentions(rows: list[Row]) -> Mentions:
    """In order of image and sample; rows of one sample stay in theirs."""
    rows = sorted(rows, key=lambda row: row[:2])
    image, sample, category = np.array([row[:3] for row in rows], dtype=np.int64).reshape(-1, 3).T
    boxes = np.array([row[3] for row in rows], dtype=np.float64).reshape(-1, 4)
    return Mentions(image, sample, np.zeros_like(image), category, boxes, np.array([row[4] for row in rows], float))


def clusters_of(result: Consensus) -> list[Found]:
    boxes = [(x, y, w, h) for x, y, w, h in result.boxes.tolist()]
    return list(zip(result.image.tolist(), result.category.tolist(), boxes, result.scores.tolist(), strict=True))


def assert_same(actual: list[Found], expected: list[Found]) -> None:
    assert [row[:2] for row in actual] == [row[:2] for row in expected]
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours[2] == pytest.approx(theirs[2], rel=1e-9, abs=1e-9)
        assert ours[3] == pytest.approx(theirs[3], rel=1e-9)


def test_hand_derived_image() -> None:
    # Three of K = 4 samples name category 5 near A. The seed is sample 1's (0.9). Of sample 0, the box of 8 rows
    # (IoU 0.8) joins before the one of 6 (0.6); of sample 2, IoU 0.4 is too little. Box: x, y, w as they are,
    # height (10 + 8) / 2; score (0.9 + 0.5) / 4. What is left, 0.7 of sample 0 and 0.2 of sample 2: the box of
    # 6 rows is the next seed, IoU 4 / 6 with the one of 4 rows: height 5, score (0.7 + 0.2) / 4.
    rows: list[Row] = [
        (3, 0, 5, (0, 0, 10, 6), 0.7),
        (3, 0, 5, (0, 0, 10, 8), 0.5),
        (3, 1, 5, A, 0.9),
        (3, 2, 5, (0, 0, 10, 4), 0.2),
        (3, 3, 6, A, 0.8),  # another category
    ]
    expected: list[Found] = [(3, 5, (0, 0, 10, 9), 0.35), (3, 5, (0, 0, 10, 5), 0.225), (3, 6, A, 0.2)]
    assert_same(clusters_of(consensus(mentions(rows), samples=4)), expected)


def test_iou_of_exactly_a_half_joins() -> None:
    rows: list[Row] = [(0, 0, 1, A, 0.9), (0, 1, 1, (0, 0, 10, 5), 0.5), (0, 2, 1, (0, 0, 10, 4.99), 0.5)]
    assert consensus(mentions(rows), samples=3).scores == pytest.approx([1.4 / 3, 0.5 / 3])


def test_of_equals_the_earlier_mention_seeds_and_joins() -> None:
    # Seed: the box of 10 rows, the first of two with 0.5. In sample 1 both boxes have IoU 0.8; the first joins.
    rows: list[Row] = [
        (0, 0, 1, A, 0.5),
        (0, 1, 1, (0, 0, 10, 8), 0.5),
        (0, 1, 1, (0, 2, 10, 8), 0.5),
    ]
    expected: list[Found] = [(0, 1, (0, 0, 10, 9), 0.5), (0, 1, (0, 2, 10, 8), 0.25)]
    assert_same(clusters_of(consensus(mentions(rows), samples=2)), expected)


def test_a_sample_that_repeats_a_mention_gives_two_detections() -> None:
    # The more probable of the two equal boxes is the seed and takes sample 1's; the other is left alone.
    rows: list[Row] = [(0, 0, 1, A, 0.2), (0, 0, 1, A, 0.8), (0, 1, 1, A, 0.4)]
    assert consensus(mentions(rows), samples=2).scores == pytest.approx([0.6, 0.1])


def test_unknown_categories_and_unknown_scores_neither_seed_nor_join() -> None:
    rows: list[Row] = [(0, 0, -1, A, 0.9), (0, 0, 1, A, 0.4), (0, 1, 1, A, math.nan), (1, 0, 1, B, math.nan)]
    assert_same(clusters_of(consensus(mentions(rows), samples=2)), [(0, 1, A, 0.2)])
    assert len(consensus(mentions(rows[2:]), samples=2)) == 0
    assert len(consensus(mentions([]), samples=2)) == 0


def test_boxes_without_area_and_overflowing_ones_stay_alone() -> None:
    # IoU 0 by definition, and nan where both areas overflow.
    rows: list[Row] = [(0, k, 1, box, 0.5) for box in ((3, 3, 0, 0), (0, 0, 1e200, 1e200)) for k in range(2)]
    assert consensus(mentions(rows), samples=2).scores.tolist() == [0.25] * 4


def test_two_close_instances_that_every_sample_names_stay_two_detections() -> None:
    # IoU 0.6 between the two, so each could join the other's cluster; its own instance is nearer.
    left, right = (0.0, 0.0, 40.0, 10.0), (10.0, 0.0, 40.0, 10.0)
    rows: list[Row] = [
        (0, k, 1, (x, y, w, h + k / 10), 0.5 + k / 100) for k in range(8) for x, y, w, h in (left, right)
    ]
    result = consensus(mentions(rows), samples=8)
    assert result.boxes[:, :3].tolist() == [[0, 0, 40], [10, 0, 40]]
    assert result.boxes[:, 3] == pytest.approx([10.35, 10.35])
    assert result.scores == pytest.approx([0.535, 0.535])


def python_iou(a: XYWH, b: XYWH) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def consensus_by_loops(rows: list[Row], samples: int) -> list[Found]:
    rows = sorted(rows, key=lambda row: row[:2])
    result: list[Found] = []
    for image, category in sorted({(row[0], row[2]) for row in rows if row[2] >= 0}):
        free = [row for row in rows if (row[0], row[2]) == (image, category) and not math.isnan(row[4])]
        while free:
            seed = max(free, key=lambda row: row[4])  # the first of equals
            cluster = [seed]
            for sample in range(samples):
                near = [row for row in free if row[1] == sample and python_iou(seed[3], row[3]) >= 0.5]
                if sample != seed[1] and near:
                    cluster.append(max(near, key=lambda row: python_iou(seed[3], row[3])))
            taken = {id(row) for row in cluster}
            free = [row for row in free if id(row) not in taken]
            x, y, w, h = (sum(row[3][side] for row in cluster) / len(cluster) for side in range(4))
            mean = sum(row[4] for row in cluster) / len(cluster)
            result.append((image, category, (x, y, w, h), len(cluster) / samples * mean))
    return result


@st.composite
def answers(draw: st.DrawFn) -> list[Row]:
    """Few places, sizes and scores, so that overlaps, ties and repetitions are frequent; up to 4 samples."""
    side = st.integers(0, 2).map(float)
    length = st.sampled_from([0.0, 3.0, 4.0, 5.0])
    score = st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan])
    row = st.tuples(
        st.integers(0, 2), st.integers(0, 3), st.integers(-1, 1), st.tuples(side, side, length, length), score
    )
    return draw(st.lists(row, max_size=24))


@settings(max_examples=150)
@given(answers())
def test_equals_the_definition(rows: list[Row]) -> None:
    assert_same(clusters_of(consensus(mentions(rows), samples=4)), consensus_by_loops(rows, samples=4))


def random_rows(seed: int, samples: int) -> list[Row]:
    """Samples that see some of 12 objects of 2 images, with jitter; no two scores or overlaps are equal."""
    rng = np.random.default_rng(seed)
    objects = [(i, int(rng.integers(0, 3)), rng.random(4)) for i in (0, 1) for _ in range(6)]
    rows: list[Row] = []
    for k in range(samples):
        for image, category, (x, y, w, h) in objects:
            if rng.random() < 0.7:
                dx, dy, dw, dh = rng.normal(0, 2, 4)
                rows.append(
                    (image, k, category, (x * 60 + dx, y * 60 + dy, w * 30 + dw + 20, h * 30 + dh + 20), rng.random())
                )
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_random_samples(seed: int) -> None:
    rows = random_rows(seed, samples=6)
    result = consensus(mentions(rows), samples=6)
    assert_same(clusters_of(result), consensus_by_loops(rows, samples=6))
    # Every mention is in exactly one detection.
    assert result.scores.sum() == pytest.approx(sum(row[4] for row in rows) / 6)
    # The number of a sample does not matter.
    order = np.random.default_rng(seed).permutation(6)
    permuted = [(image, int(order[k]), c, box, score) for image, k, c, box, score in rows]
    assert_same(clusters_of(consensus(mentions(permuted), samples=6)), clusters_of(result))


@settings(max_examples=60)
@given(answers(), st.integers(1, 5))
def test_identical_samples_give_the_boxes_and_probabilities_of_one(rows: list[Row], samples: int) -> None:
    first = [row for row in rows if row[1] == 0 and row[3][2] * row[3][3] > 0]
    repeated: list[Row] = [(image, k, c, box, score) for k in range(samples) for image, _, c, box, score in first]
    expected = sorted((row[0], row[2], row[3], row[4]) for row in first if row[2] >= 0 and not math.isnan(row[4]))
    assert_same(sorted(clusters_of(consensus(mentions(repeated), samples))), expected)


def test_a_mention_of_one_sample_alone_has_its_probability_over_k() -> None:
    assert_same(clusters_of(consensus(mentions([(0, 2, 1, A, 0.6)]), samples=8)), [(0, 1, A, 0.075)])
