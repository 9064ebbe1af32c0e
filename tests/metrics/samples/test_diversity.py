"""Diversity of the samples of an image: tables of images that are derived by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from harness.metrics.samples import text
from harness.metrics.samples.diversity import (
    CategoryTable,
    ImageTable,
    image_table,
)
from harness.types import Example, Mention
from tests.metrics.builders import CATEGORIES, columns, example, mention, parsed, tables

A, B, C = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 10.0, 10.0), (40.0, 0.0, 10.0, 10.0)


def one_image(image: Example, samples: Sequence[Sequence[Mention]]) -> tuple[CategoryTable, ImageTable]:
    return tables([image], [[parsed(mentions) for mentions in samples]], CATEGORIES)


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
