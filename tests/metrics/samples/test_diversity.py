from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import example as example_of_hypothesis
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics.samples import diversity, text
from harness.metrics.samples.diversity import (
    CategoryTable,
    ImageTable,
    category_table,
    coverage,
    image_table,
    order_distance,
)
from harness.metrics.samples.matching import Verification, iou_matrix, match_sample
from harness.metrics.samples.mentions import Answers, Truth, box_array
from harness.types import Box, Category, Example, Mention, Parsed
from tests.metrics.builders import CATEGORIES, XYWH, cases, columns, example, mention, parsed, tables

A, B, C = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 10.0, 10.0), (40.0, 0.0, 10.0, 10.0)
NAMES = np.array([2, 1, 3])  # of CATEGORIES
Case = tuple[list[Example], list[list[Parsed]]]


def one_image(image: Example, samples: Sequence[Sequence[Mention]]) -> tuple[CategoryTable, ImageTable]:
    return tables([image], [[parsed(mentions) for mentions in samples]], CATEGORIES)


# ---- hand-derived ---------------------------------------------------------------------------------------------------


def test_category_table_of_a_hand_derived_image() -> None:
    # Category 5 has instances A and B, category 7 has C. Four samples:
    #   1: sofa A, couch B      2: sofa A (9 of 10 rows: IoU 0.9)      3: couch A, sofa B      4: nothing
    # A is verified 3 times (sofa, sofa, couch): two of three pairs differ -> 2/3. B twice (couch, sofa) -> 1.
    # name_diversity (2/3 + 1) / 2 = 5/6; two names. Spread of A: pairs (1,2) 0.1, (1,3) 0, (2,3) 0.1, mean
    # 0.2/3; of B: 0; mean 0.1/3. Sofa occurs in 3 samples, couch in 2; something of 5 is verified in 3; each
    # instance got both names: 4 choices. C is never verified: no names, no choices, all else is undefined there.
    image = example([(5, A), (5, B), (7, C)])
    samples = [
        [mention(5, A, "sofa"), mention(5, B, "couch")],
        [mention(5, (0, 0, 10, 9), "sofa")],
        [mention(5, A, "couch"), mention(5, B, "sofa")],
        [],
    ]
    table, _ = one_image(image, samples)
    assert (table.n_images, table.image.tolist(), table.category.tolist()) == (1, [0, 0], [0, 1])
    assert table.names.tolist() == [2, 1, 3]
    assert table.verified.tolist() == [[0, 0, 1, 1, 0], [1, 0, 0, 0, 0]]
    assert table.named.tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]
    assert table.present.tolist() == [3, 0]
    assert table.choices.tolist() == [4, 0]
    np.testing.assert_allclose(table.name_diversity, [5 / 6, np.nan])
    np.testing.assert_allclose(table.distinct_names, [2, np.nan])
    np.testing.assert_allclose(table.box_spread, [0.1 / 3, np.nan])


def test_one_verifying_sample_leaves_diversity_undefined_but_counts_a_name() -> None:
    table, _ = one_image(example([(5, A)]), [[mention(5, A, "sofa")], []])
    assert table.verified.tolist() == [[0, 1, 0]]
    np.testing.assert_array_equal(
        [table.name_diversity, table.box_spread, table.distinct_names], [[np.nan]] * 2 + [[1]]
    )


def test_unverified_mentions_do_not_pass_for_diversity() -> None:
    noise = [mention(5, B, "lounge"), mention(None, A, "thing"), mention(7, A, "chair")]
    table, _ = one_image(example([(5, A)]), [[mention(5, A, "sofa"), *noise]] * 3)
    assert table.verified.tolist() == table.named.tolist() == [[0, 0, 0, 1]]
    assert (table.name_diversity.item(), table.distinct_names.item(), table.choices.item()) == (0.0, 1.0, 1.0)


def test_name_repeated_within_a_sample_is_no_second_verification() -> None:
    twice = [mention(5, A, "sofa"), mention(5, (0, 0, 10, 9), "couch")]
    table, _ = one_image(example([(5, A)]), [twice])
    assert table.verified.tolist() == table.named.tolist() == [[0, 1]]
    assert np.isnan(table.name_diversity.item())


def test_name_of_two_instances_in_one_sample_is_used_in_one_sample() -> None:
    table, _ = one_image(example([(5, A), (5, B)]), [[mention(5, A, "sofa"), mention(5, B, "sofa")], []])
    assert table.named.tolist() == [[0, 1, 0]]
    assert (table.present.item(), table.choices.item(), table.distinct_names.item()) == (1, 2, 1)


@pytest.mark.parametrize(("names", "draws"), [(2, 2), (3, 4), (4, 3)])
def test_name_diversity_is_unbiased(names: int, draws: int) -> None:
    # The mean over all equally likely samples is the population's 1 - 1/S, whatever their number.
    outcomes = list(product("abcd"[:names], repeat=draws))
    images = [example([(5, A)], image_id) for image_id in range(len(outcomes))]
    samples = [[parsed([mention(5, A, name)]) for name in outcome] for outcome in outcomes]
    table, _ = tables(images, samples, CATEGORIES)
    assert len(table.image) == names**draws
    assert table.name_diversity.mean() == pytest.approx(1 - 1 / names)


def test_equal_answers_have_exactly_no_diversity() -> None:
    box = (0.1, 0.2, 3.3, 4.4)
    table, per_image = one_image(example([(5, box)]), [[mention(5, box, "sofa")]] * 7)
    assert (table.name_diversity.item(), table.box_spread.item()) == (0.0, 0.0)
    assert per_image.unique_sequences.item() == per_image.unique_name_sequences.item() == 1 / 7


def test_image_table_of_a_hand_derived_image() -> None:
    # Names in order: (a, b), (a, b) with another box, (b, a), (a,) -> 3 of 4 name sequences, 4 of 4 contents.
    # Order: samples 1, 2 agree; 1, 3 and 2, 3 disagree; sample 4 verifies one object only -> 2/3.
    image = example([(5, A), (7, B)], negative=[8])
    samples = [
        [mention(5, A, "a"), mention(7, B, "b")],
        [mention(5, (0, 0, 10, 9), "a"), mention(7, B, "b")],
        [mention(7, B, "b"), mention(5, A, "a")],
        [mention(5, A, "a")],
    ]
    _, table = one_image(image, samples)
    assert (table.samples.item(), table.mentions.item()) == (4, 7)
    assert (table.unique_name_sequences.item(), table.unique_sequences.item()) == (0.75, 1.0)
    assert table.order_distance.item() == pytest.approx(2 / 3)
    wrong = (table.duplicates, table.hallucinations, table.unknown_names, table.malformed, table.truncated)
    assert [column.item() for column in wrong] == [0.0] * 5


def test_image_table_counts_what_is_wrong() -> None:
    image = example([(5, A), (7, B)], negative=[8], not_exhaustive=[7])
    mentions = [
        mention(5, A),
        mention(5, A),  # duplicate
        mention(7, B),
        mention(7, B),  # the same in a category that is not annotated exhaustively: neither right nor wrong
        mention(8, C),  # hallucination
        mention(None, C, "zzz"),  # unknown
    ]
    _, table = tables([image], [[parsed(mentions, malformed=2, truncated=True)] * 2], CATEGORIES)
    counts = (table.mentions, table.verified_mentions, table.neutral_mentions)
    assert [column.item() for column in counts] == [12, 4, 2]
    assert [column.item() for column in (table.duplicates, table.hallucinations, table.unknown_names)] == [2, 2, 2]
    assert (table.malformed.item(), table.truncated.item(), table.order_distance.item()) == (4, 2, 0.0)
    assert table.unique_name_sequences.item() == table.unique_sequences.item() == 0.5


def test_images_without_anything_have_no_rows_and_undefined_figures() -> None:
    table, per_image = tables([example([], 1), example([], 2)], [[parsed([])] * 3] * 2, CATEGORIES)
    assert (len(table.image), table.verified.shape, table.named.shape) == (0, (0, 4), (0, 4))
    assert per_image.mentions.tolist() == [0, 0]
    np.testing.assert_allclose(per_image.unique_sequences, [1 / 3, 1 / 3])
    for name in ("order_distance", "self_bleu", "distinct_1", "distinct_2"):
        assert np.isnan(getattr(per_image, name)).all(), name


def test_text_figures_are_those_of_the_text_module_and_can_be_left_out() -> None:
    image = example([(5, A), (7, B)])
    answers = [[mention(5, A, name), mention(7, B, "bed")] for name in ("sofa", "couch", "sofa")]
    given = columns([image], [[parsed(mentions) for mentions in answers]], CATEGORIES)
    # codes: bed 0, couch 1, sofa 2
    sequences = text.NameSequences(np.zeros(6, np.int64), np.repeat(range(3), 2), np.array([2, 0, 1, 0, 2, 0]), 1, 3)
    table = image_table(*given)
    assert table.self_bleu == pytest.approx(text.self_bleu(sequences))
    assert table.distinct_1 == pytest.approx(3 / 6)
    assert table.distinct_2 == pytest.approx(2 / 3)
    assert table.vendi == pytest.approx(text.vendi(sequences))
    without = image_table(*given, text=False)
    for name in ImageTable.__dataclass_fields__:
        left_out = name in ("self_bleu", "distinct_1", "distinct_2", "vendi")
        expected = np.array([np.nan]) if left_out else getattr(table, name)
        np.testing.assert_array_equal(getattr(without, name), expected, err_msg=name)


# ---- order distance and coverage ------------------------------------------------------------------------------------


def distance_of(orders: Sequence[Sequence[int]]) -> float:
    """order_distance of orders over the ids 0 to 5, each in the order in which a sample mentions them."""
    position = np.full((len(orders), 6), np.nan)
    for sample, order in enumerate(orders):
        position[sample, list(order)] = np.arange(len(order))
    return order_distance(position).item()


def test_order_distance_of_hand_derived_orders() -> None:
    assert distance_of([[1, 2, 3], [1, 2, 3]]) == 0.0
    assert distance_of([[1, 2, 3], [3, 2, 1]]) == 1.0
    assert distance_of([[1, 2, 3], [1, 3, 2]]) == pytest.approx(1 / 3)
    # Samples 1, 2 share {1, 2} in opposite order: 1; samples 1, 3 share {1, 3}: 0; samples 2, 3 share only 1.
    assert distance_of([[1, 2, 3], [2, 1], [1, 3]]) == 0.5
    assert np.isnan(distance_of([[1, 2], [1, 3]]))
    assert np.isnan(distance_of([[], []]))


def order_distance_by_loops(orders: Sequence[Sequence[int]]) -> float:
    distances = []
    for a, b in combinations(orders, 2):
        pairs = list(combinations([i for i in a if i in b], 2))
        if pairs:
            distances.append(sum(b.index(i) > b.index(j) for i, j in pairs) / len(pairs))
    return mean(distances)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), unique=True, max_size=6), min_size=1, max_size=5))
def test_order_distance_equals_the_definition(orders: list[list[int]]) -> None:
    assert distance_of(orders) == pytest.approx(order_distance_by_loops(orders), nan_ok=True)


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


# ---- every column against its definition ----------------------------------------------------------------------------


def random_case(apart: float = 0.0) -> tuple[list[Example], list[list[Parsed]]]:
    """20 images with 5 instances, `apart` pixels from each other, and 4 samples. No two IoUs are equal."""
    rng = np.random.default_rng(0)
    examples, answers = [], []
    for image_id in range(20):
        boxes = [rng.uniform((i * apart, 0, 8, 8), (i * apart + 20, 20, 16, 16)) for i in range(5)]
        objects = [(int(rng.choice([5, 7])), _box(box)) for box in boxes]
        examples.append(example(objects, image_id, negative=[8], not_exhaustive=[7]))
        answers.append([_sample(rng, objects) for _ in range(4)])
    return examples, answers


def _box(sides: np.ndarray[tuple[int], np.dtype[np.float64]]) -> XYWH:
    x, y, w, h = sides.tolist()
    return x, y, w, h


def _sample(rng: np.random.Generator, objects: Sequence[tuple[int, XYWH]]) -> Parsed:
    chosen = [objects[index] for index in rng.integers(0, len(objects), 6)]  # some of them twice
    names = {5: ("sofa", "couch"), 7: ("bed",)}
    mentions = [mention(c, _box(box + rng.normal(0, 0.5, 4)), str(rng.choice(names[c]))) for c, box in chosen]
    return parsed([*mentions, mention(8, (0, 0, 9, 9), "cup")])


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def pair_mean(values: Sequence[object], distance: Callable[[object, object], float]) -> list[float]:
    """[the mean distance over all pairs], or [] without a pair."""
    pairs = [distance(a, b) for a, b in combinations(values, 2)]
    return [mean(pairs)] if pairs else []


def spread(a: object, b: object) -> float:
    assert isinstance(a, Box)
    assert isinstance(b, Box)
    return 1 - float(iou_matrix(box_array([a]), box_array([b])).item())


def category_rows_by_definition(image: Example, samples: Sequence[Parsed]) -> list[dict[str, Any]]:
    """The rows of one image from what `match_sample` says, in plain Python."""
    k = len(samples)
    verifying = [
        {
            match.instance_id: item
            for item, match in zip(sample.mentions, match_sample(image, sample.mentions), strict=True)
        }
        for sample in samples
    ]
    rows = []
    for category in sorted({instance.category_id for instance in image.instances}):
        ids = [instance.id for instance in image.instances if instance.category_id == category]
        by_instance = [[by_id[i] for by_id in verifying if i in by_id] for i in ids]
        names = [{by_id[i].name for i in ids if i in by_id} for by_id in verifying]  # per sample
        everything = set().union(*names)
        times = [sum(name in of_sample for of_sample in names) for name in everything]
        rows.append(
            {
                "category": category,
                "verified": [sum(len(verifying_it) == v for verifying_it in by_instance) for v in range(k + 1)],
                "named": [times.count(v) if v else 0 for v in range(k + 1)],
                "present": sum(bool(of_sample) for of_sample in names),
                "choices": sum(len({item.name for item in verifying_it}) for verifying_it in by_instance),
                "distinct_names": len(everything) or np.nan,
                "name_diversity": mean(
                    [
                        x
                        for verifying_it in by_instance
                        for x in pair_mean([m.name for m in verifying_it], lambda a, b: float(a != b))
                    ]
                ),
                "box_spread": mean(
                    [x for verifying_it in by_instance for x in pair_mean([m.box for m in verifying_it], spread)]
                ),
            }
        )
    return rows


@settings(max_examples=60, deadline=None)
@given(cases())
@example_of_hypothesis(random_case())
def test_category_table_equals_the_definition(case: Case) -> None:
    images, samples = case
    table, _ = tables(images, samples, CATEGORIES)
    row = 0
    for index, (image, of_image) in enumerate(zip(images, samples, strict=True)):
        for expected in category_rows_by_definition(image, of_image):
            assert table.image[row] == index
            assert CATEGORIES[table.category[row]].id == expected.pop("category")
            for name, value in expected.items():
                np.testing.assert_allclose(getattr(table, name)[row], value, atol=1e-12, err_msg=name)
            row += 1
    assert row == len(table.image)


def image_row_by_definition(image: Example, samples: Sequence[Parsed]) -> dict[str, float]:
    matched = [match_sample(image, sample.mentions) for sample in samples]
    every = [match for of_sample in matched for match in of_sample]
    contents = [tuple((m.name, m.box) for m in sample.mentions) for sample in samples]
    orders = [[match.instance_id for match in of_sample if match.instance_id is not None] for of_sample in matched]
    return {
        "samples": len(samples),
        "mentions": len(every),
        "verified_mentions": sum(match.verified for match in every),
        "neutral_mentions": sum(match.neutral for match in every),
        "duplicates": sum(match.duplicate and not match.neutral for match in every),
        "hallucinations": sum(match.hallucination for match in every),
        "unknown_names": sum(match.unknown for match in every),
        "malformed": sum(sample.malformed for sample in samples),
        "truncated": sum(sample.truncated for sample in samples),
        "unique_name_sequences": len({tuple(m.name for m in sample.mentions) for sample in samples}) / len(samples),
        "unique_sequences": len(set(contents)) / len(samples),
        "order_distance": order_distance_by_loops(orders),
    }


@settings(max_examples=60, deadline=None)
@given(cases())
@example_of_hypothesis(random_case())
def test_image_table_equals_the_definition(case: Case) -> None:
    images, samples = case
    _, table = tables(images, samples, CATEGORIES)
    for index, (image, of_image) in enumerate(zip(images, samples, strict=True)):
        for name, value in image_row_by_definition(image, of_image).items():
            np.testing.assert_allclose(getattr(table, name)[index], value, err_msg=name)


# ---- invariants -----------------------------------------------------------------------------------------------------


def assert_equal(a: object, b: object, leave_out: Sequence[str] = ()) -> None:
    for name in a.__dataclass_fields__.keys() - set(leave_out):  # type: ignore[attr-defined]
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-12, err_msg=name)


def test_order_of_mentions_within_samples_changes_sequence_figures_only() -> None:
    images, samples = random_case()
    rng = np.random.default_rng(1)
    shuffled = [
        [
            replace(sample, mentions=tuple(sample.mentions[i] for i in rng.permutation(len(sample.mentions))))
            for sample in image
        ]
        for image in samples
    ]
    (table, per_image), (again, per_image_again) = (
        tables(images, answers, CATEGORIES) for answers in (samples, shuffled)
    )
    assert_equal(table, again)
    ordered = ["unique_sequences", "unique_name_sequences", "order_distance", "self_bleu", "distinct_2", "vendi"]
    ordered += ["distinct_ways", "way_diversity"]
    assert_equal(per_image, per_image_again, ordered)
    assert not np.allclose(per_image.order_distance, per_image_again.order_distance)


def test_order_of_samples_does_not_matter() -> None:
    images, samples = random_case()
    for table, again in zip(
        tables(images, samples, CATEGORIES),
        tables(images, [of_image[::-1] for of_image in samples], CATEGORIES),
        strict=True,
    ):
        assert_equal(table, again)


def test_images_do_not_see_each_other() -> None:
    images, samples = random_case()
    table, per_image = tables(images, samples, CATEGORIES)
    parts = [tables(images[part], samples[part], CATEGORIES) for part in (slice(0, 7), slice(7, 20))]
    fields = [name for name in CategoryTable.__dataclass_fields__ if name not in ("n_images", "names", "image")]
    for name in fields:
        joined = np.concatenate([getattr(part, name) for part, _ in parts])
        np.testing.assert_array_equal(getattr(table, name), joined, err_msg=name)
    for name in ImageTable.__dataclass_fields__:
        joined = np.concatenate([getattr(part, name) for _, part in parts])
        np.testing.assert_allclose(getattr(per_image, name), joined, err_msg=name)


def test_repeated_mentions_count_as_duplicates_and_as_nothing_else() -> None:
    images, samples = random_case(apart=40.0)  # a copy cannot verify a neighbour
    twice = [[replace(sample, mentions=sample.mentions + sample.mentions[:6]) for sample in image] for image in samples]
    (table, per_image), (again, per_image_again) = (tables(images, answers, CATEGORIES) for answers in (samples, twice))
    assert_equal(table, again)
    text_figures = ["self_bleu", "distinct_1", "distinct_2", "vendi"]
    assert_equal(per_image, per_image_again, ["mentions", "neutral_mentions", "duplicates", *text_figures])
    assert (per_image_again.mentions == per_image.mentions + 4 * 6).all()
    assert (per_image_again.duplicates > per_image.duplicates).all()


def test_codes_of_names_do_not_matter() -> None:
    truth, answers, verification = columns(*random_case(), CATEGORIES)
    codes = np.array([2**60, -5, 7, 0])  # of bed, couch, cup, sofa
    other = replace(answers, mentions=replace(answers.mentions, name=codes[answers.mentions.name]))
    assert_equal(category_table(truth, answers, verification, NAMES), category_table(truth, other, verification, NAMES))
    assert_equal(image_table(truth, answers, verification), image_table(truth, other, verification))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    verified_answers: tuple[Truth, Answers, Verification] = columns(*random_case(), CATEGORIES)
    table, per_image = category_table(*verified_answers, NAMES), image_table(*verified_answers)
    monkeypatch.setattr(diversity, "CHUNK", 3)
    monkeypatch.setattr(diversity, "SIGNS", 90)
    assert_equal(category_table(*verified_answers, NAMES), table)
    assert_equal(image_table(*verified_answers), per_image)


def test_categories_are_those_of_the_benchmark() -> None:
    with pytest.raises(KeyError):
        tables([example([(5, A)])], [[parsed([])]], [Category(7, ("bed",), None)])
