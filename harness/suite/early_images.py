"""Which validation images the evaluations before the last step are made of (`train.eval_images`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEED = 0


def early_places(images: int, number: int) -> NDArray[np.int64]:
    """Choose `number` of so many images: the first of a fixed permutation, so that fewer are always some of more.

    Returns:
        [number] places in the order of the split.
    """
    return np.random.default_rng(SEED).permutation(images)[:number]
