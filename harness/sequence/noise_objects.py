"""Extends target sequences by noise objects, so that a model learns to say that a box contains no object (Pix2Seq;
Chen et al., ICLR 2022; arXiv 2109.10852, section 2.3, "sequence augmentation"). Pure functions.

A model that has learnt when annotators stop ends its answers early. With noise objects every answer has the same
number of entries: the objects, and then boxes without an object under the codec's noise name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.sequence import Codec
from harness.types import Box, Example

JITTER = 0.2
"""Largest shift of an edge of a box, in sides of the box."""
STREAM = 0x6E6F6973
"""Separates these random numbers from others of the same seed."""


def with_noise(tokens: tuple[int, ...], example: Example, codec: Codec, seed: int, epoch: int) -> tuple[int, ...]:
    """Extends a target sequence by noise entries up to `codec.noise_objects`; unchanged where it has that many. They
    depend only on (seed, epoch, image) and on the categories that the prompt names."""
    missing = codec.noise_objects - len(example.instances)
    if missing <= 0:
        return tokens
    rng = np.random.default_rng([seed, epoch, STREAM, *example.key])
    boxes = noise_boxes([instance.box for instance in example.instances], missing, example.width, example.height, rng)
    return codec.extended(tokens, boxes, example.width, example.height)


def noise_boxes(boxes: Sequence[Box], count: int, width: int, height: int, rng: np.random.Generator) -> list[Box]:
    """Draws `count` boxes inside a picture of this size, each of one of three kinds: anywhere; one of `boxes` at
    another place; one of `boxes` with its edges moved by up to JITTER of its sides. Without boxes: all of them
    anywhere."""
    kinds = rng.integers(3, size=count) if boxes else np.zeros(count, dtype=int)
    noise = []
    for kind in kinds:
        if kind == 0:
            noise.append(_anywhere(width, height, rng))
            continue
        box = boxes[int(rng.integers(len(boxes)))]
        noise.append(_moved(box, width, height, rng) if kind == 1 else _jittered(box, width, height, rng))
    return noise


def _anywhere(width: int, height: int, rng: np.random.Generator) -> Box:
    (x0, x1), (y0, y1) = (np.sort(rng.uniform(0, side, 2)) for side in (width, height))
    return Box(float(x0), float(y0), float(x1 - x0), float(y1 - y0))


def _moved(box: Box, width: int, height: int, rng: np.random.Generator) -> Box:
    """Moves a box to another place inside the picture."""
    x, y = rng.uniform(0, 1, 2) * (max(0.0, width - box.w), max(0.0, height - box.h))
    return Box(float(x), float(y), box.w, box.h)


def _jittered(box: Box, width: int, height: int, rng: np.random.Generator) -> Box:
    """Jitters a box, clipped to the picture."""
    edges = np.array(box.corners) + rng.uniform(-JITTER, JITTER, 4) * (box.w, box.h, box.w, box.h)
    x0, y0, x1, y1 = np.clip(edges, 0, (width, height, width, height))
    return Box(float(x0), float(y0), float(x1 - x0), float(y1 - y0))
