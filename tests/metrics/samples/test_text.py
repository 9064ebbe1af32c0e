from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics.samples import text
from harness.metrics.samples.mentions import Floats
from harness.metrics.samples.text import NameSequences, distinct, self_bleu, vendi

Image = list[list[int]]  # the names of each of its K samples

FIGURES: list[Callable[[NameSequences], Floats]] = [
    self_bleu,
    lambda sequences: distinct(sequences, 1),
    lambda sequences: distinct(sequences, 2),
    vendi,
]


def images_of(samples: int) -> st.SearchStrategy[list[Image]]:
    """Few names, so that n-grams repeat, lengths tie and samples are empty often."""
    sample = st.lists(st.integers(0, 3), max_size=7)
    return st.lists(st.lists(sample, min_size=samples, max_size=samples), min_size=1, max_size=4)


SETS = st.integers(2, 5).flatmap(images_of)


def sequences(images: list[Image], samples: int | None = None) -> NameSequences:
    rows = [(i, k, name) for i, image in enumerate(images) for k, names in enumerate(image) for name in names]
    image, sample, name = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return NameSequences(image, sample, name, len(images), samples or len(images[0]))


def one(figure: Callable[[NameSequences], Floats], image: Image) -> float:
    return float(figure(sequences([image]))[0])


def test_self_bleu_of_a_hand_derived_image() -> None:
    # abcde against abdxy: 3 of 5 names match (a, b, d), 1 of 4 pairs (ab), none of 3 triples -> 1/2 of one,
    # none of 2 quadruples -> 1/4 of one. Lengths are equal. abdxy against abcde has the same counts.
    bleu = (3 / 5 * 1 / 4 * (1 / 2) / 3 * (1 / 4) / 2) ** (1 / 4)
    assert one(self_bleu, [[1, 2, 3, 4, 5], [1, 2, 4, 8, 9]]) == pytest.approx(bleu)


def test_self_bleu_charges_brevity_and_clips_repetitions() -> None:
    # "a" against "aaa" and "aaa": its only order matches wholly, BP = exp(1 - 3). "aaa" against "a" and "aaa":
    # everything matches, and of the reference lengths 1 and 3 the own one is closest. Empty samples do not count.
    assert one(self_bleu, [[1], [1] * 3, [], [1] * 3]) == pytest.approx((np.exp(-2) + 1 + 1) / 3)
    # "aaa" against "a": 1 of 3 names, no pair of 2 (1/2), no triple of 1 (1/4). "a" against "aaa": exp(-2).
    bleu = (1 / 3 * (1 / 2) / 2 * (1 / 4) / 1) ** (1 / 3)
    assert one(self_bleu, [[1], [1] * 3]) == pytest.approx((np.exp(-2) + bleu) / 2)


def test_of_two_reference_lengths_equally_close_the_shorter_counts() -> None:
    # ab has references a and abc: lengths 1 and 3 are equally close. With 1 there is no brevity penalty: BLEU 1.
    # a: against ab, abc, BP exp(1 - 2). abc: 3/3 names? c is in no other: 2/3, 1/2 pairs, no triple of 1 (1/2).
    # Its closest reference, ab, is shorter.
    expected = (1 + np.exp(-1) + (2 / 3 * 1 / 2 * (1 / 2)) ** (1 / 3)) / 3
    assert one(self_bleu, [[1, 2], [1], [1, 2, 3]]) == pytest.approx(expected)


@pytest.mark.parametrize("image", [[[], []], [[1, 2], []], [[1, 2]]])
def test_self_bleu_needs_two_samples_that_say_something(image: Image) -> None:
    assert np.isnan(one(self_bleu, image))


def sacrebleu_of(image: Image) -> float:
    texts = [" ".join(map(str, names)) for names in image if names]
    if len(texts) < 2:
        return np.nan
    scores = [
        sacrebleu.sentence_bleu(
            names, texts[:i] + texts[i + 1 :], smooth_method="exp", use_effective_order=True, tokenize="none"
        ).score
        for i, names in enumerate(texts)
    ]
    return float(np.mean(scores)) / 100


@pytest.mark.parametrize("samples", [2, 3, 4, 5, 6, 7, 8, 40])
def test_self_bleu_equals_sacrebleu(samples: int) -> None:
    rng = np.random.default_rng(samples)
    images = []
    for _ in range(400 // samples):
        longest, vocabulary = rng.integers(1, 12), rng.integers(1, 9)
        lengths = rng.integers(0, longest + 1, samples)
        images.append([rng.integers(0, vocabulary, length).tolist() for length in lengths])
    expected = [sacrebleu_of(image) for image in images]
    np.testing.assert_allclose(self_bleu(sequences(images)), expected, rtol=0, atol=1e-9)


@settings(max_examples=60)
@given(SETS)
def test_self_bleu_equals_sacrebleu_where_much_repeats(images: list[Image]) -> None:
    expected = [sacrebleu_of(image) for image in images]
    np.testing.assert_allclose(self_bleu(sequences(images)), expected, rtol=0, atol=1e-9)


def test_distinct_of_hand_derived_images() -> None:
    # Names a b a b, b: 2 different of 5. Pairs ab ba ab: 2 of 3; no pair goes from one sample into the next.
    image = [[1, 2, 1, 2], [2]]
    assert one(lambda s: distinct(s, 1), image) == 2 / 5
    assert one(lambda s: distinct(s, 2), image) == 2 / 3
    assert np.isnan(one(lambda s: distinct(s, 2), [[1], [2]]))
    assert np.isnan(one(lambda s: distinct(s, 1), [[], []]))


def grams(names: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(names[i : i + n]) for i in range(len(names) - n + 1)]


@settings(max_examples=60)
@given(SETS, st.integers(1, 4))
def test_distinct_equals_the_definition(images: list[Image], n: int) -> None:
    pooled = [list(chain.from_iterable(grams(names, n) for names in image)) for image in images]
    expected = [len(set(all_)) / len(all_) if all_ else np.nan for all_ in pooled]
    np.testing.assert_array_equal(distinct(sequences(images), n), expected)


def test_vendi_of_hand_derived_images() -> None:
    assert one(vendi, [[1, 2]] * 4) == pytest.approx(1)
    assert one(vendi, [[1, 2], [3, 4], [5], []]) == pytest.approx(4)  # nothing in common: G is the identity
    assert one(vendi, [[], []]) == pytest.approx(1)  # both have the one pair (start, end)
    assert one(vendi, [[1], [1], [2], [2]]) == pytest.approx(2)  # two kinds, half each
    assert one(vendi, [[1], [1], [1], [2]]) == pytest.approx(4 / 27**0.25)  # 3/4 and 1/4: 4 / 3^(3/4)


def test_vendi_counts_names_and_pairs_with_marks() -> None:
    # a:  a, (start a), (a end);  ab: a, b, (start a), (a b), (b end). They share two: cosine 2 / sqrt(3 * 5).
    # G / 2 has the eigenvalues (1 +- cosine) / 2.
    p = (1 + 2 / 15**0.5) / 2
    assert one(vendi, [[1], [1, 2]]) == pytest.approx(np.exp(-p * np.log(p) - (1 - p) * np.log(1 - p)))
    # ab and ba share the two names of five each: 2 / 5. The order of the names shows in the pairs alone.
    p = (1 + 2 / 5) / 2
    assert one(vendi, [[1, 2], [2, 1]]) == pytest.approx(np.exp(-p * np.log(p) - (1 - p) * np.log(1 - p)))


def vendi_by_counters(image: Image) -> float:
    """From the singular values of the samples' normalised counts: no similarity matrix."""
    counts = [Counter(grams(names, 1) + grams([-1, *names, -2], 2)) for names in image]
    columns = sorted(set(chain.from_iterable(counts)))
    vectors = np.array([[count[column] for column in columns] for count in counts], dtype=np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    share = np.linalg.svd(vectors, compute_uv=False) ** 2 / len(image)
    share = share[share > 1e-14]
    return float(np.exp(-(share * np.log(share)).sum()))


@settings(max_examples=60)
@given(SETS)
def test_vendi_equals_the_definition_and_stays_in_its_bounds(images: list[Image]) -> None:
    values = vendi(sequences(images))
    np.testing.assert_allclose(values, [vendi_by_counters(image) for image in images], rtol=1e-9)
    assert (values > 1 - 1e-12).all()
    assert (values < len(images[0]) + 1e-12).all()


@settings(max_examples=30)
@given(images_of(3))
def test_repeating_every_sample_keeps_vendi_halves_distinct_and_makes_self_bleu_1(images: list[Image]) -> None:
    once, twice = sequences(images), sequences([image * 2 for image in images])
    np.testing.assert_allclose(vendi(twice), vendi(once), rtol=1e-9)
    np.testing.assert_allclose(distinct(twice, 2), distinct(once, 2) / 2)
    copied = [1.0 if any(image) else np.nan for image in images]  # each sample finds its copy
    np.testing.assert_allclose(self_bleu(twice), copied, rtol=1e-12)


@settings(max_examples=30)
@given(images_of(4), st.permutations(range(4)), st.permutations(range(4)))
def test_figures_follow_neither_the_order_of_samples_nor_the_codes(
    images: list[Image], order: list[int], codes: list[int]
) -> None:
    other = [[[10**12 * codes[name] - 7 for name in image[k]] for k in order] for image in images]
    for figure in FIGURES:
        np.testing.assert_allclose(figure(sequences(other)), figure(sequences(images)), rtol=1e-9)


@settings(max_examples=20)
@given(images_of(3))
def test_images_do_not_see_each_other_in_chunks_of_any_size(images: list[Image]) -> None:
    all_at_once = sequences(images)
    for figure in FIGURES:
        alone = [one(figure, image) for image in images]
        np.testing.assert_allclose(figure(all_at_once), alone, rtol=1e-12)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text, "CHUNK", 6)  # two images at a time
            np.testing.assert_allclose(figure(all_at_once), alone, rtol=1e-12)


def test_no_images_and_one_sample() -> None:
    for figure in FIGURES:
        assert figure(sequences([], samples=3)).shape == (0,)
    assert one(vendi, [[1, 2]]) == pytest.approx(1)
    assert one(lambda s: distinct(s, 1), [[1, 1]]) == 0.5
