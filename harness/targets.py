"""Which member of an image's equivalence set a model is trained on. Pure; the choice depends on a seed alone."""

from __future__ import annotations

from typing import Literal

import numpy as np

from harness.sequence import Codec
from harness.types import Example

Targets = Literal["canonical", "random"]


def target(example: Example, codec: Codec, targets: Targets, rng: np.random.Generator | None = None) -> tuple[int, ...]:
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
