"""What corrections teach is right in the format of every family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics.diagnosis.codebook import sample_errors
from harness.protocols import Correction, Targets
from harness.sequence import (
    Codec,
    JsonFormat,
    TokenFormat,
    TokenizerTokens,
)
from harness.sequence.targets import target
from harness.training.stages.corrections import Templates
from harness.types import Box, Example, Instance
from tests.sequence.formats.families import FAMILIES

WIDTH, HEIGHT = 640, 480
GRID = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 3), st.integers(1, 3))
PLACES = GRID.map(lambda cell: Box(80 * cell[0], 60 * cell[1], 80.0 * cell[2], 60.0 * cell[3]))
"""Edges on a grid that every space has, far enough apart to be told from each other."""
SCENES = st.lists(st.tuples(st.sampled_from([1, 2, 3]), PLACES), max_size=3, unique_by=lambda item: item[1])
SAID = st.lists(st.tuples(st.sampled_from(["sofa", "couch", "sofa_bed", "cat's_eye"]), PLACES), max_size=3)


def scene(objects: Sequence[tuple[int, Box]]) -> Example:
    instances = tuple(Instance(index, category, box) for index, (category, box) in enumerate(objects))
    return Example(1, Path("image.png"), WIDTH, HEIGHT, instances, frozenset({1, 2, 3} - {c for c, _ in objects}))


def corrected(codec: Codec, image: Example, tokens: Sequence[int], seed: int, targets: Targets) -> list[Correction]:
    parsed = codec.decode(tokens, WIDTH, HEIGHT)
    ((errors,),) = sample_errors([image], [[parsed]])
    return Templates(codec, targets)(image, parsed, errors, np.random.default_rng(seed))


def read(codec: Codec, tokens: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """The names and numbers of a beginning of an answer, closed as far as it needs to be."""
    form = codec.form
    assert isinstance(form, TokenFormat | JsonFormat)
    ends = [()] if codec.tokens.end in tokens else [(*form.closing[n:], codec.tokens.end) for n in range(4)]
    readings = [codec.decode((*tokens, *end), WIDTH, HEIGHT) for end in ends]
    whole = next(parsed for parsed in readings if not parsed.malformed)
    assert not whole.truncated
    return [(mention.name, codec.space.quantise(mention.box, WIDTH, HEIGHT)) for mention in whole.mentions]


def restored(codec: Codec, numbers: Sequence[int]) -> Box:
    box = codec.space.restore(numbers, WIDTH, HEIGHT)
    assert box is not None
    return box


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40)
@given(SCENES, SAID, st.integers(0, 99), st.integers(0, 99), st.sampled_from(["canonical", "random"]))
def test_answers_are_right_in_every_format(
    family: str, objects: list[tuple[int, Box]], emitted: list[tuple[str, Box]], lost: int, seed: int, targets: Targets
) -> None:
    """Whatever was said, with or without a token lost: context and answer together are a list as the codec writes it,
    of what was said first and then of objects that are there, each of them once."""
    codec, image = FAMILIES[family](), scene(objects)
    tokens = list(codec.encode(emitted, WIDTH, HEIGHT))
    del tokens[lost : lost + 1]
    rejected = codec.decode(tokens, WIDTH, HEIGHT)
    ((errors,),) = sample_errors([image], [[rejected]])
    order = read(codec, target(image, codec, "canonical"))
    for made in corrected(codec, image, tokens, seed, targets):
        before, whole = read(codec, made.context), read(codec, (*made.context, *made.answer))
        heard = [(m.name, codec.space.quantise(m.box, WIDTH, HEIGHT)) for m in rejected.mentions]
        assert before == heard[: len(before)] == whole[: len(before)]
        written = codec.encode([(name, restored(codec, numbers)) for name, numbers in whole], WIDTH, HEIGHT)
        assert written[: len(made.context) + len(made.answer)] == (*made.context, *made.answer)
        answered = whole[len(before) :]
        dealt_with = {item.instance for item in errors.mentions[: len(before)]}
        left = Counter(
            (item.category_id, codec.space.quantise(item.box, WIDTH, HEIGHT))
            for index, item in enumerate(image.instances)
            if index not in dealt_with
        )
        right = Counter((codec.category_of[name], numbers) for name, numbers in answered)
        assert right == left if codec.tokens.end in made.answer else right <= left
        if targets == "canonical":
            rest = iter(order)
            assert all(item in rest for item in answered)


SOFA_BED, EYE = Box(64, 48, 320, 240), Box(0, 0, 640, 480)
IN_WORDS = {
    "paligemma": "<loc102> <loc102> <loc614> <loc614>",
    "florence": "<loc100> <loc100> <loc599> <loc599>",
    "kosmos": "<loc99> <loc627>",
    "qwen": "64, 48, 386, 286",
    "qwen3": "100, 100, 600, 600",
}
CONTEXTS = {
    "paligemma": ("<loc0102><loc0102><loc0614><loc0614> sofa bed", " ; <loc0000><loc0000><loc1023><loc1023> cat's eye"),
    "florence": ("sofa bed<loc_100><loc_100><loc_599><loc_599>", "cat's eye<loc_0><loc_0><loc_999><loc_999>"),
    "kosmos": (
        "<phrase> sofa bed</phrase><object><patch_index_0099><patch_index_0627></object>",
        "<phrase> cat's eye</phrase><object><patch_index_0000><patch_index_1023></object>",
    ),
    "qwen": (
        '[{"bbox_2d": [64, 48, 386, 286], "label": "sofa bed"}',
        ', {"bbox_2d": [0, 0, 644, 476], "label": "cat\'s eye"}]',
    ),
    "qwen3": (
        '[{"bbox_2d": [100, 100, 600, 600], "label": "sofa bed"}',
        ', {"bbox_2d": [0, 0, 1000, 1000], "label": "cat\'s eye"}]',
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_by_hand_in_every_format(family: str) -> None:
    """A sofa bed was named and an eye was not. A tokenizer may join the mark that closes an object with what follows
    it: then the context ends before that mark, and the answer begins with it."""
    codec, image = FAMILIES[family](), scene([(2, SOFA_BED), (3, EYE)])
    said_ = codec.encode([("sofa_bed", SOFA_BED)], WIDTH, HEIGHT)
    drawn = [made for seed in range(20) for made in corrected(codec, image, said_, seed, "canonical")]
    (missed,) = {(m.context, m.answer, m.question, m.reply) for m in drawn if m.question.startswith("Is this")}
    context, answer, question, reply = missed
    assert isinstance(codec.tokens, TokenizerTokens)
    begun, going_on = CONTEXTS[family]
    assert answer[-1] == codec.tokens.end
    assert codec.tokens.decode_text((*context, *answer[:-1])) == begun + going_on
    assert begun.startswith(codec.tokens.decode_text(context))
    assert len(begun) - len(codec.tokens.decode_text(context)) <= len('"}')
    assert question == f"Is this everything: sofa_bed {IN_WORDS[family]}?"
    assert reply.startswith("No, there is also cat's_eye ")
