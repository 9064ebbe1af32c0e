"""Three categories, and captions of them: in words, in a vocabulary of names, with and without boxes."""

from __future__ import annotations

from functools import cache

from harness.sequence import (
    CaptionCodec,
    Codec,
    CoordinateSpace,
    NameVocabulary,
    Task,
    TokenizerTokens,
    for_task,
    vocabulary_names,
)
from harness.types import Box, Category, Example, Parsed
from tests.support import small_tokenizers
from tests.support.tiny import example_of

SOFA, BED, LAMP = 1, 2, 3
CATEGORIES = (
    Category(SOFA, ("sofa", "couch"), "f"),
    Category(BED, ("sofa_bed", "bed"), "f"),
    Category(LAMP, ("lamp", "reading_lamp_(desk)", "glass"), "f"),
)
LEFT, RIGHT, LOW = Box(0, 0, 4, 4), Box(4, 0, 4, 4), Box(0, 4, 8, 4)
BINS = 9
WORDS = (
    *("sofa", "Sofas", "bed", "beds", "couches", "GLASS", "glasses", "lamp", "reading", "lampshade", "as"),
    *("a", ",", ".", "(", "desk", ")", "-"),
)


@cache
def tokens_of(kind: str = "byte_level", names: tuple[str, ...] = ()) -> TokenizerTokens:
    tokenizer = getattr(small_tokenizers, kind)(names or vocabulary_names(CATEGORIES))
    return TokenizerTokens(tokenizer, [f"<loc{bin}>" for bin in range(BINS)], before=" ")


@cache
def prose(task: Task = "caption", kind: str = "byte_level") -> CaptionCodec:
    return captioning(Codec(CATEGORIES, tokens_of(kind), CoordinateSpace(BINS)), task)


def listed(task: Task = "caption") -> CaptionCodec:
    tokens = NameVocabulary(vocabulary_names(CATEGORIES), BINS)
    return captioning(Codec(CATEGORIES, tokens, CoordinateSpace(BINS)), task)


def captioning(codec: Codec, task: Task) -> CaptionCodec:
    made = for_task(codec, task)
    assert isinstance(made, CaptionCodec)
    return made


def parsed_text(codec: Codec, text: str) -> Parsed:
    """What a codec makes of an answer that is this text."""
    assert isinstance(codec.tokens, TokenizerTokens)
    return codec.decode((*codec.tokens.encode_text(text), codec.tokens.end), 8, 8)


def names(parsed: Parsed) -> list[str]:
    return [mention.name for mention in parsed.mentions]


def example(*categories: int) -> Example:
    """Objects in reading order: left, right, below."""
    return example_of(1, list(zip(categories, (LEFT, RIGHT, LOW), strict=False)))
