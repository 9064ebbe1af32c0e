"""Targets are members of the equivalence set, and batches are what every objective of a suite trains on."""

from __future__ import annotations

from collections import Counter
from itertools import islice, permutations, product

import numpy as np
import pytest
import torch

from harness.batches import batch_indices, target_batch
from harness.sequence import KINDS
from harness.targets import target
from harness.types import IGNORED_LABEL, Box
from tests.tiny import codec_of, example_of, pieces_of

CODEC = codec_of(("sofa", "couch"), ("lamp", "light", "desk_lamp"), bins=9)
TOKENS = pieces_of(CODEC)
LEFT, RIGHT, BELOW = Box(0, 1, 2, 2), Box(5, 1, 2, 2), Box(1, 4, 3, 3)


# ---- targets -------------------------------------------------------------------------------------------------


def test_canonical_is_reading_order_with_first_names() -> None:
    expected = CODEC.encode([("sofa", LEFT), ("lamp", RIGHT), ("sofa", BELOW)], 8, 8)
    for objects in permutations([(1, LEFT), (2, RIGHT), (1, BELOW)]):
        assert target(example_of(1, objects), CODEC, "canonical") == expected


def test_objects_at_one_corner_keep_the_order_of_their_ids() -> None:
    wide, tall = Box(0, 0, 6, 2), Box(0, 0, 2, 6)
    assert target(example_of(1, [(1, wide), (1, tall)]), CODEC, "canonical") == CODEC.encode(
        [("sofa", wide), ("sofa", tall)], 8, 8
    )


def test_an_image_without_objects_is_the_end_alone() -> None:
    for kind in ("canonical", "random"):
        assert target(example_of(1), CODEC, kind, np.random.default_rng(0)) == (TOKENS.end,)


def test_random_targets_reach_every_member_equally_often() -> None:
    """2 orders x 2 names x 3 names = 12 members; Pearson's chi-square exceeds 31.3 once in 1,000 for 11 degrees."""
    example = example_of(1, [(1, LEFT), (2, RIGHT)])
    members = set()
    for sofa, lamp in product(CODEC.names_of[1], CODEC.names_of[2]):
        for order in permutations([(sofa, LEFT), (lamp, RIGHT)]):
            members.add(CODEC.encode(order, 8, 8))
    rng, draws = np.random.default_rng(0), 2400
    drawn = Counter(target(example, CODEC, "random", rng) for _ in range(draws))
    assert drawn.keys() == members
    assert len(members) == 12
    expected = draws / 12
    assert sum((count - expected) ** 2 / expected for count in drawn.values()) < 31.3


def test_random_targets_depend_on_the_generator_alone() -> None:
    example = example_of(1, [(1, LEFT), (2, RIGHT), (2, BELOW)])
    first, again, other = (
        [target(example, CODEC, "random", rng) for _ in range(5)] for rng in map(np.random.default_rng, (3, 3, 4))
    )
    assert first == again != other


# ---- tensors -------------------------------------------------------------------------------------------------


def test_alignment_by_hand() -> None:
    # Prompt: image, begin. A target's label stands where the token before it is the input.
    lamp, image, begin, pad, end = TOKENS["lamp"], TOKENS.image, TOKENS.begin, TOKENS.pad, TOKENS.end
    a, b = TOKENS.locations[1], TOKENS.locations[3]
    batch = target_batch([(lamp, a, a, b, b, end), (end,)], CODEC)
    none = IGNORED_LABEL
    assert batch.inputs.tolist() == [
        [image, begin, lamp, a, a, b, b],
        [image, begin, pad, pad, pad, pad, pad],
    ]
    assert batch.labels.tolist() == [
        [none, lamp, a, a, b, b, end],
        [none, end, none, none, none, none, none],
    ]
    name, location, last = (KINDS.index(kind) for kind in ("name", "location", "end"))
    assert batch.kinds.tolist() == [
        [-1, name, location, location, location, location, last],
        [-1, last, -1, -1, -1, -1, -1],
    ]
    assert {tensor.dtype for tensor in (batch.inputs, batch.labels, batch.kinds)} == {torch.int64}


def test_padding_depends_on_the_neighbours_and_nothing_else_does() -> None:
    long = CODEC.encode([("desk_lamp", LEFT), ("couch", BELOW)], 8, 8)
    short = CODEC.encode([("sofa", RIGHT)], 8, 8)
    together, alone = target_batch([long, short], CODEC), target_batch([short], CODEC)
    width = alone.inputs.shape[1]
    for field in ("inputs", "labels", "kinds"):
        assert getattr(together, field)[1, :width].tolist() == getattr(alone, field)[0].tolist()
    assert set(together.inputs[1, width:].tolist()) == {TOKENS.pad}
    assert set(together.labels[1, width:].tolist()) == {IGNORED_LABEL}
    for row, tokens in enumerate((long, short)):
        assert tuple(together.labels[row][together.labels[row] != IGNORED_LABEL].tolist()) == tokens


# ---- which examples ------------------------------------------------------------------------------------------


def drawn(examples: int, batch_size: int, steps: int, seed: int) -> list[int]:
    return [index for _, indices in batch_indices(examples, batch_size, steps, seed) for index in indices]


@pytest.mark.parametrize("batch_size", [1, 3, 5, 7, 23])
def test_every_epoch_is_a_permutation_whatever_the_batch_size(batch_size: int) -> None:
    steps = -(-30 // batch_size)
    stream = drawn(10, batch_size, steps, seed=1)
    assert len(stream) == steps * batch_size
    epochs = [stream[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert stream[:30] == drawn(10, 1, 30, seed=1)


def test_batches_reach_from_one_epoch_into_the_next() -> None:
    # 5 examples in batches of 2: steps begin with draws 0, 2, 4 | 6, 8 | 10, of epochs 0, 0, 0, 1, 1, 2.
    steps = list(batch_indices(5, 2, 6, seed=0))
    assert [epoch for epoch, _ in steps] == [0, 0, 0, 1, 1, 2]
    assert {len(indices) for _, indices in steps} == {2}


def test_batches_depend_on_the_seed_alone() -> None:
    assert drawn(50, 4, 9, seed=7) == drawn(50, 4, 9, seed=7) != drawn(50, 4, 9, seed=8)
    longer = list(islice(batch_indices(50, 4, 1000, seed=7), 9))
    assert longer == list(batch_indices(50, 4, 9, seed=7))
