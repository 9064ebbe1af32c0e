"""Chooses the members of an image's equivalence set that a model is trained on. Pure functions of a seed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np

from harness.sequence import CaptionCodec, Codec
from harness.types import Box, Example, Instance

PATTERN = r"^(canonical|random|all\(([2-9]|[1-9][0-9]+)\))$"
"""Pattern of the values of `train.targets`, n being at least 2:

canonical  reading order and first names, always the same
random     a fresh random member in every epoch
all(n)     n random members, the same in every epoch
"""
DRAWS_PER_MEMBER = 64
"""Number of draws without a new member after which there is taken to be none: of 6 members, one is missed once in
1e28."""

FEWER = 1
"""Separates the random numbers for the choice of objects from those for their order and names."""

Sequence = tuple[int, ...]


def members_per_image(targets: str) -> int:
    """Returns how many sequences an image has in an epoch: n for all(n), else 1."""
    match = re.fullmatch(r"all\((\d+)\)", targets)
    return int(match[1]) if match else 1


def members(example: Example, codec: Codec, targets: str, seed: int, epoch: int, count: int) -> list[Sequence]:
    """Draws `count` target sequences of an image; they depend only on (seed, epoch, image), for all(n) on (seed,
    image), and on the categories that the prompt names.

    They differ as long as the equivalence set has further members, and then repeat from the first. Canonical ones are
    all the same.
    """
    if targets == "canonical":
        return [target(example, codec, "canonical")] * count
    rng = np.random.default_rng([seed, epoch if targets == "random" else 0, *example.key])
    enough = min(count, _at_most(example, codec))
    drawn: dict[Sequence, None] = {}
    for _ in range(DRAWS_PER_MEMBER * enough):
        drawn[target(example, codec, "random", rng)] = None
        if len(drawn) == enough:
            break
    distinct = list(drawn)
    return [distinct[index % len(distinct)] for index in range(count)]


def _at_most(example: Example, codec: Codec) -> int:
    """Returns the largest size of the equivalence set: orders times names, times sentences for captions; it is
    smaller if two instances have the same category and box. Where captions are given it is their number."""
    if given := _given(example, codec):
        return len(set(given))
    instances = writable(example, codec).instances
    names = math.prod(len(codec.names_of[instance.category_id]) for instance in instances)
    sentences = codec.writing.templates if isinstance(codec, CaptionCodec) else 1
    return math.factorial(len(instances)) * names * sentences


def _given(example: Example, codec: Codec) -> tuple[str, ...]:
    """Returns the captions that the image comes with, if the task has captions and the codec can write these."""
    return example.captions if isinstance(codec, CaptionCodec) and codec.writes_text else ()


def target(
    example: Example,
    codec: Codec,
    targets: Literal["canonical", "random"],
    rng: np.random.Generator | None = None,
) -> Sequence:
    """Makes the target tokens of one member of the equivalence set, see `objects`.

    A caption is one that the image comes with, if there is any: the first, or one drawn from `rng`. Otherwise it is a
    sentence about all objects: the first of the templates, or one drawn from `rng`.
    """
    if given := _given(example, codec):
        assert isinstance(codec, CaptionCodec)
        caption = given[0 if rng is None or targets == "canonical" else int(rng.integers(len(given)))]
        return codec.encode_given(caption, _mentioned(example, codec, caption), example.width, example.height)
    chosen = objects(example, codec, targets, rng)
    if isinstance(codec, CaptionCodec) and targets == "random" and rng is not None:
        template = int(rng.integers(codec.writing.templates))
        return codec.encode(chosen, example.width, example.height, template)
    return codec.encode(chosen, example.width, example.height)


def _mentioned(example: Example, codec: CaptionCodec, caption: str) -> list[tuple[str, Box]]:
    """Returns the objects of the categories that a given caption mentions, in its order and by its names; those of
    one category in reading order."""
    names = {codec.category_of[name]: name for name in reversed(codec.names_in(caption))}  # the first of each
    in_order = dict.fromkeys(codec.category_of[name] for name in codec.names_in(caption))
    instances = in_reading_order(writable(example, codec).instances)
    return [(names[c], item.box) for c in in_order for item in instances if item.category_id == c]


def fewer_objects(example: Example, number: int, drop: Literal["random", "smallest"], seed: int, epoch: int) -> Example:
    """Reduces an image to `number` objects by leaving out the smallest by area, or random ones, which depend only on
    (seed, epoch, image) and differ between epochs. The order of the others stays."""
    if len(example.instances) <= number:
        return example
    if drop == "smallest":
        areas = [instance.box.w * instance.box.h for instance in example.instances]
        indices = np.argsort(-np.array(areas), kind="stable")[:number]
    else:
        rng = np.random.default_rng([seed, epoch, *example.key, FEWER])
        indices = rng.permutation(len(example.instances))[:number]
    return replace(example, instances=tuple(example.instances[index] for index in sorted(indices)))


def writable(example: Example, codec: Codec) -> Example:
    """Leaves out the objects whose box has no area as the codec writes it, for they would be read back as malformed:
    those without width or height, and those narrower than a bin whose edges fall on one. None is such without boxes."""
    if not codec.boxed:
        return example
    remaining = tuple(
        instance
        for instance in example.instances
        if codec.space.restore(
            codec.space.quantise(instance.box, example.width, example.height), example.width, example.height
        )
    )
    return example if len(remaining) == len(example.instances) else replace(example, instances=remaining)


def in_reading_order(instances: Iterable[Instance]) -> list[Instance]:
    """Sorts instances by the upper edge, then the left edge."""
    return sorted(instances, key=lambda instance: (instance.box.y, instance.box.x, instance.id))


def objects(
    example: Example,
    codec: Codec,
    targets: Literal["canonical", "random"],
    rng: np.random.Generator | None = None,
) -> list[tuple[str, Box]]:
    """Chooses the names and boxes of one member of the equivalence set, of the objects that are `writable`.

    canonical: reading order (upper edge, then left edge) and every category's first name; always the same. Where the
    task has no boxes, the instances are in that order already (see harness.run.task).
    random: an order and, for each object, a name drawn uniformly from `rng`.
    """
    listed = writable(example, codec).instances
    instances = in_reading_order(listed) if codec.boxed else list(listed)
    if targets == "canonical":
        return [(codec.names_of[instance.category_id][0], instance.box) for instance in instances]
    assert rng is not None, "random targets need a generator"
    order = rng.permutation(len(instances))
    names = [codec.names_of[instances[index].category_id] for index in order]
    return [
        (choice[rng.integers(len(choice))], instances[index].box) for choice, index in zip(names, order, strict=True)
    ]
