"""What a suite asks for: tokens of targets, padding, generated rows, and the trees by which answers are scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from harness.inference import confidence
from harness.run.cost import workload
from harness.run.cost.workload import Texts
from harness.sequence.targets import target
from harness.suite.schema import SampleSettings
from harness.suite.train_settings import MaxObjects, Train
from harness.types import Box, Example
from tests.support.tiny import codec_of, example_of

CODEC = codec_of(("sofa", "couch", "sofa_bed"), ("lamp",), bins=9)
SOFA, LAMP = 1, 2
BOX = Box(1.0, 1.0, 4.0, 4.0)


def texts(prompts: Sequence[int], targets: Sequence[int]) -> Texts:
    nothing = np.zeros(len(prompts), dtype=np.int64)
    return Texts(np.array(prompts), np.array(targets), nothing, nothing)


def images(*categories: Sequence[int]) -> list[Example]:
    return [example_of(k, [(category, BOX) for category in ids]) for k, ids in enumerate(categories, start=1)]


def test_tokens_of_prompts_and_targets() -> None:
    """A name, four locations and a separator or the end for each object; an image without any has an end alone."""
    counted = workload.texts_of(images([LAMP], [LAMP, SOFA], []), CODEC, Train())
    assert counted.target.tolist() == [6, 12, 1]
    assert counted.prompt.tolist() == [2, 2, 2]
    fewer = workload.texts_of(images([LAMP] * 5), CODEC, Train(max_objects=MaxObjects(number=2)))
    assert fewer.target.tolist() == [12]


@pytest.mark.parametrize("score", ["category", "name", "sequence", "constant"])
def test_a_tree_has_as_many_nodes_as_the_one_that_is_scored(score: str) -> None:
    for example in images([LAMP], [SOFA], [LAMP, SOFA], [SOFA, LAMP, LAMP], []):
        tokens = target(example, CODEC, "canonical")
        mentions = CODEC.decode(tokens, example.width, example.height).mentions
        counted = workload.texts_of([example], CODEC, Train(), score)
        nodes = asked = 0
        if score != "constant":
            log_probs = [-1.0] * len(tokens)
            sequence = confidence._SequenceQueries(CODEC, CODEC.prompt(example), tokens, mentions, score, log_probs)
            asked = len(sequence.queries.tokens) + len(sequence.queries.ends)
            nodes = len(sequence.queries.tree) if asked else 0
        # Names that begin alike share a node in the tree, and are counted apart here.
        assert nodes <= counted.asked[0] <= nodes + 2
        assert asked - 2 <= counted.outputs[0] <= asked


def test_micro_batches_are_padded_to_their_longest_row() -> None:
    """Rows of 3 and 9 places (prompt and target, but for the last token), two at a time: unless both are short, 9 each.
    By tokens they are sorted, so that only one pair is mixed."""
    given = texts([2, 2], [2, 8])
    plan = Train(steps=1, batch_size=64, micro_batch=2)
    passed, largest = workload.trained_on(given, plan, draws=200)
    mean = 2 * (0.25 * 3 + 0.75 * 9)  # of a pair
    assert passed.positions == pytest.approx(32 * mean, rel=0.05)
    assert passed.outputs == pytest.approx(64 * 5, rel=0.05)
    assert (passed.rows, passed.images, passed.passes, largest) == (64, 64, 32, 18)
    by_tokens, most = workload.trained_on(given, Train(steps=1, batch_size=64, micro_tokens=18), draws=200)
    assert by_tokens.positions == pytest.approx(64 * 6, rel=0.05)
    assert most <= 18


def test_rows_that_have_ended_go_along_until_they_are_many() -> None:
    """Ten images with a row each: one of 1 token, eight of 2, one of 4. All ten are computed for the second token, as
    nine are more than 80%; then the longest alone. Caches hold the prompt of 3 and what was given before each token."""
    batch = workload.decoded(np.array([1, *[2] * 8, 4]), prompt=3, rows=1, at_once=10)
    assert (batch.steps, batch.row_steps, batch.encodings) == (4, 10 + 10 + 1 + 1, 1)
    assert batch.cached == 10 * 3 + 10 * 4 + 5 + 6
    rarely = workload.decoded(np.array([1, *[2] * 8, 4]), prompt=3, rows=1, at_once=10, look_every=8)
    assert rarely.row_steps == 40


def test_the_next_images_take_the_places_of_rows_that_have_ended() -> None:
    """Four images of 2, 4, 2 and 1 tokens with two rows each, two images at once: after two tokens the third one enters
    beside the second, after four the last one, alone."""
    batch = workload.decoded(np.array([2, 4, 2, 1]), prompt=1, rows=2, at_once=2)
    assert (batch.images, batch.rows, batch.steps, batch.begins, batch.encodings) == (4, 8, 5, 3, 3)
    assert batch.row_steps == 4 * 4 + 2
    assert batch.cached == 4 * (1 + 2) + 4 * (3 + 4) + 2 * 1
    one_by_one = workload.decoded(np.array([2, 4, 2, 1]), prompt=1, rows=2, at_once=2, one_by_one=True)
    assert (one_by_one.begins, one_by_one.encodings) == (3, 4)


def test_answers_are_cut_off_and_batched() -> None:
    sample = SampleSettings(samples=2, max_tokens=5, batch_images=2)
    lengths = texts([2] * 3, [4, 9, 3])
    first, second = workload.answered(lengths, sample, on_gpu=False, refilled=False)
    assert (first.images, first.rows, first.steps) == (2, 6, 5)
    assert (second.images, second.rows, second.steps, second.row_steps) == (1, 3, 3, 9)
    (queue,) = workload.answered(lengths, sample, on_gpu=True, refilled=True)
    assert (queue.images, queue.rows) == (3, 9)


def test_what_is_scored() -> None:
    """Of four images two are asked about, 10 and 30 positions: 6 answers of each of 8 images are 24 trees of 20."""
    given = Texts(*(np.array(values) for values in ([2] * 4, [9] * 4, [0, 10, 0, 30], [0, 1, 0, 3])))
    passed = workload.scored(given, images=8, rows=6, at_once=4)
    assert (passed.rows, passed.positions, passed.outputs, passed.passes) == (24, 480, 48, 2)
    assert passed.pairs == 24 * (100 + 900) / 2


def test_a_sample_speaks_for_a_large_split() -> None:
    many = images(*[[LAMP]] * 50)
    assert workload.sampled(many, 50) == many
    some = workload.sampled(many, 7)
    assert len(some) == 7
    assert some == workload.sampled(many, 7)
    assert [example.image_id for example in some] == sorted(example.image_id for example in some)
