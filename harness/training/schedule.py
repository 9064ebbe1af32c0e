"""Chooses the examples of each training step, and its learning rate. Pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from harness.errors import ConfigError
from harness.suite.stage_base import Batching
from harness.suite.train_settings import Schedule


class Draw(NamedTuple):
    """One sequence of a batch: member `member` of the targets that example `image` has in this epoch."""

    epoch: int
    image: int
    member: int


def draws(
    examples: int,
    members: int,
    batch_size: int,
    steps: int,
    seed: int,
    batching: Batching = "shuffled",
    collision_rate: float = 0.0,
) -> Iterator[list[Draw]]:
    """Yields the sequences of each step: `batch_size` sequences of examples that have `members` targets each.

    shuffled   every epoch is a permutation of all sequences
    grouped    every epoch is a permutation of the examples, whose members follow each other (batch_size must be a
               multiple of `members`)
    collision  `collision_rate` of a batch's sequences (rounded to an even number) are pairs of one example, the
               others are of one example each; a pair takes two members, if there are two. Needs batch_size examples

    Depends on the seed alone, so it is the same for every objective of a suite; a batch may reach from one epoch
    into the next. Sequences of one example stand together, pairs first.
    """
    if batching == "collision":
        yield from _with_collisions(examples, members, batch_size, steps, seed, collision_rate)
        return
    stream = _permutations(examples * members, seed) if batching == "shuffled" else _permutations(examples, seed)
    repeats = 1 if batching == "shuffled" else members
    for _ in range(steps):
        drawn = [next(stream) for _ in range(batch_size // repeats)]
        if batching == "shuffled":
            yield [Draw(epoch, *divmod(item, members)) for epoch, item in drawn]
        else:
            yield [Draw(epoch, index, member) for epoch, index in drawn for member in range(members)]


def rate_share(step: int, steps: int, warm_up: int, schedule: Schedule) -> float:
    """Returns the share of the full learning rate in a step (1, 2, ..., `steps`).

    It rises linearly to 1 in the warm-up. From then on it is constant, or falls on half a cosine or a line, from 1 in
    the first step after the warm-up; it would reach 0 in the step after the last, so that no step is wasted.
    """
    if step <= warm_up:
        return step / warm_up
    progress = (step - 1 - warm_up) / (steps - warm_up)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if schedule == "linear" else 1.0


def collision_rate(batches: Iterable[Sequence[Draw]]) -> float:
    """Returns the share of sequences with another sequence of their example in their batch; nan without a batch."""
    colliding = total = 0
    for batch in batches:
        times = Counter(draw.image for draw in batch)
        colliding += sum(count for count in times.values() if count > 1)
        total += len(batch)
    return colliding / total if total else math.nan


def _with_collisions(
    examples: int, members: int, batch_size: int, steps: int, seed: int, rate: float
) -> Iterator[list[Draw]]:
    pairs = round(rate * batch_size / 2)
    if examples < batch_size - pairs:
        expected = f"at least the {batch_size - pairs} different images of a batch"
        raise ConfigError(f"train.batching: collision needs {expected}, the benchmark has {examples} to train on")
    stream = _permutations(examples, seed)
    for _ in range(steps):
        drawn = _distinct(stream, batch_size - pairs)
        pairs_of_draws = [
            Draw(epoch, index, (epoch + k) % max(members, 2)) for epoch, index in drawn[:pairs] for k in (0, 1)
        ]
        alone = [Draw(epoch, index, epoch % members) for epoch, index in drawn[pairs:]]
        yield pairs_of_draws + alone


def _distinct(stream: Iterator[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """Returns the next `count` draws of different examples; an example that is drawn again at the start of an epoch
    is skipped."""
    chosen: dict[int, int] = {}
    while len(chosen) < count:
        epoch, index = next(stream)
        chosen.setdefault(index, epoch)
    return [(epoch, index) for index, epoch in chosen.items()]


def _permutations(items: int, seed: int) -> Iterator[tuple[int, int]]:
    """Yields (epoch, item) endlessly: every epoch is a permutation that depends on (seed, epoch) only."""
    epoch = 0
    while True:
        for item in np.random.default_rng([seed, epoch]).permutation(items):
            yield epoch, int(item)
        epoch += 1
