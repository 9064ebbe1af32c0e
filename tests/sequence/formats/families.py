"""The formats that model families were trained on, each with a small tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest

from harness.sequence import (
    Codec,
    CoordinateSpace,
    JsonFormat,
    PatchSpace,
    PixelSpace,
    TokenFormat,
    TokenizerTokens,
    vocabulary_names,
)
from harness.types import Box, Category
from tests.support import small_tokenizers

CATEGORIES = [Category(1, ("sofa", "couch"), "f"), Category(2, ("sofa_bed",), "c"), Category(3, ("cat's_eye",), "r")]
NAMES = vocabulary_names(CATEGORIES)
WIDTH, HEIGHT = 640, 480


def resized(width: int, height: int) -> tuple[int, int]:
    """Whole patches of 28 pixels, as Qwen2.5-VL has it."""
    return max(28, round(width / 28) * 28), max(28, round(height / 28) * 28)


def paligemma() -> Codec:
    names = [f"<loc{index:04d}>" for index in range(1024)]
    tokens = TokenizerTokens(small_tokenizers.gemma_like(NAMES, names), names)
    form = TokenFormat(tokens, separator=tokens.encode_text(" ; "), name_first=False)
    return Codec(CATEGORIES, tokens, CoordinateSpace(1024), form)


def florence() -> Codec:
    tokens = TokenizerTokens(small_tokenizers.byte_level(NAMES), [f"<loc_{index}>" for index in range(1000)], before="")
    return Codec(CATEGORIES, tokens, CoordinateSpace(1000, "xyxy"), TokenFormat(tokens, separator=(), again=()))


def kosmos() -> Codec:
    marks = ("<phrase>", "</phrase>", "<object>", "</object>", "</delimiter_of_multi_objects/>")
    patches = [f"<patch_index_{index:04d}>" for index in range(1024)]
    tokens = TokenizerTokens(small_tokenizers.sentencepiece(NAMES), patches, added=marks, before="")
    phrase, phrase_end, thing, thing_end, again = (tokens.encode_text(mark)[-1] for mark in marks)
    form = TokenFormat(
        tokens,
        opening=(phrase,),
        middle=(phrase_end, thing),
        separator=(thing_end, phrase),
        closing=(thing_end,),
        again=(again,),
    )
    return Codec(CATEGORIES, tokens, PatchSpace(32), form)


def qwen() -> Codec:
    tokens = TokenizerTokens(small_tokenizers.byte_level(NAMES), before="")
    return Codec(CATEGORIES, tokens, PixelSpace(resized), JsonFormat(tokens))


def qwen3() -> Codec:
    tokens = TokenizerTokens(small_tokenizers.byte_level(NAMES), before="")
    return Codec(CATEGORIES, tokens, CoordinateSpace(1001, "xyxy"), JsonFormat(tokens))


FAMILIES = {family.__name__: cache(family) for family in (paligemma, florence, kosmos, qwen, qwen3)}
every_family = pytest.mark.parametrize("family", FAMILIES)
TWO = [("sofa_bed", Box(64, 48, 320, 240)), ("cat's_eye", Box(0, 0, 640, 480))]


def text_of(codec: Codec, tokens: Sequence[int]) -> str:
    """What the tokenizer itself makes of a sequence without its end."""
    assert tokens[-1] == codec.tokens.end
    assert isinstance(codec.tokens, TokenizerTokens)
    return codec.tokens.decode_text(tokens[:-1])
