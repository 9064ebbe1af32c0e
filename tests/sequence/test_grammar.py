"""The decoding grammar admits the sequences that the parser reads without a complaint, and no others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sequence import Codec, CoordinateSpace, Grammar, State, vocabulary_names
from harness.types import Box, Category
from tests.support.tiny import PieceTokens, codec_of, pieces_of

Order = Literal["yxyx", "xyxy"]
both_orders = pytest.mark.parametrize("order", ["yxyx", "xyxy"])


def well_formed(codec: Codec, tokens: Sequence[int]) -> bool:
    """The verdict of `decode`: complete, nothing malformed, no unknown name, nothing after the end."""
    parsed = codec.decode(tokens, 8, 8)
    all_named = all(mention.category_id is not None for mention in parsed.mentions)
    return all_named and not parsed.malformed and list(tokens).index(codec.tokens.end) == len(tokens) - 1


def admitted(codec: Codec, length: int) -> set[tuple[int, ...]]:
    """Every complete sequence of at most `length` tokens that the grammar can walk."""
    grammar, complete = Grammar(codec), set()
    open_walks: list[tuple[tuple[int, ...], State]] = [((), Grammar.START)]
    while open_walks:
        tokens, state = open_walks.pop()
        for token in grammar.allowed(state):
            longer = (*tokens, token)
            if token == codec.tokens.end:
                complete.add(longer)
            elif len(longer) < length:
                open_walks.append((longer, grammar.advance(state, token)))
    return complete


def test_grammar_admits_exactly_the_valid_set() -> None:
    # Names a, a_b; bins 0 and 1, so the only box is 0 0 1 1: the empty answer, 2 single objects, 2 x 2 pairs.
    codec = codec_of(("a", "a_b"), bins=2)
    tokens = pieces_of(codec)
    a, b, (zero, one) = tokens["a"], tokens["_b"], tokens.locations
    objects = [(a, zero, zero, one, one), (a, b, zero, zero, one, one)]
    pairs = {(*p, tokens.separator, *q, tokens.end) for p, q in product(objects, objects)}
    assert admitted(codec, 14) == {(tokens.end,), *((*p, tokens.end) for p in objects), *pairs}


@pytest.mark.parametrize(("names", "bins", "length"), [(("a", "a_b"), 2, 7), (("a",), 3, 6)])
def test_grammar_agrees_with_the_parser_on_every_short_sequence(names: tuple[str, ...], bins: int, length: int) -> None:
    codec = codec_of(names, bins=bins)
    inner = [token for token in range(codec.tokens.size) if token != codec.tokens.end]
    every = ((*body, codec.tokens.end) for n in range(length) for body in product(inner[2:], repeat=n))
    valid = {tokens for tokens in every if well_formed(codec, tokens)}
    assert valid == admitted(codec, length)
    # One entry at most fits: the empty answer, and names x boxes (near < far on both axes).
    assert len(valid) == 1 + len(names) * (bins * (bins - 1) // 2) ** 2


def prefix_codec(order: Order) -> Codec:
    categories = [Category(1, ("sofa", "couch"), "f"), Category(2, ("sofa_bed", "sofa_bed_cover"), "c")]
    return Codec(categories, PieceTokens(vocabulary_names(categories), 6), CoordinateSpace(6, order))


@both_orders
@given(source=st.randoms(use_true_random=False))
def test_random_walks_are_always_read_without_a_complaint(order: Order, source: random.Random) -> None:
    codec = prefix_codec(order)
    grammar, state = Grammar(codec), Grammar.START
    tokens: list[int] = []
    while not tokens or tokens[-1] != codec.tokens.end:
        following = sorted(grammar.allowed(state))
        assert following, "a dead end"
        stop = len(tokens) > 30 and codec.tokens.end in following
        token = codec.tokens.end if stop else source.choice(following)
        tokens.append(token)
        state = grammar.advance(state, token)
    assert well_formed(codec, tokens)


@st.composite
def objects_of_bins(draw: st.DrawFn) -> list[tuple[str, Box]]:
    """Objects of `prefix_codec` whose edges are bins of an 8 x 8 image, with area."""
    edges = st.sets(st.integers(0, 5), min_size=2, max_size=2).map(sorted)
    objects = []
    for name in draw(st.lists(st.sampled_from(["sofa", "couch", "sofa_bed", "sofa_bed_cover"]), max_size=5)):
        (x0, x1), (y0, y1) = draw(edges), draw(edges)
        objects.append((name, Box(x0 * 8 / 5, y0 * 8 / 5, (x1 - x0) * 8 / 5, (y1 - y0) * 8 / 5)))
    return objects


@both_orders
@given(objects=objects_of_bins())
def test_every_encoded_list_is_admitted(order: Order, objects: list[tuple[str, Box]]) -> None:
    codec = prefix_codec(order)
    grammar, state = Grammar(codec), Grammar.START
    tokens = codec.encode(objects, 8, 8)
    for token in tokens:
        assert token in grammar.allowed(state)
        state = grammar.advance(state, token)
    parsed = codec.decode(tokens, 8, 8)
    assert [mention.name for mention in parsed.mentions] == [name for name, _ in objects]
    for mention, (_, box) in zip(parsed.mentions, objects, strict=True):
        assert mention.box.corners == pytest.approx(box.corners)
