from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from harness.metrics.aggregate import (
    by_frequency,
    category_figures,
    category_table,
    image_figures,
    image_table,
    mean_defined,
    normalise,
    support,
)
from harness.metrics.diversity import CategoryRow, ImageRow, category_rows
from harness.metrics.stats import bootstrap_weights
from harness.types import Category
from tests.metrics.builders import XYWH, example, matched_samples, mention

CATEGORIES = (
    Category(5, ("sofa", "couch"), "f"),
    Category(7, ("bed",), "c"),
    Category(8, ("cup", "mug", "glass"), "r"),
)
# K = 4 samples. Category 5 is in images 10 and 30, category 7 in image 10, category 8 nowhere.
ROWS = (
    CategoryRow(10, 5, 2, (4, 1), name_diversity=0.5, distinct_names=2, box_spread=0.1),
    CategoryRow(10, 7, 1, (4,), name_diversity=0.0, distinct_names=1, box_spread=0.0),
    CategoryRow(30, 5, 1, (0,), name_diversity=None, distinct_names=None, box_spread=None),
)
IMAGES = (30, 20, 10)
TABLE = category_table(ROWS, IMAGES, CATEGORIES, samples=4)


def test_category_figures_of_hand_derived_rows() -> None:
    figures = category_figures(TABLE)
    # recall of 5: (4 + 1 + 0) / (4 * 3). coverage@2: v=4 -> 1; v=1 -> 1 - C(3,2)/C(4,2) = 1/2; v=0 -> 0.
    expected = {
        "recall": [5 / 12, 1.0],
        "coverage@1": [5 / 12, 1.0],
        "coverage@2": [1.5 / 3, 1.0],
        "coverage@4": [2 / 3, 1.0],
        "name_diversity": [0.5, 0.0],
        "normalised_name_diversity": [1.0, np.nan],  # S = 2: 0.5 / 0.5; S = 1: undefined
        "distinct_names": [2.0, 1.0],
        "box_spread": [0.1, 0.0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(figures[name], [[*values, np.nan]], err_msg=name)


def test_support_counts_the_images_a_figure_rests_on() -> None:
    counts = support(TABLE)
    assert counts["recall"].tolist() == [2, 1, 0]
    assert counts["name_diversity"].tolist() == [1, 1, 0]
    assert counts["normalised_name_diversity"].tolist() == [1, 0, 0]


def test_undefined_category_drops_out_of_its_replicate_only() -> None:
    # Columns are images 30, 20, 10. Without image 10, category 5 has no defined diversity and 7 no instance.
    figures = category_figures(TABLE, np.array([[1.0, 1, 1], [2, 1, 0], [0, 3, 0]]))
    np.testing.assert_allclose(mean_defined(figures["name_diversity"]), [0.25, np.nan, np.nan])
    np.testing.assert_allclose(mean_defined(figures["recall"]), [(5 / 12 + 1) / 2, 0.0, np.nan])


def test_weights_act_as_repeated_images() -> None:
    rng = np.random.default_rng(1)
    rows = [
        CategoryRow(i, c, 2, tuple(rng.integers(0, 5, 2)), rng.random(), 1 + int(rng.integers(3)), None)
        for i in range(8)
        for c in (5, 7, 8)
        if rng.random() < 0.6
    ]
    weights = bootstrap_weights(8, replicates=5, seed=0)
    weighted = category_figures(category_table(rows, range(8), CATEGORIES, 4), weights)
    for replicate, drawn in enumerate(weights):
        copies = np.repeat(np.arange(8), drawn.astype(int))
        repeated = [
            CategoryRow(new, *(getattr(row, name) for name in list(CategoryRow.__dataclass_fields__)[1:]))
            for new, old in enumerate(copies)
            for row in rows
            if row.image_id == old
        ]
        expected = category_figures(category_table(repeated, range(8), CATEGORIES, 4))
        for name, values in expected.items():
            np.testing.assert_allclose(weighted[name][replicate], values[0], err_msg=name)


def test_normalised_diversity_is_never_clamped() -> None:
    values = normalise(np.array([1.0, 0.3, 0.75]), np.array([2, 1, 4]))
    np.testing.assert_allclose(values, [2.0, np.nan, 1.0])


def test_oracles_bound_name_diversity() -> None:
    # The uniform oracle's mean is 1 (5 standard errors), the collapsed one's exactly 0 under every weighting.
    rng = np.random.default_rng(0)
    box: XYWH = (1, 2, 3, 4)
    rows: dict[str, list[CategoryRow]] = {"uniform": [], "collapsed": []}
    for image_id in range(300):
        category = CATEGORIES[rng.choice([0, 2])]
        image = example([(category.id, box)], image_id=image_id)
        chosen: dict[str, Sequence[str]] = {
            "uniform": rng.choice(category.names, 8).tolist(),
            "collapsed": [category.name] * 8,
        }
        for oracle, names in chosen.items():
            samples = [[mention(category.id, box, name)] for name in names]
            rows[oracle] += category_rows(image, matched_samples(image, samples))
    weights = bootstrap_weights(300, replicates=50, seed=0)
    figures = {
        oracle: category_figures(category_table(found, range(300), CATEGORIES, 8), weights)
        for oracle, found in rows.items()
    }
    uniform = mean_defined(figures["uniform"]["normalised_name_diversity"])
    assert abs(uniform.mean() - 1.0) < 5 * uniform.std()
    assert uniform.std() < 0.03
    assert (mean_defined(figures["collapsed"]["normalised_name_diversity"]) == 0.0).all()
    assert all((mean_defined(figure["recall"]) == 1.0).all() for figure in figures.values())


def _image_row(image_id: int, mentions: int, unique: float, order: float | None) -> ImageRow:
    return ImageRow(image_id, 4, mentions, 2, 1, 3, 1, 2, unique, 1.0, order)


def test_image_figures_of_hand_derived_rows() -> None:
    table = image_table([_image_row(1, 9, 0.25, None), _image_row(2, 0, 0.75, 0.5)], image_ids=(2, 1))
    figures = image_figures(table, np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 2.0]]))  # columns: images 2, 1
    np.testing.assert_allclose(figures["unique_name_sequences"], [0.5, 0.75, 0.25])
    np.testing.assert_allclose(figures["order_distance"], [0.5, 0.5, np.nan])
    np.testing.assert_allclose(figures["duplicate_rate"], [4 / 9, np.nan, 2 / 9])
    np.testing.assert_allclose(figures["hallucination_rate"], [2 / 9, np.nan, 1 / 9])
    np.testing.assert_allclose(figures["unknown_name_rate"], [6 / 9, np.nan, 3 / 9])
    np.testing.assert_allclose(figures["malformed_rate"], [2 / 11, 1.0, 0.1])
    np.testing.assert_allclose(figures["truncation_rate"], [0.5, 0.5, 0.5])
    np.testing.assert_allclose(image_figures(table)["duplicate_rate"], [4 / 9])


def test_image_table_wants_every_image_once() -> None:
    row = _image_row(1, 9, 0.25, None)
    for rows in ([], [row, row]):
        with pytest.raises(ValueError, match="one row for each of 1 images"):
            image_table(rows, image_ids=(1,))


def test_by_frequency_takes_unweighted_means_of_defined_categories() -> None:
    values = np.array([[0.2, 0.4, np.nan, 0.9], [np.nan, 0.4, np.nan, 0.1]])
    means = by_frequency(values, ["f", "f", "c", None])
    np.testing.assert_allclose(means["all"], [0.5, 0.25])
    np.testing.assert_allclose(means["f"], [0.3, 0.4])
    np.testing.assert_allclose(means["c"], [np.nan, np.nan])
    np.testing.assert_allclose(means["r"], [np.nan, np.nan])
