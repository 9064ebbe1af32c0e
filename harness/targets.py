"""Which members of an image's equivalence set a model is trained on. Pure; the choice depends on a seed alone."""

from __future__ import annotations

import math
import re
from typing import Literal

import numpy as np

from harness.sequence import Codec
from harness.types import Example

PATTERN = r"^(canonical|random|all\(([2-9]|[1-9][0-9]+)\))$"
"""What `train.targets` may say, n being at least 2:

canonical  reading order and first names, always the same
random     a fresh random member in every epoch
all(n)     n random members, the same in every epoch
"""
DRAWS_PER_MEMBER = 64
"""Draws after which another member is taken not to exist: of 6 members, one stays unseen once in 1e28."""

Sequence = tuple[int, ...]


def members_per_image(targets: str) -> int:
    """How many sequences an image has in an epoch: n for all(n), else 1."""
    found = re.fullmatch(r"all\((\d+)\)", targets)
    return int(found[1]) if found else 1


def members(example: Example, codec: Codec, targets: str, seed: int, epoch: int, count: int) -> list[Sequence]:
    """`count` target sequences of an image; they depend on (seed, epoch, image) alone, for all(n) on (seed, image).

    They differ as far as the equivalence set has that many members, and repeat from the first after that.
    Canonical ones are all the same.
    """
    if targets == "canonical":
        return [target(example, codec, "canonical")] * count
    rng = np.random.default_rng([seed, epoch if targets == "random" else 0, example.image_id])
    enough = min(count, _at_most(example, codec))
    found: dict[Sequence, None] = {}
    for _ in range(DRAWS_PER_MEMBER * enough):
        found[target(example, codec, "random", rng)] = None
        if len(found) == enough:
            break
    distinct = list(found)
    return [distinct[index % len(distinct)] for index in range(count)]


def _at_most(example: Example, codec: Codec) -> int:
    """Orders times names: the size of the equivalence set, unless two instances have the same category and box."""
    names = math.prod(len(codec.names_of[instance.category_id]) for instance in example.instances)
    return math.factorial(len(example.instances)) * names


def target(
    example: Example,
    codec: Codec,
    targets: Literal["canonical", "random"],
    rng: np.random.Generator | None = None,
) -> Sequence:
    """Target tokens of one member of the equivalence set.

    canonical: reading order (upper edge, then left edge) and every category's first name; always the same.
    random: an order and, for each object, a name drawn uniformly from `rng`.
    """
    instances = sorted(example.instances, key=lambda instance: (instance.box.y, instance.box.x, instance.id))
    if targets == "canonical":
        objects = [(codec.names_of[instance.category_id][0], instance.box) for instance in instances]
    else:
        assert rng is not None, "random targets need a generator"
        order = rng.permutation(len(instances))
        names = [codec.names_of[instances[index].category_id] for index in order]
        objects = [
            (choice[rng.integers(len(choice))], instances[index].box)
            for choice, index in zip(names, order, strict=True)
        ]
    return codec.encode(objects, example.width, example.height)
