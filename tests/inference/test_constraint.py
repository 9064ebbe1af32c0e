"""Masks of the grammar from a table are those of the grammar itself, in every format and space."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.inference import constraint
from harness.inference.constraint import Masks, SteppedMasks, TableMasks, make_masks
from harness.sequence import Codec, CoordinateSpace, Grammar, PatchSpace, TokenFormat, vocabulary_names
from harness.types import Category
from model_zoo.vlm.florence2 import CentreSpace
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


def masks_of(codec: Codec, rows: int, stepped: bool) -> Masks:
    masks = SteppedMasks(codec, rows) if stepped else make_masks(codec, rows, "cpu")
    assert isinstance(masks, SteppedMasks if stepped else TableMasks)
    return masks


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_along_random_walks(kind: str, stepped: bool) -> None:
    codec, source, rows = codec_of(kind), random.Random(0), 40
    grammar, masks = Grammar(codec), masks_of(codec, rows, stepped)
    states, active = [Grammar.START] * rows, list(range(rows))
    logits = torch.randn(rows, codec.tokens.size)
    ended = 0
    for _ in range(60):
        masked = masks.apply(logits[active], torch.tensor(active))
        chosen = []
        for masked_logits, row in zip(masked, active, strict=True):
            allowed = grammar.allowed(states[row])
            assert set(masked_logits.isfinite().nonzero()[:, 0].tolist()) == allowed
            assert torch.equal(masked_logits[masked_logits.isfinite()], logits[row][masked_logits.isfinite()])
            chosen.append(source.choice(sorted(allowed)))
        left = [(row, token) for row, token in zip(active, chosen, strict=True) if token != codec.tokens.end]
        ended += len(active) - len(left)
        active = [row for row, _ in left]
        masks.advance(
            torch.tensor(active, dtype=torch.long), torch.tensor([token for _, token in left], dtype=torch.long)
        )
        for row, token in left:
            states[row] = grammar.advance(states[row], token)
        if not active:
            break
    assert ended > rows // 2
    if isinstance(masks, SteppedMasks):
        assert len(masks._table_rows) < 60  # states are many more: places are told apart only as far as it matters


def test_a_table_grows_with_what_is_asked() -> None:
    """More than the sixteen masks that there is room for at first."""
    codec = codec_of("patches")
    grammar, locations = Grammar(codec), codec.tokens.locations
    masks = SteppedMasks(codec, len(locations))
    rows, logits = torch.arange(len(locations)), torch.zeros(len(locations), codec.tokens.size)
    before = codec.form.encode([(codec.name_ids["a"], (0, 0))])[:-3]  # the opening, the name, what stands between
    for token in before:
        masks.apply(logits, rows)
        masks.advance(rows, torch.tensor([token] * len(rows)))
    masks.advance(rows, torch.tensor(locations))
    masked = masks.apply(logits, rows)
    for masked_logits, first in zip(masked, locations, strict=True):
        state = Grammar.START
        for token in (*before, first):
            state = grammar.advance(state, token)
        assert set(masked_logits.isfinite().nonzero()[:, 0].tolist()) == grammar.allowed(state)
    assert len(masks._table_rows) > len(locations)


NAMES = ("a", "a_b", "a_b_c", "b_a", "c", "c_a", "d_d_d")


@st.composite
def codecs(draw: st.DrawFn) -> Codec:
    """Names that begin alike, in any format and space."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    space: Any = draw(
        st.sampled_from([PatchSpace(2), PatchSpace(3), CoordinateSpace(2), CoordinateSpace(5), CentreSpace(4)])
    )
    tokens = PieceTokens([*names, "x_y", "z_w", "v"], space.bins)
    literals: list[tuple[int, ...]] = [(), (tokens["x"], tokens["_y"]), (tokens["z"],), (tokens["v"],)]
    opening, middle, closing = draw(st.permutations(literals))[:3]
    separator = draw(st.sampled_from([(), (tokens.separator,), (tokens.separator, tokens["_w"])]))
    form = TokenFormat(
        tokens, opening=opening, middle=middle, separator=separator, closing=closing, name_first=draw(st.booleans())
    )
    return Codec([Category(index, (name,), "f") for index, name in enumerate(names, 1)], tokens, space, form)


@given(codec=codecs(), source=st.randoms(use_true_random=False), many=st.sampled_from([1, 32]))
def test_the_table_agrees_with_the_grammar_in_any_format(codec: Codec, source: random.Random, many: int) -> None:
    """Whether a state has its children in a list or over the whole vocabulary."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constraint, "MANY", many)
        table, walked = make_masks(codec, 1, "cpu"), SteppedMasks(codec, 1)
    row, logits = torch.tensor([0]), torch.zeros(1, codec.tokens.size)
    for _ in range(25):
        masked, expected = table.apply(logits, row), walked.apply(logits, row)
        assert torch.equal(masked, expected)
        following = masked[0].isfinite().nonzero()[:, 0].tolist()
        token = source.choice([token for token in following if token != codec.tokens.end] or following)
        if token == codec.tokens.end:
            break
        for masks in (table, walked):
            masks.advance(row, torch.tensor([token]))


class ThirdEdge(CoordinateSpace):
    """A space whose last number depends on the first."""

    def following(self, numbers: Sequence[int]) -> range:
        return range(numbers[0] + 1, self.bins) if len(numbers) == 3 else super().following(numbers)


def test_a_space_that_needs_more_than_the_last_number_but_one_is_walked() -> None:
    categories = [Category(1, ("a",), "f")]
    codec = Codec(categories, PieceTokens(vocabulary_names(categories), 4), ThirdEdge(4))
    assert isinstance(make_masks(codec, 1, "cpu"), SteppedMasks)


def test_a_table_is_made_once_for_a_codec() -> None:
    codec = codec_of("default")
    first, second = make_masks(codec, 1, "cpu"), make_masks(codec, 2, "cpu")
    assert isinstance(first, TableMasks)
    assert isinstance(second, TableMasks)
    assert first._children is second._children
