"""What a grammar admits in each form of a list of objects is what is read without a complaint."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import product
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import registry
from harness.errors import ConfigError
from harness.run.context import Context, build
from harness.sequence import (
    Codec,
    CoordinateSpace,
    Grammar,
    PatchSpace,
    TokenFormat,
)
from harness.types import Category
from tests.sequence.formats.families import FAMILIES, HEIGHT, TWO, WIDTH
from tests.sequence.test_grammar import admitted, well_formed
from tests.support import small
from tests.support.tiny import PieceTokens


class Structured(PieceTokens):
    """Pieces, and after them three tokens for structure."""

    def __init__(self, names: Sequence[str], bins: int) -> None:
        super().__init__(names, bins)
        self.marks = (self.size, self.size + 1, self.size + 2)
        self.size += 3

    def decode_name(self, ids: Sequence[int]) -> str:
        return " ".join(
            f"<{token}>" if token in self.marks else super(Structured, self).decode_name([token]) for token in ids
        )


def structured(kind: str, names: Sequence[str], side: int) -> Codec:
    """A tiny codec of each form; `side` bins, or patches on a side."""
    space = PatchSpace(side) if "patches" in kind else CoordinateSpace(side)
    tokens = Structured(names, space.bins)
    a, b, c = tokens.marks
    forms = {
        "box first": TokenFormat(tokens, name_first=False),
        "long separator": TokenFormat(tokens, separator=(a, b), name_first=False),
        "no separator": TokenFormat(tokens, separator=()),
        "patches, no separator": TokenFormat(tokens, separator=()),
        "box first, no separator": TokenFormat(tokens, separator=(), name_first=False, opening=(a,)),
        "patches": TokenFormat(tokens, opening=(a,), middle=(b,), separator=(c, a), closing=(c,)),
    }
    return Codec([Category(1, tuple(names), None)], tokens, space, forms[kind])


every_form = pytest.mark.parametrize(
    "kind",
    ["box first", "long separator", "no separator", "box first, no separator", "patches", "patches, no separator"],
)


@every_form
def test_grammar_agrees_with_the_parser_on_every_short_sequence(kind: str) -> None:
    codec = structured(kind, ("a",) if "patches" in kind else ("a", "a_b"), 2)
    assert isinstance(codec.form, TokenFormat)
    form, tokens = codec.form, codec.tokens
    structure = {*form.separator, *form.opening, *form.middle, *form.closing}
    locations = (tokens.locations[0], tokens.locations[-1])  # of four patches two, or there were too many sequences
    inner = {*locations, *structure, *(token for ids in codec.name_ids.values() for token in ids)}
    length = 7
    every = ((*body, codec.tokens.end) for n in range(length) for body in product(inner, repeat=n))
    valid = {tokens for tokens in every if well_formed(codec, tokens)}
    assert valid == {tokens for tokens in admitted(codec, length) if {*tokens[:-1]} <= inner}
    assert len(valid) > 1


@every_form
@given(source=st.randoms(use_true_random=False))
def test_random_walks_are_always_read_without_a_complaint(kind: str, source: random.Random) -> None:
    codec = structured(kind, ("sofa", "couch", "sofa_bed", "sofa_bed_cover"), 5)
    grammar, state = Grammar(codec), Grammar.START
    tokens: list[int] = []
    while not tokens or tokens[-1] != codec.tokens.end:
        following = sorted(grammar.allowed(state))
        assert following, "a dead end"
        stop = len(tokens) > 30 and codec.tokens.end in following
        tokens.append(codec.tokens.end if stop else source.choice(following))
        state = grammar.advance(state, tokens[-1])
    assert well_formed(codec, tokens)


@pytest.mark.parametrize("family", ["paligemma", "florence", "kosmos"])
def test_every_encoded_list_is_admitted(family: str) -> None:
    codec = FAMILIES[family]()
    grammar = Grammar(codec)
    for objects in ([], TWO[:1], TWO, TWO * 2):
        state = Grammar.START
        for token in codec.encode(objects, WIDTH, HEIGHT):
            assert token in grammar.allowed(state)
            state = grammar.advance(state, token)


def test_json_has_no_grammar() -> None:
    with pytest.raises(ConfigError, match="answers in JSON have no decoding grammar; set grammar: false"):
        Grammar(FAMILIES["qwen"]())


def test_a_run_is_told_so_before_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "model", lambda *_: SimpleNamespace(codec=FAMILIES["qwen"]()))
    for grammar in (False, True):
        suite = small.mini_suite(sample={"samples": 2, "max_tokens": 12, "grammar": grammar})
        context = Context(suite, small.benchmark(), small.accelerator())
        with pytest.raises(ConfigError, match="no decoding grammar") if grammar else nullcontext():
            assert build(context, suite.models[0]).codec is FAMILIES["qwen"]()
