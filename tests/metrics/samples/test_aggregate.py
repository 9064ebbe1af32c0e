from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from harness.metrics.samples.aggregate import (
    by_frequency,
    category_figures,
    image_figures,
    mean_defined,
    normalise,
    support,
)
from harness.metrics.samples.diversity import CategoryTable, ImageTable
from harness.metrics.samples.matching import match_sample
from harness.metrics.samples.mentions import Integers
from harness.metrics.stats import bootstrap_weights
from harness.types import Example, Parsed
from tests.metrics.builders import CATEGORIES, XYWH, cases, example, mention, parsed, tables

# K = 4 samples. Category 5 (two names) is in images 2 and 0, category 7 (one name) in image 2, category 8 nowhere.
# Image 2, category 5: one instance was verified 4 times, one once; sofa occurs in all samples, couch in one of them.
TABLE = CategoryTable(
    n_images=3,
    names=np.array([2, 1, 3]),
    image=np.array([0, 2, 2]),
    category=np.array([0, 0, 1]),
    verified=np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1]]),
    named=np.array([[0.0, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1]]),
    present=np.array([0.0, 4, 4]),
    choices=np.array([0.0, 3, 1]),
    name_diversity=np.array([np.nan, 0.5, 0.0]),
    distinct_names=np.array([np.nan, 2, 1]),
    box_spread=np.array([np.nan, 0.1, 0.0]),
)


def test_category_figures_of_a_hand_derived_table() -> None:
    figures = category_figures(TABLE)
    # recall of 5: (4 + 1 + 0) / (4 * 3). coverage@2: v=4 -> 1; v=1 -> 1 - C(3,2)/C(4,2) = 1/2; v=0 -> 0.
    # Of any k samples all have a verified mention of 5 in image 2, and none in image 0: denominator 1. Sofa is always
    # there, couch in 1/4, 1/2, 1 of the subsets of 1, 2, 4 samples. 3 of 3 instances x 2 names were reached.
    expected = {
        "recall": [5 / 12, 1.0],
        "coverage@1": [5 / 12, 1.0],
        "coverage@2": [1.5 / 3, 1.0],
        "coverage@4": [2 / 3, 1.0],
        "name_diversity": [0.5, 0.0],
        "normalised_name_diversity": [1.0, np.nan],  # S = 2: 0.5 / 0.5; S = 1: undefined
        "distinct_names": [2.0, 1.0],
        "distinct_names@1": [1.25, 1.0],
        "distinct_names@2": [1.5, 1.0],
        "distinct_names@4": [2.0, 1.0],
        "cluster_coverage": [3 / 6, np.nan],  # S = 1: undefined
        "box_spread": [0.1, 0.0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(figures[name], [[*values, np.nan]], err_msg=name)
    assert figures.keys() - expected.keys() == {"coverage@3", "distinct_names@3"}


def test_support_counts_the_images_a_figure_rests_on() -> None:
    counts = support(TABLE)
    assert counts.keys() == category_figures(TABLE).keys()
    assert counts["recall"].tolist() == [2, 1, 0]
    assert counts["name_diversity"].tolist() == counts["distinct_names@3"].tolist() == [1, 1, 0]
    assert counts["normalised_name_diversity"].tolist() == [1, 0, 0]
    assert counts["cluster_coverage"].tolist() == [2, 0, 0]


def test_what_an_old_record_does_not_know_is_undefined_and_rests_on_nothing() -> None:
    unknown = np.full(3, np.nan)
    old = replace(TABLE, named=np.full((3, 5), np.nan), present=unknown, choices=unknown)
    figures, expected = category_figures(old), category_figures(TABLE)
    for name, values in figures.items():
        if name.startswith("distinct_names@") or name == "cluster_coverage":
            assert np.isnan(values).all(), name
            assert support(old)[name].tolist() == [0, 0, 0]
        else:
            np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_rows_that_are_not_known_drop_out() -> None:
    # Image 0 has one instance of category 5: without it 3 of 2 instances x 2 names were reached.
    named, present, choices = TABLE.named.copy(), TABLE.present.copy(), TABLE.choices.copy()
    named[0] = present[0] = choices[0] = np.nan
    figures = category_figures(replace(TABLE, named=named, present=present, choices=choices))
    np.testing.assert_allclose(figures["distinct_names@2"], [[1.5, 1.0, np.nan]])
    np.testing.assert_allclose(figures["cluster_coverage"], [[3 / 4, np.nan, np.nan]])


def test_undefined_category_drops_out_of_its_replicate_only() -> None:
    # Columns are images. Without image 2, category 5 has no defined diversity and 7 no instance.
    figures = category_figures(TABLE, np.array([[1.0, 1, 1], [2, 1, 0], [0, 3, 0]]))
    np.testing.assert_allclose(mean_defined(figures["name_diversity"]), [0.25, np.nan, np.nan])
    np.testing.assert_allclose(mean_defined(figures["distinct_names@2"]), [1.25, np.nan, np.nan])
    np.testing.assert_allclose(mean_defined(figures["recall"]), [(5 / 12 + 1) / 2, 0.0, np.nan])


def _simulated(images: int, samples: int = 4) -> tuple[list[Example], list[list[Parsed]]]:
    """Two places in each image; a sample mentions each with probability 0.7 and by a random name."""
    rng = np.random.default_rng(1)
    boxes: tuple[XYWH, ...] = ((0, 0, 10, 10), (20, 0, 10, 10))
    examples, answers = [], []
    for image_id in range(images):
        chosen = [CATEGORIES[index] for index in rng.integers(0, 3, 2)]
        examples.append(example([(c.id, box) for c, box in zip(chosen, boxes, strict=True)], image_id))
        samples_of_image = []
        for _ in range(samples):
            objects = [
                mention(c.id, box, str(rng.choice(c.names)))
                for c, box in zip(chosen, boxes, strict=True)
                if rng.random() < 0.7
            ]
            samples_of_image.append(parsed(objects, malformed=int(rng.integers(2))))
        answers.append(samples_of_image)
    return examples, answers


def _repeated(table: CategoryTable, copies: Integers) -> CategoryTable:
    """The rows of images `copies`, each copy an image of its own."""
    rows = [np.flatnonzero(table.image == old) for old in copies]
    image = np.repeat(np.arange(len(copies)), [len(rows_of_copy) for rows_of_copy in rows])
    taken = np.concatenate(rows)
    shared = {"n_images": len(copies), "names": table.names, "image": image}
    fields: dict[str, Any] = {
        name: getattr(table, name)[taken] for name in CategoryTable.__dataclass_fields__ if name not in shared
    }
    return CategoryTable(**fields, **shared)  # type: ignore[arg-type]


def test_weights_act_as_repeated_images() -> None:
    table, per_image = tables(*_simulated(8), CATEGORIES)
    weights = bootstrap_weights(8, replicates=5, seed=0)
    weighted, weighted_images = category_figures(table, weights), image_figures(per_image, weights)
    for replicate, drawn in enumerate(weights):
        copies = np.repeat(np.arange(8), drawn.astype(int))
        for name, values in category_figures(_repeated(table, copies)).items():
            np.testing.assert_allclose(weighted[name][replicate], values[0], err_msg=name)
        repeated = ImageTable(**{name: getattr(per_image, name)[copies] for name in ImageTable.__dataclass_fields__})
        for name, values in image_figures(repeated).items():
            np.testing.assert_allclose(weighted_images[name][replicate], values[0], err_msg=name)


def _names(image: Example, samples: Sequence[Parsed], category_id: int) -> list[list[tuple[int, str]]]:
    """(instance id, name) of the verified mentions of a category, per sample."""
    return [
        [
            (match.instance_id, item.name)
            for item, match in zip(sample.mentions, match_sample(image, sample.mentions), strict=True)
            if match.instance_id is not None and item.category_id == category_id
        ]
        for sample in samples
    ]


def _figures_by_definition(images: Sequence[Example], samples: Sequence[Sequence[Parsed]], k: int) -> list[list[float]]:
    """coverage@k, distinct_names@k and cluster_coverage of each category, over all k-subsets of the samples."""
    result: list[list[float]] = []
    for category in CATEGORIES:
        instances = names = present = covered = choices = 0.0
        for image, of_image in zip(images, samples, strict=True):
            named = _names(image, of_image, category.id)
            instances += sum(item.category_id == category.id for item in image.instances)
            choices += len({pair for sample in named for pair in sample})
            subsets = [[pair for sample in chosen for pair in sample] for chosen in combinations(named, k)]
            names += sum(len({name for _, name in subset}) for subset in subsets) / len(subsets)
            covered += sum(len({instance for instance, _ in subset}) for subset in subsets) / len(subsets)
            present += sum(bool(subset) for subset in subsets) / len(subsets)
        s = len(category.names)
        result.append(
            [
                covered / instances if instances else np.nan,
                names / present if present else np.nan,
                choices / (instances * s) if instances and s > 1 else np.nan,
            ]
        )
    return result


@settings(max_examples=50)
@given(cases())
def test_figures_equal_averages_over_all_subsets(case: tuple[list[Example], list[list[Parsed]]]) -> None:
    images, samples = case
    figures = category_figures(tables(images, samples, CATEGORIES)[0])
    for k in range(1, len(samples[0]) + 1):
        actual = [figures[name][0] for name in (f"coverage@{k}", f"distinct_names@{k}", "cluster_coverage")]
        expected = np.array(_figures_by_definition(images, samples, k)).T
        np.testing.assert_allclose(actual, expected, atol=1e-12)


@settings(max_examples=50)
@given(cases())
def test_all_samples_give_the_plain_mean_of_distinct_names(case: tuple[list[Example], list[list[Parsed]]]) -> None:
    figures = category_figures(tables(*case, CATEGORIES)[0])
    np.testing.assert_allclose(figures[f"distinct_names@{len(case[1][0])}"], figures["distinct_names"])


def test_rarefied_names_do_not_depend_on_the_number_of_samples() -> None:
    # The first 4 of 8 samples estimate distinct_names@2 as the 8 do; the plain count grows.
    images, samples = _simulated(400, samples=8)
    few = category_figures(tables(images, [of_image[:4] for of_image in samples], CATEGORIES)[0])
    many = category_figures(tables(images, samples, CATEGORIES)[0])
    np.testing.assert_allclose(few["distinct_names@2"], many["distinct_names@2"], atol=0.03)
    assert (many["distinct_names"][0, [0, 2]] > few["distinct_names"][0, [0, 2]] + 0.03).all()
    assert (many["cluster_coverage"][0, [0, 2]] > few["cluster_coverage"][0, [0, 2]] + 0.03).all()


def test_normalised_diversity_is_never_clamped() -> None:
    values = normalise(np.array([1.0, 0.3, 0.75]), np.array([2, 1, 4]))
    np.testing.assert_allclose(values, [2.0, np.nan, 1.0])


def test_oracles_bound_every_figure() -> None:
    # One object, K = 8. The uniform oracle's mean of each figure lies within 5 standard errors of its expectation: S
    # names of which k draws reach S (1 - (1 - 1/S)^k). The collapsed one's figures are exact under every weighting.
    rng = np.random.default_rng(0)
    box: XYWH = (1, 2, 3, 4)
    images: list[Example] = []
    answers: dict[str, list[list[Parsed]]] = {"uniform": [], "collapsed": []}
    for image_id in range(300):
        category = CATEGORIES[rng.choice([0, 2])]
        images.append(example([(category.id, box)], image_id=image_id))
        for oracle, names in (("uniform", rng.choice(category.names, 8)), ("collapsed", [category.name] * 8)):
            answers[oracle].append([parsed([mention(category.id, box, str(name))]) for name in names])
    weights = bootstrap_weights(300, replicates=50, seed=0)
    made = {oracle: tables(images, samples, CATEGORIES) for oracle, samples in answers.items()}
    uniform, collapsed = (category_figures(made[oracle][0], weights) for oracle in answers)
    sizes = np.array([2, 3])
    expected = {"normalised_name_diversity": np.ones(2), "box_spread": np.zeros(2), "recall": np.ones(2)}
    for k in (1, 2, 8):
        expected[f"distinct_names@{k}"] = sizes * (1 - (1 - 1 / sizes) ** k)
    expected["cluster_coverage"] = expected["distinct_names@8"] / sizes
    for name, values in expected.items():
        error = uniform[name][:, [0, 2]].std(axis=0)
        assert (abs(uniform[name][:, [0, 2]].mean(axis=0) - values) <= 5 * error + 1e-12).all(), name
        assert (error < 0.05).all(), name
        assert (error > 1e-12).all() == (name not in ("box_spread", "recall", "distinct_names@1")), name
    for name, value in {
        "normalised_name_diversity": 0,
        "distinct_names@2": 1,
        "distinct_names": 1,
        "recall": 1,
    }.items():
        assert (collapsed[name][:, [0, 2]] == value).all(), name
    np.testing.assert_allclose(collapsed["cluster_coverage"][:, [0, 2]], np.broadcast_to(1 / sizes, (50, 2)))
    per_image = {oracle: image_figures(table) for oracle, (_, table) in made.items()}
    for name, floor in {"self_bleu": 1.0, "distinct_1": 1 / 8, "vendi": 1.0, "unique_sequences": 1 / 8}.items():
        assert per_image["collapsed"][name].item() == pytest.approx(floor), name
        above = per_image["uniform"][name].item() - floor
        assert above < 0 if name == "self_bleu" else above > 0.1, name


def test_image_figures_of_a_hand_derived_table() -> None:
    same: dict[str, list[float]] = {
        "samples": [4, 4],
        "duplicates": [2, 2],
        "hallucinations": [1, 1],
        "unknown_names": [3, 3],
    }
    columns: dict[str, list[float]] = same | {
        "mentions": [0, 9],
        "verified_mentions": [0, 3],
        "neutral_mentions": [0, 1],
        "malformed": [1, 1],
        "truncated": [2, 2],
        "lenient": [0, 2],
        "unique_name_sequences": [0.75, 0.25],
        "unique_sequences": [1, 0.5],
        "order_distance": [0.5, np.nan],
        "self_bleu": [np.nan, 0.2],
        "distinct_1": [np.nan, 0.4],
        "distinct_2": [0.1, 0.3],
        "vendi": [1, 3],
        "distinct_ways": [np.nan, 2],
        "way_diversity": [np.nan, 0.6],
    }
    table = ImageTable(**{name: np.array(values, dtype=np.float64) for name, values in columns.items()})
    figures = image_figures(table, np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 2.0]]))
    expected: dict[str, list[float]] = {
        "precision": [3 / 8, np.nan, 3 / 8],
        "unique_name_sequences": [0.5, 0.75, 0.25],
        "unique_sequences": [0.75, 1, 0.5],
        "order_distance": [0.5, 0.5, np.nan],
        "self_bleu": [0.2, np.nan, 0.2],
        "distinct_1": [0.4, np.nan, 0.4],
        "distinct_2": [0.2, 0.1, 0.3],
        "vendi": [2, 1, 3],
        "distinct_ways": [2, np.nan, 2],
        "way_diversity": [0.6, np.nan, 0.6],
        "duplicate_rate": [4 / 9, np.nan, 2 / 9],
        "hallucination_rate": [2 / 9, np.nan, 1 / 9],
        "unknown_name_rate": [6 / 9, np.nan, 3 / 9],
        "malformed_rate": [2 / 11, 1.0, 0.1],
        "truncation_rate": [0.5, 0.5, 0.5],
        "lenient_rate": [2 / 9, np.nan, 2 / 9],
    }
    assert figures.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(figures[name], values, err_msg=name)
    np.testing.assert_allclose(image_figures(table)["duplicate_rate"], [4 / 9])


def test_by_frequency_takes_unweighted_means_of_defined_categories() -> None:
    values = np.array([[0.2, 0.4, np.nan, 0.9], [np.nan, 0.4, np.nan, 0.1]])
    means = by_frequency(values, ["f", "f", "c", None])
    np.testing.assert_allclose(means["all"], [0.5, 0.25])
    np.testing.assert_allclose(means["f"], [0.3, 0.4])
    np.testing.assert_allclose(means["c"], [np.nan, np.nan])
    np.testing.assert_allclose(means["r"], [np.nan, np.nan])
