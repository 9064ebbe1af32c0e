"""Sequences of one image with two objects, and what its corrections say, in a vocabulary of names."""

from __future__ import annotations

import numpy as np

from harness.metrics.diagnosis.codebook import sample_errors
from harness.protocols import Correction, Targets
from harness.sequence import (
    Codec,
    CoordinateSpace,
    NameVocabulary,
    vocabulary_names,
)
from harness.training.stages.corrections import Templates
from harness.types import Box, Example
from tests.metrics.builders import CATEGORIES, XYWH, example
from tests.support.tiny import PieceTokens

NAMES = vocabulary_names(CATEGORIES)  # sofa, couch; bed; cup, mug, glass
SPACE = CoordinateSpace(65)
"""A bin for each pixel edge of the 64 x 64 images."""
CODEC = Codec(CATEGORIES, NameVocabulary(NAMES, SPACE.bins), SPACE)
PIECES = Codec(CATEGORIES, PieceTokens(NAMES, SPACE.bins, split=lambda name: [name[:2], name[2:]]), SPACE)
"""Two tokens a name."""
A, B, FAR, POOR = (0, 0, 10, 10), (30, 0, 10, 10), (50, 50, 10, 10), (0, 0, 10, 4)
IMAGE = example([(5, A), (7, B)], negative=[8])
SEPARATOR, END = CODEC.tokens.separator, CODEC.tokens.end


def encoded(*objects: tuple[str, XYWH], codec: Codec = CODEC) -> tuple[int, ...]:
    """Tokens with the end."""
    return codec.encode([(name, Box(*xywh)) for name, xywh in objects], 64, 64)


def unknown(xywh: XYWH) -> tuple[int, ...]:
    """The tokens of "sofa bed" with a box: two names in one, which no category has."""
    return (*CODEC.name_ids["sofa"], *encoded(("bed", xywh))[:-1])


def corrections(
    image: Example, tokens: tuple[int, ...], seed: int = 0, targets: Targets = "canonical", codec: Codec = CODEC
) -> list[Correction]:
    parsed = codec.decode(tokens, 64, 64)
    ((errors,),) = sample_errors([image], [[parsed]])
    return list(Templates(codec, targets)(image, parsed, errors, np.random.default_rng(seed)))


def every(image: Example, tokens: tuple[int, ...], kind: str) -> dict[str, Correction]:
    """What each template of a kind makes of a sample, by its question; all of them are drawn."""
    drawn = [c for seed in range(40) for c in corrections(image, tokens, seed) if c.kind == kind]
    return {c.question: c for c in drawn}


def forms(image: Example, tokens: tuple[int, ...], kind: str) -> set[tuple[str, str]]:
    """Their contexts and answers as text."""
    return {(CODEC.text(c.context), CODEC.text(c.answer)) for c in every(image, tokens, kind).values()}


SOFA = "sofa <loc0> <loc0> <loc10> <loc10>"
BED = "bed <loc0> <loc30> <loc10> <loc40>"
EVERYTHING = ("", f"{SOFA} ; {BED} <end>")
