"""Converts boxes and names to token sequences and back. Pure functions: no model, no file.

A sequence lists objects as `name <loc><loc><loc><loc>`, separated, ended by the end token:

    red_disc <loc3> <loc10> <loc20> <loc31> ; blue_box <loc0> ... <|endofchunk|>

or in the format that a model family was trained on. The adapter declares its tokens, its coordinate space and its
format; `Codec` joins them with a benchmark's names.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.sequence.captions import CaptionCodec, Task, for_task
from harness.sequence.codec import NOISE, Codec
from harness.sequence.formats import KINDS, Format, TokenFormat
from harness.sequence.grammar import Grammar, State
from harness.sequence.json_format import JsonFormat
from harness.sequence.spaces import CoordinateSpace, PatchSpace, PixelSpace, Space
from harness.sequence.tokens import (
    NAMES,
    Asks,
    Ids,
    NameQuestion,
    NameVocabulary,
    PieceVocabulary,
    TextTokens,
    Tokenizer,
    TokenizerTokens,
    Tokens,
)
from harness.types import Category

__all__ = [
    "KINDS",
    "NAMES",
    "NOISE",
    "Asks",
    "CaptionCodec",
    "Codec",
    "CoordinateSpace",
    "Format",
    "Grammar",
    "Ids",
    "JsonFormat",
    "NameQuestion",
    "NameVocabulary",
    "PatchSpace",
    "PieceVocabulary",
    "PixelSpace",
    "Space",
    "State",
    "Task",
    "TextTokens",
    "TokenFormat",
    "Tokenizer",
    "TokenizerTokens",
    "Tokens",
    "for_task",
    "vocabulary_names",
]


def vocabulary_names(categories: Sequence[Category]) -> tuple[str, ...]:
    """Lists every name of every category, in a fixed order."""
    return tuple(name for category in categories for name in category.names)
