"""Errors of samples: one of each by hand, and random ones against the evaluation's breakdown and plain counting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics.detection.ap import match
from harness.metrics.detection.rules import Protocol, ground_truth
from harness.metrics.diagnosis import tide
from harness.metrics.diagnosis.codebook import (
    KINDS,
    MENTION_KINDS,
    WRONG_NAME,
    MentionFound,
    Miscount,
    SampleErrors,
    counts_by_category,
    error_codes,
    sample_errors,
)
from harness.metrics.samples.matching import Verification, iou_matrix, verify
from harness.metrics.samples.mentions import Answers, Truth, answers_of, truth_of
from harness.types import Detection, Detections, Example, Mention, Parsed
from tests.metrics.builders import CATEGORIES, XYWH, cases, columns, example, mention, parsed

A, B, FAR = (0, 0, 10, 10), (30, 0, 10, 10), (50, 50, 10, 10)
POOR = (0, 0, 10, 4)
"""IoU with A: 0.4."""
BARELY = (0, 0, 10, 5)
"""IoU with A: 0.5."""
ALL = frozenset({5, 7, 8})


def exhaustive(objects: Sequence[tuple[int, XYWH]]) -> Example:
    """Every category was looked for."""
    return example(objects, negative=ALL - {category for category, _ in objects})


def errors(image: Example, mentions: Sequence[Mention], malformed: int = 0, truncated: bool = False) -> SampleErrors:
    ((judged,),) = sample_errors([image], [[parsed(mentions, malformed, truncated)]])
    return judged


def mentions_found(image: Example, *mentions: Mention) -> list[tuple[str | None, int | None]]:
    return [(item.kind, item.instance) for item in errors(image, mentions).mentions]


# ---- by hand -----------------------------------------------------------------------------------------------------


def test_codes_of_mentions_begin_with_those_of_tide() -> None:
    assert MENTION_KINDS[:WRONG_NAME] == tide.KINDS[: tide.MISSED]
    assert (*MENTION_KINDS, "missed", "miscount", "malformed", "truncated") == KINDS


def test_one_of_each_kind_of_mention() -> None:
    image = exhaustive([(5, A), (7, B)])
    assert mentions_found(image, mention(5, A)) == [(None, 0)]
    assert mentions_found(image, mention(7, A)) == [("classification", 0)]
    assert mentions_found(image, mention(5, POOR)) == [("localisation", 0)]
    assert mentions_found(image, mention(None, BARELY)) == [("wrong_name", 0)]
    assert mentions_found(image, mention(5, A), mention(5, A)) == [(None, 0), ("duplicate", 0)]
    assert mentions_found(image, mention(5, FAR)) == [("background", None)]
    assert mentions_found(image, mention(7, POOR)) == [("both", None)]
    assert mentions_found(image, mention(None, FAR), mention(None, POOR)) == [("background", None), ("both", None)]


def test_the_order_of_the_tests_is_that_of_tide() -> None:
    """Near its own and on another: localisation. On another and a second time on its own: classification. IoU 0.5 with
    its own that is taken: localisation, not a duplicate."""
    image = exhaustive([(5, POOR), (7, A)])
    assert mentions_found(image, mention(5, A)) == [("localisation", 0)]
    image = exhaustive([(5, A), (7, A)])
    assert mentions_found(image, mention(5, A), mention(5, A)) == [(None, 0), ("classification", 1)]
    image = exhaustive([(5, A)])
    assert mentions_found(image, mention(5, BARELY), mention(5, A)) == [("localisation", 0), (None, 0)]


def test_what_a_sample_lacks() -> None:
    image = exhaustive([(5, A), (5, B), (7, (30, 30, 10, 10))])
    judged = errors(image, [mention(5, A), mention(8, FAR)], malformed=2, truncated=True)
    assert judged.missed == (1, 2)
    assert judged.miscounts == (Miscount(5, 1, 2), Miscount(7, 0, 1), Miscount(8, 1, 0))
    assert (judged.malformed, judged.truncated) == (2, True)
    assert Counter(judged.kinds) == {"background": 1, "missed": 2, "miscount": 3, "malformed": 2, "truncated": 1}


def test_an_object_that_is_said_wrongly_is_not_missed() -> None:
    image = exhaustive([(5, A)])
    for wrong in (mention(7, A), mention(5, POOR), mention(None, A)):
        assert errors(image, [wrong]).missed == ()
    assert errors(image, [mention(7, POOR)]).missed == (0,)


def test_what_is_not_annotated_exhaustively_or_not_looked_for_is_no_error() -> None:
    image = example([(5, A)], not_exhaustive=[5])
    assert errors(image, [mention(5, A), mention(5, FAR), mention(5, A)]).kinds == ()
    assert errors(image, []).kinds == ("missed",)  # an annotated object is asked for all the same
    image = example([(5, A)])
    assert errors(image, [mention(5, A), mention(7, A), mention(8, FAR)]).kinds == ()
    assert errors(exhaustive([(5, A)]), [mention(5, A), mention(7, A)]).kinds == ("classification", "miscount")


def test_counts_go_to_the_category_that_was_said_or_else_to_the_objects() -> None:
    """C = 3 categories, 5, 7 and 8, then what is of none."""
    image = exhaustive([(5, A), (7, B)])
    mentions = [mention(7, A), mention(None, B, "thing"), mention(None, FAR, "thing"), mention(8, FAR)]
    truth, answers, verification = columns([image], [[parsed(mentions, 3, True), parsed([])]], CATEGORIES)
    counts = counts_by_category(truth, answers, error_codes(truth, answers, verification))
    expected = {kind: [0, 0, 0, 0] for kind in KINDS} | {
        "classification": [0, 1, 0, 0],
        "wrong_name": [0, 1, 0, 0],
        "background": [0, 0, 1, 1],
        "missed": [1, 1, 0, 0],  # in the empty sample
        "miscount": [2, 1, 1, 0],  # 7 is said once, though of the wrong object; then both categories are not
        "malformed": [0, 0, 0, 3],
        "truncated": [0, 0, 0, 1],
    }
    assert {kind: row.tolist() for kind, row in counts.items()} == expected


def test_an_image_without_objects() -> None:
    assert errors(exhaustive([]), []).kinds == ()
    assert mentions_found(exhaustive([]), mention(5, A), mention(None, A)) == [("background", None)] * 2


# ---- random ones -------------------------------------------------------------------------------------------------


def by_score(truth: Truth, answers: Answers) -> Verification:
    """The evaluation's matching, all scores being equal: in turn each the closest free object, the last of equals."""
    mentions = answers.mentions
    instance = np.full(len(mentions), -1)
    for row in range(len(mentions)):
        candidates = (truth.image == mentions.image[row]) & (truth.category == mentions.category[row])
        free = candidates & ~np.isin(np.arange(len(candidates)), instance[:row])
        iou = np.where(free, iou_matrix(mentions.boxes[row : row + 1], truth.boxes)[0], 0.0)
        if iou.max(initial=0.0) >= 0.5:
            instance[row] = len(iou) - 1 - iou[::-1].argmax()
    verification = verify(truth, mentions)
    incomplete = np.isin(mentions.image * truth.categories + mentions.category, truth.not_exhaustive) & (
        mentions.category >= 0
    )
    return replace(verification, instance=instance, neutral=incomplete & (instance < 0))


def breakdown(images: Sequence[Example], samples: Sequence[Sequence[Parsed]], protocol: Protocol) -> dict[str, int]:
    """What the evaluation counts, if the only sample of each image is its detections."""
    detections = Detections.of(
        Detection(image.image_id, item.category_id, item.box, 1.0)
        for image, (sample,) in zip(images, samples, strict=True)
        for item in sample.mentions
        if item.category_id is not None
    )
    matches = match(images, detections, CATEGORIES, protocol)
    breakdowns = tide.break_down_errors(matches, detections, ground_truth(images, protocol), images, CATEGORIES)
    return {kind: part.count for kind, part in breakdowns.items()}


def totals(truth: Truth, answers: Answers, verification: Verification) -> dict[str, int]:
    counts = counts_by_category(truth, answers, error_codes(truth, answers, verification))
    return {kind: int(counts[kind].sum()) for kind in tide.KINDS}


def known_names(samples: Iterable[Sequence[Parsed]]) -> list[list[Parsed]]:
    def without(sample: Parsed) -> Parsed:
        return replace(sample, mentions=tuple(item for item in sample.mentions if item.category_id is not None))

    return [[without(sample) for sample in of_image] for of_image in samples]


@settings(max_examples=300)
@given(cases(max_samples=1))
def test_agrees_with_the_evaluation(case: tuple[list[Example], list[list[Parsed]]]) -> None:
    """Always, given the evaluation's matching; given that of samples, where both match the same, and never less."""
    images, samples = case[0], known_names(case[1])
    truth, answers, verification = columns(images, samples, CATEGORIES)
    greedy, expected = by_score(truth, answers), breakdown(images, samples, "lvis")
    assert totals(truth, answers, greedy) == expected
    assert (verification.instance >= 0).sum() >= (greedy.instance >= 0).sum()
    same = set(verification.instance.tolist()) == set(greedy.instance.tolist())
    if same and np.array_equal(verification.instance < 0, greedy.instance < 0):
        assert totals(truth, answers, verification) == expected


@settings(max_examples=100)
@given(cases(max_samples=1))
def test_agrees_with_the_evaluation_under_coco(case: tuple[list[Example], list[list[Parsed]]]) -> None:
    def annotated(image: Example) -> Example:
        present = {item.category_id for item in image.instances}
        return replace(image, negative=ALL - present, not_exhaustive=frozenset())

    images, samples = [annotated(image) for image in case[0]], known_names(case[1])
    truth, answers = truth_of(images, CATEGORIES), answers_of(samples, CATEGORIES)
    assert totals(truth, answers, by_score(truth, answers)) == breakdown(images, samples, "coco")


def test_greed_may_leave_a_pair_that_samples_are_credited_with() -> None:
    """The first mention fits both objects, the left one better, which the second alone fits: by score the second finds
    its object taken."""
    left, right = (0, 0, 10, 10), (3, 0, 10, 10)  # IoU of the two: 7/13
    image = exhaustive([(5, left), (5, right)])
    mentions = [mention(5, (1, 0, 10, 10)), mention(5, (0, 0, 6, 10))]  # 9/11 and 8/12; 6/10 and 3/13
    truth, answers, verification = columns([image], [[parsed(mentions)]], CATEGORIES)
    assert sum(totals(truth, answers, verification).values()) == 0
    assert breakdown([image], [[parsed(mentions)]], "lvis") == dict.fromkeys(tide.KINDS, 0) | {
        "duplicate": 1,
        "missed": 1,
    }
    assert totals(truth, answers, by_score(truth, answers)) == breakdown([image], [[parsed(mentions)]], "lvis")


@settings(max_examples=150)
@given(cases())
def test_wrong_counts_are_those_of_counting(case: tuple[list[Example], list[list[Parsed]]]) -> None:
    for image, of_image, judged in zip(*case, sample_errors(*case), strict=True):
        there = Counter(item.category_id for item in image.instances)
        looked_for = (there.keys() | image.negative) - image.not_exhaustive
        for sample, sample_found in zip(of_image, judged, strict=True):
            claimed = Counter(item.category_id for item in sample.mentions if item.category_id in looked_for)
            wrong = {c: (claimed[c], there[c]) for c in sorted(looked_for) if claimed[c] != there[c]}
            assert {item.category_id: (item.claimed, item.there) for item in sample_found.miscounts} == wrong


@settings(max_examples=100)
@given(cases())
def test_one_sample_does_not_change_another_and_the_columns_say_the_same(
    case: tuple[list[Example], list[list[Parsed]]],
) -> None:
    images, samples = case
    judged = sample_errors(images, samples)
    for image, of_image, expected in zip(images, samples, judged, strict=True):
        assert [sample_errors([image], [[sample]])[0][0] for sample in of_image] == expected
    truth, answers, verification = columns(images, samples, CATEGORIES)
    counts = counts_by_category(truth, answers, error_codes(truth, answers, verification))
    kinds = Counter(kind for of_image in judged for sample in of_image for kind in sample.kinds)
    assert {kind: int(row.sum()) for kind, row in counts.items()} == {kind: kinds[kind] for kind in KINDS}


@settings(max_examples=100)
@given(cases(max_images=1, max_samples=1), st.data())
def test_a_member_of_the_equivalence_set_has_no_errors_and_each_omission_is_missed(
    case: tuple[list[Example], list[list[Parsed]]], data: st.DataObject
) -> None:
    (image,), _ = case
    right = [Mention(str(item.id), item.category_id, item.box) for item in data.draw(st.permutations(image.instances))]
    assert errors(image, right).kinds == ()
    assert all(item == MentionFound(None, item.instance) for item in errors(image, right).mentions)
    count = data.draw(st.integers(0, len(right)))
    assert len(errors(image, right[:count]).missed) == len(right) - count
