from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from itertools import permutations
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ConfigError
from harness.metrics.samples import matching
from harness.metrics.samples.reward import REWARDS, rewards
from harness.types import Box, Example, Mention, Parsed
from tests.metrics.builders import XYWH, cases, example, mention, parsed

APART = st.lists(st.tuples(st.sampled_from([5, 7]), st.integers(0, 8)), max_size=4, unique_by=lambda item: item[1])
"""Objects, each in a place of its own: 10 x 10 boxes, 20 apart."""


def scene(objects: Sequence[tuple[int, int]], not_exhaustive: Sequence[int] = ()) -> Example:
    return example([(category, box_at(place)) for category, place in objects], 1, (), not_exhaustive)


def box_at(place: int, shift: int = 0) -> XYWH:
    """Shifted by 1 to 3 pixels to the right its IoU with the unshifted one is 9/11, 8/12, 7/13: still verified."""
    return 20.0 * place + shift, 0.0, 10.0, 10.0


def reward(
    image: Example, mentions: Sequence[Mention], malformed: int = 0, truncated: bool = False, name: str = "detection"
) -> float:
    return float(rewards(name, [image], [[parsed(mentions, malformed, truncated)]])[0, 0])


def test_hand_derived() -> None:
    image = scene([(5, 0), (5, 1), (7, 2)])
    exact, near = mention(5, box_at(0)), mention(5, box_at(1, shift=1))  # IoU 1 and 9/11
    assert reward(image, [exact, near]) == pytest.approx(2 * (1 + 9 / 11) / (2 + 3))
    # a wrong place and a malformed entry: two more in the denominator; no end: a third one
    wrong = [exact, near, mention(7, box_at(7))]
    assert reward(image, wrong, malformed=1, truncated=True) == pytest.approx(2 * (1 + 9 / 11) / (3 + 1 + 1 + 3))
    # a second claim on the first object: half an IoU less, one more in the denominator
    assert reward(image, [exact, near, exact]) == pytest.approx(2 * (1 + 9 / 11 - 0.5) / (3 + 3))
    assert reward(image, [exact] * 4) == 0.0  # 1 - 3/2: less than nothing is nothing


def test_what_is_neither_right_nor_wrong_costs_nothing_but_its_duplicates_do() -> None:
    image = scene([(5, 0)], not_exhaustive=[5])
    right, elsewhere = mention(5, box_at(0)), mention(5, box_at(4))
    assert reward(image, [right, elsewhere]) == 1.0
    assert reward(image, [right, right]) == pytest.approx(2 * (1 - 0.5) / (2 + 1))


def test_nothing_to_find() -> None:
    assert reward(scene([]), []) == 1.0
    assert reward(scene([]), [mention(5, box_at(0))]) == reward(scene([(5, 0)]), []) == 0.0


def test_naming_one_safe_object_or_flooding_does_not_pay() -> None:
    image = scene([(5, place) for place in range(4)])
    right = [mention(5, box_at(place, shift=2)) for place in range(4)]  # IoU 8/12
    flood = [mention(5, box_at(place, shift)) for place in range(9) for shift in range(-3, 4)]
    assert reward(image, right) > reward(image, right[:1])
    assert reward(image, right) > reward(image, flood)


EVERY = pytest.mark.parametrize("name", REWARDS)


@EVERY
@settings(max_examples=60)
@given(APART, st.data())
def test_the_oracle_gets_1_in_any_order_with_any_names(
    name: str, objects: list[tuple[int, int]], data: st.DataObject
) -> None:
    names = {5: ["sofa", "couch"], 7: ["bed"]}
    mentions = [
        mention(category, box_at(place), data.draw(st.sampled_from(names[category]))) for category, place in objects
    ]
    assert reward(scene(objects), data.draw(st.permutations(mentions)), name=name) == 1.0


@EVERY
@settings(max_examples=80)
@given(cases(), st.data())
def test_order_and_names_change_nothing(
    name: str, case: tuple[list[Example], list[list[Parsed]]], data: st.DataObject
) -> None:
    images, samples = case
    other = [
        [
            replace(
                sample,
                mentions=tuple(
                    replace(item, name={"sofa": "couch", "couch": "sofa"}.get(item.name, item.name))
                    for item in data.draw(st.permutations(sample.mentions))
                ),
            )
            for sample in of_image
        ]
        for of_image in samples
    ]
    assert np.allclose(rewards(name, images, samples), rewards(name, images, other))


ANSWERS = st.lists(st.tuples(st.sampled_from([5, 7]), st.integers(0, 8), st.integers(-3, 3)), max_size=6)


@EVERY
@settings(max_examples=150)
@given(APART, ANSWERS, st.integers(0, 5), st.integers(-3, 3))
def test_a_duplicate_never_helps(
    name: str, objects: list[tuple[int, int]], answers: list[tuple[int, int, int]], which: int, shift: int
) -> None:
    """A second claim on an object that is verified already, its box better or worse than the first one."""
    image, mentions = scene(objects), [mention(category, box_at(*where)) for category, *where in answers]
    verified = [m for m, match in zip(mentions, matching.match_sample(image, mentions), strict=True) if match.verified]
    if verified:
        claimed = verified[which % len(verified)]
        again = replace(claimed, box=Box(round(claimed.box.x / 20) * 20 + shift, 0, 10, 10))
        assert reward(image, [*mentions, again], name=name) <= reward(image, mentions, name=name)


@EVERY
@settings(max_examples=150)
@given(APART, ANSWERS, st.sampled_from([5, 7, 8]), st.integers(0, 8), st.integers(0, 6))
def test_a_wrong_box_never_helps(
    name: str,
    objects: list[tuple[int, int]],
    answers: list[tuple[int, int, int]],
    category: int,
    place: int,
    position: int,
) -> None:
    image, mentions = scene(objects), [mention(category, box_at(*where)) for category, *where in answers]
    added = [*mentions[:position], mention(category, box_at(place)), *mentions[position:]]
    if (category, place) not in objects:
        assert reward(image, added, name=name) <= reward(image, mentions, name=name)
        if reward(image, mentions, name=name) > 0:
            assert reward(image, added, name=name) < reward(image, mentions, name=name)


@EVERY
@settings(max_examples=150)
@given(APART.filter(bool), st.data())
def test_leaving_out_what_is_right_never_helps(name: str, objects: list[tuple[int, int]], data: st.DataObject) -> None:
    """In an answer without duplicates, with wrong and missing mentions, however badly the right ones fit."""
    shifts = [data.draw(st.integers(-3, 3)) for _ in objects]
    right = [mention(c, box_at(place, shift)) for (c, place), shift in zip(objects, shifts, strict=True)]
    correct = right[: data.draw(st.integers(1, len(right)))]
    wrong = [mention(8, box_at(0))] * data.draw(st.integers(0, 3))
    left = data.draw(st.integers(0, len(correct) - 1))
    whole = reward(scene(objects), [*correct, *wrong], name=name)
    without = reward(scene(objects), [*correct[:left], *correct[left + 1 :], *wrong], name=name)
    assert without < whole or (without == whole == 0.0 and name == "all_found")  # which grades nothing below the whole


@settings(max_examples=60)
@given(cases())
def test_every_reward_is_between_0_and_1_and_one_sample_does_not_change_another(
    case: tuple[list[Example], list[list[Parsed]]],
) -> None:
    images, samples = case
    for name in REWARDS:
        values = rewards(name, images, samples)
        assert values.shape == (len(images), len(samples[0]))
        assert ((values >= 0) & (values <= 1)).all()
        for row, (image, of_image) in enumerate(zip(images, samples, strict=True)):
            for column, sample in enumerate(of_image):
                assert rewards(name, [image], [[sample]])[0, 0] == pytest.approx(values[row, column])


@settings(max_examples=60)
@given(cases(max_images=1))
def test_f_score_is_that_of_matching(case: tuple[list[Example], list[list[Parsed]]]) -> None:
    (image,), (of_image,) = case
    assert rewards("f_score", [image], [of_image])[0] == pytest.approx(
        [matching.f_score(image, sample) for sample in of_image]
    )


def test_all_found_is_of_the_whole_answer() -> None:
    image = scene([(5, 0), (7, 1)], not_exhaustive=[5])
    first, second = mention(5, box_at(0, shift=3)), mention(7, box_at(1))  # IoU 7/13: verified

    def worth(answer: Sequence[Mention], malformed: int = 0, truncated: bool = False) -> float:
        return reward(image, answer, malformed, truncated, name="all_found")

    assert worth([first, second]) == worth([second, first]) == 1.0
    assert worth([first]) == worth([second]) == worth([]) == 0.0
    assert worth([first, second], malformed=1) == worth([first, second], truncated=True) == 0.0
    assert worth([first, second, second]) == worth([first, second, first]) == 0.0  # a duplicate, also of category 5
    assert worth([first, second, mention(7, box_at(4))]) == 0.0
    assert worth([first, second, mention(8, box_at(4))]) == 0.0
    assert worth([first, second, mention(5, box_at(4))]) == 1.0  # not annotated exhaustively: neither right nor wrong


def test_an_unknown_reward_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown reward 'detektion', did you mean 'detection'"):
        rewards("detektion", [], [])


def test_equal_answers_have_equal_rewards_to_the_last_bit() -> None:
    """The IoUs 9/11, 8/12, 7/13, 1 and the half of a duplicate, in all orders: added up as they come they differ."""
    image = scene([(5, 0), (5, 1), (5, 2), (5, 3)])
    mentions = [mention(5, box_at(place, shift=shift)) for place, shift in ((0, 1), (1, 2), (2, 3), (3, 0))]
    duplicate = mention(5, box_at(0, shift=2))  # its IoU is smaller: in any order it is the duplicate
    orders = list(permutations([*mentions, duplicate]))
    worth = rewards("detection", [image], [[parsed(order, 0, False) for order in orders]])
    assert worth.tolist() == [[worth[0, 0]] * len(orders)]
    values = [9 / 11, 8 / 12, 7 / 13, 1.0, -0.5]
    assert len({reduce(add, order) for order in permutations(values)}) > 1  # sum() is exact from Python 3.12 on
    assert worth[0, 0] == pytest.approx(2 * sum(values) / (5 + 4))
