"""Every column against its definition in plain loops, on random images; and what changes no figure."""

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

from harness.metrics.samples import diversity
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
from harness.types import Box, Category, Example, Parsed
from tests.metrics.builders import CATEGORIES, XYWH, cases, columns, example, mention, parsed, tables

NAMES = np.array([2, 1, 3])  # of CATEGORIES
Case = tuple[list[Example], list[list[Parsed]]]

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


@settings(max_examples=80)
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


@settings(max_examples=60)
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


@settings(max_examples=60)
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
        tables([example([(5, (0, 0, 10, 10))])], [[parsed([])]], [Category(7, ("bed",), None)])
