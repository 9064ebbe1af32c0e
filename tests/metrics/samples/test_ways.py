"""Ways of answering: by hand, and against plain loops over samples."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.samples.diversity import image_table
from harness.metrics.samples.matching import verify
from harness.metrics.samples.mentions import Mentions, Truth, answers_of, truth_of
from harness.metrics.samples.ways import BREAKS, Ways, granularities, orders, ways_of_answering
from harness.types import Box, Category, Example, Mention, Parsed
from tests.metrics.builders import example

CATEGORIES = [Category(5, ("sofa", "couch"), None), Category(7, ("bed",), None)]
LEFT, RIGHT, BELOW, LOW = (0, 10, 4, 4), (40, 0, 20, 20), (10, 40, 10, 10), (30, 40, 6, 6)
"""Left to right: LEFT, BELOW, LOW, RIGHT. Reading: RIGHT, LEFT, BELOW, LOW. Largest first: RIGHT, BELOW, LOW, LEFT."""
IMAGE = example([(5, LEFT), (5, RIGHT), (7, BELOW), (7, LOW)])
SOFA_L, SOFA_R, BED_B, BED_L = (5, "sofa", LEFT), (5, "sofa", RIGHT), (7, "bed", BELOW), (7, "bed", LOW)
COUCH_R = (5, "couch", RIGHT)
NOWHERE = (7, "bed", (60, 60, 2, 2))
Said = tuple[int, str, tuple[int, int, int, int]]


def parsed(entries: Sequence[Said]) -> Parsed:
    return Parsed(tuple(Mention(name, category, Box(*box)) for category, name, box in entries), 0, False)


def columns(image: Example, samples: Sequence[Sequence[Said]]) -> tuple[Truth, Mentions]:
    answers = answers_of([[parsed(sample) for sample in samples]], CATEGORIES)
    return truth_of([image], CATEGORIES), answers.mentions


def ways(samples: Sequence[Sequence[Said]], image: Example = IMAGE) -> Ways:
    truth, mentions = columns(image, samples)
    return ways_of_answering(truth, mentions, verify(truth, mentions), len(samples))


def rule(sample: Sequence[Said]) -> int:
    truth, mentions = columns(IMAGE, [sample])
    instance = verify(truth, mentions).instance
    return int(orders(truth, np.zeros(len(instance), dtype=np.int64), instance, 1)[0])


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ([SOFA_R, SOFA_L, BED_B, BED_L], 0),  # reading order
        ([SOFA_L, BED_B, BED_L, SOFA_R], 1),  # left to right
        ([SOFA_R, BED_B, BED_L, SOFA_L], 2),  # largest first
        ([BED_L, SOFA_R, BED_B, SOFA_L], 3),  # one or two of three pairs break each of them
        ([BED_B, BED_L], 0),  # all rules have it so: the first
        ([SOFA_L], -1),
        ([], -1),
    ],
)
def test_the_rule_that_an_order_keeps_best(sample: list[Said], expected: int) -> None:
    assert rule(sample) == expected


def test_a_quarter_of_the_pairs_may_break_a_rule() -> None:
    """Five objects in a row, equally large, from the left: of four successive pairs one is turned round, then two."""
    image = example([(7, (12 * place, 0, 10, 10)) for place in range(5)])
    truth = truth_of([image], CATEGORIES)
    slot = np.zeros(5, dtype=np.int64)
    assert BREAKS == 0.25
    assert orders(truth, slot, np.array([1, 0, 2, 3, 4]), 1).tolist() == [0]
    assert orders(truth, slot, np.array([1, 0, 2, 4, 3]), 1).tolist() == [3]


def test_how_finely_an_image_is_listed() -> None:
    """Of four objects none, one, two, three and all."""
    slot = np.repeat(np.arange(5), np.arange(5))
    assert granularities(truth_of([IMAGE], CATEGORIES), slot, 5, 5).tolist() == [0, 0, 1, 1, 2]


def test_ways_by_hand() -> None:
    """Reading order of all, sofa and bed, three times (once with a box elsewhere, which counts for nothing); the same
    as a couch; the same from the left; and two of the four. Of the 15 pairs of the six samples 3 agree. The seventh
    sample says nothing that is verified, and has no way."""
    reading = [SOFA_R, SOFA_L, BED_B, BED_L]
    couch = [COUCH_R, SOFA_L, BED_B, BED_L]
    from_left = [SOFA_L, BED_B, BED_L, SOFA_R]
    by_hand = ways([reading, reading, [*reading, NOWHERE], couch, from_left, [SOFA_R, BED_B], [NOWHERE]])
    assert by_hand.distinct.tolist() == [4]
    assert by_hand.diversity.tolist() == pytest.approx([1 - 3 / 15])


def test_what_is_undefined_is_nan() -> None:
    nobody = ways([[NOWHERE], []])
    assert np.isnan(nobody.distinct).all()
    assert np.isnan(nobody.diversity).all()
    one = ways([[SOFA_L], []])
    assert one.distinct.tolist() == [1]
    assert np.isnan(one.diversity).all()


def test_the_same_answers_are_one_way_and_different_names_are_two() -> None:
    assert ways([[SOFA_R, BED_B]] * 3).diversity.tolist() == [0]
    assert ways([[SOFA_R], [COUCH_R]]).diversity.tolist() == [1]
    assert ways([[SOFA_R, SOFA_L], [SOFA_L, SOFA_R]]).diversity.tolist() == [1]  # reading order, left to right
    assert ways([[SOFA_R, BED_B], [SOFA_R, BED_B, BED_L]]).diversity.tolist() == [0]  # half at least: equally fine


def test_the_table_of_images_has_them() -> None:
    truth = truth_of([IMAGE], CATEGORIES)
    answers = answers_of([[parsed([SOFA_R]), parsed([COUCH_R]), parsed([SOFA_R])]], CATEGORIES)
    table = image_table(truth, answers, verify(truth, answers.mentions))
    assert (table.distinct_ways.tolist(), table.way_diversity.tolist()) == ([2], [pytest.approx(2 / 3)])


def plain_way(sample: Sequence[Said], image: Example) -> tuple[object, ...] | None:
    """The key of one sample, by loops."""
    truth, mentions = columns(image, [sample])
    listed: list[int] = verify(truth, mentions).instance.tolist()
    verified = [(index, name) for index, (_, name, _) in zip(listed, sample, strict=True) if index >= 0]
    if not verified:
        return None
    boxes = [item.box for item in image.instances]
    rules = (
        [(box.y, box.x, index) for index, box in enumerate(boxes)],
        [(box.x, box.y, index) for index, box in enumerate(boxes)],
        [(-box.w * box.h, 0.0, index) for index, box in enumerate(boxes)],
    )
    pairs = list(itertools.pairwise(index for index, _ in verified))
    breaks = [sum(keys[a] > keys[b] for a, b in pairs) for keys in rules]
    best = min(range(3), key=lambda number: breaks[number])
    order = -1 if not pairs else best if breaks[best] <= len(pairs) / 4 else 3
    size, count = len(image.instances), len(verified)
    fine = 2 if count == size else 1 if count >= size / 2 else 0
    return order, fine, frozenset(name for _, name in verified)


THINGS = [SOFA_L, SOFA_R, COUCH_R, BED_B, BED_L, NOWHERE]


@given(st.lists(st.lists(st.sampled_from(THINGS), max_size=6), min_size=2, max_size=6))
def test_against_loops(samples: list[list[Said]]) -> None:
    actual = ways(samples)
    keys = [key for key in (plain_way(sample, IMAGE) for sample in samples) if key is not None]
    assert actual.distinct[0] == (len(set(keys)) or pytest.approx(math.nan, nan_ok=True))
    if len(keys) < 2:
        assert np.isnan(actual.diversity[0])
    else:
        agreeing = sum(times * (times - 1) for times in Counter(keys).values())
        assert actual.diversity[0] == pytest.approx(1 - agreeing / (len(keys) * (len(keys) - 1)))
