"""Masks of the grammar from a table are those of the grammar itself, in every format and space."""

from __future__ import annotations

import random

import pytest
import torch

from harness.inference.constraint import GrammarMasks
from harness.sequence import Codec, CoordinateSpace, Grammar, PatchSpace, TokenFormat, vocabulary_names
from harness.types import Category
from tests.support.tiny import PieceTokens

CATEGORIES = [Category(1, ("a", "a_b"), "f"), Category(2, ("c_b_a", "c"), "f"), Category(3, ("d",), "f")]


def codec_of(kind: str) -> Codec:
    space = PatchSpace(3) if kind == "patches" else CoordinateSpace(4, "xyxy" if kind == "xyxy" else "yxyx")
    tokens = PieceTokens([*vocabulary_names(CATEGORIES), "x_y", "z_w", "v"], space.bins)
    x, y, z, w, v = (tokens[piece] for piece in ("x", "_y", "z", "_w", "v"))
    forms = {
        "box first": TokenFormat(tokens, name_first=False),
        "no separator": TokenFormat(tokens, separator=()),
        "box first, no separator": TokenFormat(tokens, separator=(), name_first=False),
        "patches": TokenFormat(tokens, opening=(v,), middle=(x, y), separator=(z, w), closing=(z,)),
        "xyxy": TokenFormat(tokens, separator=(z, w)),
    }
    return Codec(CATEGORIES, tokens, space, forms.get(kind))


KINDS = ("default", "box first", "no separator", "box first, no separator", "patches", "xyxy")


@pytest.mark.parametrize("kind", KINDS)
def test_masks_along_random_walks(kind: str) -> None:
    codec, source, rows = codec_of(kind), random.Random(0), 40
    grammar, masks = Grammar(codec), GrammarMasks(codec, rows)
    states, active = [Grammar.START] * rows, list(range(rows))
    logits = torch.randn(rows, codec.tokens.size)
    ended = 0
    for _ in range(60):
        masked = masks.apply(logits[active], active)
        chosen = []
        for own, row in zip(masked, active, strict=True):
            allowed = grammar.allowed(states[row])
            assert set(own.isfinite().nonzero()[:, 0].tolist()) == allowed
            assert torch.equal(own[own.isfinite()], logits[row][own.isfinite()])
            chosen.append(source.choice(sorted(allowed)))
        left = [(row, token) for row, token in zip(active, chosen, strict=True) if token != codec.tokens.end]
        ended += len(active) - len(left)
        active = [row for row, _ in left]
        masks.advance(active, [token for _, token in left])
        for row, token in left:
            states[row] = grammar.advance(states[row], token)
        if not active:
            break
    assert ended > rows // 2
    assert len(masks._table_rows) < 60  # states are many more: places are told apart only as far as it matters


def test_a_table_grows_with_what_is_asked() -> None:
    """More than the sixteen masks that there is room for at first."""
    codec = codec_of("patches")
    grammar, locations = Grammar(codec), codec.tokens.locations
    masks = GrammarMasks(codec, len(locations))
    rows, logits = list(range(len(locations))), torch.zeros(len(locations), codec.tokens.size)
    before = codec.form.encode([(codec.name_ids["a"], (0, 0))])[:-3]  # the opening, the name, what stands between
    for token in before:
        masks.apply(logits, rows)
        masks.advance(rows, [token] * len(rows))
    masks.advance(rows, locations)
    masked = masks.apply(logits, rows)
    for own, first in zip(masked, locations, strict=True):
        state = Grammar.START
        for token in (*before, first):
            state = grammar.advance(state, token)
        assert set(own.isfinite().nonzero()[:, 0].tolist()) == grammar.allowed(state)
    assert len(masks._table_rows) > len(locations)
