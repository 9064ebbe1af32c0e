"""Targets are members of the equivalence set, and batches are what every objective of a suite trains on."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest
import torch

from harness.errors import ConfigError
from harness.inference.padding import target_batch
from harness.sequence import KINDS
from harness.sequence.targets import members, members_per_image, target
from harness.suite.stage_base import Batching
from harness.training.schedule import Draw, collision_rate, draws
from harness.types import IGNORED_LABEL, Box
from tests.support.tiny import codec_of, example_of, pieces_of

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
    for kind in ("canonical", "random", "all(3)"):
        assert members(example_of(1), CODEC, kind, 0, 0, 2) == [(TOKENS.end,)] * 2


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
    joint, alone = target_batch([long, short], CODEC), target_batch([short], CODEC)
    width = alone.inputs.shape[1]
    for field in ("inputs", "labels", "kinds"):
        assert getattr(joint, field)[1, :width].tolist() == getattr(alone, field)[0].tolist()
    assert set(joint.inputs[1, width:].tolist()) == {TOKENS.pad}
    assert set(joint.labels[1, width:].tolist()) == {IGNORED_LABEL}
    for row, tokens in enumerate((long, short)):
        assert tuple(joint.labels[row][joint.labels[row] != IGNORED_LABEL].tolist()) == tokens


def test_what_stands_before_a_target_is_read_and_not_learnt() -> None:
    lamp, sofa, a = TOKENS.encode_name("lamp")[0], TOKENS.encode_name("sofa")[0], TOKENS.locations[1]
    batch = target_batch([(lamp, TOKENS.end), (sofa,)], CODEC, [(*TOKENS.prompt, sofa, a, a), TOKENS.prompt])
    none = IGNORED_LABEL
    assert batch.inputs.tolist() == [[*TOKENS.prompt, sofa, a, a, lamp], [*TOKENS.prompt, *[TOKENS.pad] * 4]]
    assert batch.labels.tolist() == [[none] * 4 + [lamp, TOKENS.end], [none, sofa, none, none, none, none]]


# ---- which sequences -----------------------------------------------------------------------------------------


def drawn(examples: int, batch_size: int, steps: int, seed: int, members: int = 1) -> list[int]:
    return [draw.image for batch in draws(examples, members, batch_size, steps, seed) for draw in batch]


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
    # 5 examples, batches of 2: draws 0 1 | 2 3 | 4 5 | 6 7 | 8 9 | 10 11, of epochs 0 0 | 0 0 | 0 1 | 1 1 | 1 1 | 2 2.
    steps = [[draw.epoch for draw in batch] for batch in draws(5, 1, 2, 6, seed=0)]
    assert steps == [[0, 0], [0, 0], [0, 1], [1, 1], [1, 1], [2, 2]]


@pytest.mark.parametrize("batching", ["shuffled", "grouped", "collision"])
def test_batches_depend_on_the_seed_alone(batching: Batching) -> None:
    def made(steps: int, seed: int) -> list[list[Draw]]:
        return list(draws(50, 2, 4, steps, seed, batching, 0.5))

    assert made(9, 7) == made(9, 7) != made(9, 8)
    assert made(1000, 7)[:9] == made(9, 7)
    assert {len(batch) for batch in made(9, 7)} == {4}


def test_shuffled_epochs_hold_every_member_of_every_image_once() -> None:
    first = [draw for batch in draws(6, 3, 2, 9, seed=0) for draw in batch]
    assert sorted(first) == [(0, image, member) for image in range(6) for member in range(3)]
    assert [draw.image for draw in first] != sorted(draw.image for draw in first)


def test_groups_are_whole_and_every_epoch_has_each_once() -> None:
    batches = list(draws(6, 3, 6, 6, seed=0, batching="grouped"))
    for batch in batches:
        assert [draw.member for draw in batch] == [0, 1, 2] * 2
        assert batch[0].image == batch[1].image == batch[2].image != batch[3].image
    for epoch in (batches[:3], batches[3:]):
        assert sorted({draw.image for batch in epoch for draw in batch}) == list(range(6))


@pytest.mark.parametrize(("rate", "realised"), [(0.0, 0.0), (0.25, 0.25), (0.3, 0.25), (0.5, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize("members", [1, 3])
def test_collisions_are_as_many_as_asked_for(rate: float, realised: float, members: int) -> None:
    # 8 sequences: 0.3 of them are 2.4, to the nearest pair 2.
    batches = list(draws(9, members, 8, 40, 0, "collision", rate))
    assert collision_rate(batches) == realised
    for batch in batches:
        times = Counter(draw.image for draw in batch)
        assert sorted(times.values(), reverse=True)[: round(4 * realised)] == [2] * round(4 * realised)
        assert len(times) == 8 - round(4 * realised)
        pairs = [draw for draw in batch if times[draw.image] == 2]
        assert batch[: len(pairs)] == pairs
        assert all(a.image == b.image and a.member != b.member for a, b in zip(pairs[::2], pairs[1::2], strict=True))
        assert max(draw.member for draw in batch) < max(members, 2)


def test_collisions_reach_every_member_of_every_image() -> None:
    drawn = {draw[1:] for batch in draws(9, 3, 8, 60, 0, "collision", 0.5) for draw in batch}
    assert drawn == set(product(range(9), range(3)))


def test_collisions_need_enough_images() -> None:
    with pytest.raises(ConfigError, match=r"at least the 6 different images of a batch, the benchmark has 5"):
        next(draws(5, 1, 8, 1, 0, "collision", 0.5))


def test_the_collision_rate_counts_sequences_that_are_not_alone() -> None:
    a, b, c = (Draw(0, image, 0) for image in range(3))
    assert collision_rate([[a, a, a, b], [b, c], [c, c]]) == 5 / 8
    assert math.isnan(collision_rate([]))


# ---- their members ---------------------------------------------------------------------------------------------


def test_members_are_different_as_far_as_there_are_any() -> None:
    """2 orders x 2 names x 3 names = 12 members of the equivalence set."""
    example = example_of(1, [(1, LEFT), (2, RIGHT)])
    for targets in ("random", "all(5)"):
        assert len(set(members(example, CODEC, targets, 0, 0, 12))) == 12
    made = members(example, CODEC, "random", 0, 0, 15)
    assert made[12:] == made[:3]
    assert members(example_of(1, [(1, LEFT)]), CODEC, "all(5)", 0, 0, 5) == [*(one := two_names()), *one, one[0]]


def two_names() -> list[tuple[int, ...]]:
    """Both members of an image with one sofa, in the order in which seed 0 draws them."""
    return members(example_of(1, [(1, LEFT)]), CODEC, "all(5)", 0, 0, 2)


def test_equal_instances_leave_fewer_members_than_orders_times_names() -> None:
    made = members(example_of(1, [(1, LEFT), (1, LEFT)]), CODEC, "random", 0, 0, 6)
    assert len(set(made)) == 4
    assert made[4:] == made[:2]


def test_a_member_does_not_depend_on_how_many_are_asked_for() -> None:
    example = example_of(1, [(1, LEFT), (2, RIGHT), (2, BELOW)])
    many = members(example, CODEC, "random", 3, 1, 9)
    assert [members(example, CODEC, "random", 3, 1, count)[-1] for count in range(1, 10)] == many


def test_what_members_depend_on() -> None:
    example = example_of(1, [(1, LEFT), (2, RIGHT), (2, BELOW)])

    def made(targets: str, seed: int = 0, epoch: int = 0) -> list[tuple[int, ...]]:
        return members(example, CODEC, targets, seed, epoch, 4)

    assert made("canonical") == [target(example, CODEC, "canonical")] * 4
    assert made("random") != made("random", epoch=1)
    assert made("random") != made("random", seed=1)
    assert made("all(4)") == made("all(4)", epoch=1) != made("all(4)", seed=1)


@pytest.mark.parametrize(("targets", "count"), [("canonical", 1), ("random", 1), ("all(2)", 2), ("all(16)", 16)])
def test_members_per_image(targets: str, count: int) -> None:
    assert members_per_image(targets) == count
