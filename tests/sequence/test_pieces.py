"""Names in pieces: how they are split, that they come together again, and that a codec writes and reads them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import registry
from harness.errors import ConfigError
from harness.sequence import Codec, CoordinateSpace, PieceVocabulary, for_task, vocabulary_names
from harness.sequence.targets import target
from harness.sequence.tokens import pieces
from harness.types import Category
from tests.support import small

SHAPES = registry.benchmark("shapes", {}, None).categories


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("red_box", ["red", "_box"]),  # no word of more than four letters
        ("crimson_disc", ["crim", "son", "_disc"]),  # 7 letters: 4 and 3
        ("purple_square", ["pur", "ple", "_squ", "are"]),
        ("a__b", ["a", "__b"]),
        ("_hidden", ["_hid", "den"]),
        ("x", ["x"]),
    ],
)
def test_a_word_of_more_than_four_letters_is_halved(name: str, parts: list[str]) -> None:
    assert pieces(name) == parts


@given(st.text(alphabet="ab_", min_size=1, max_size=30))
def test_pieces_joined_are_the_name(name: str) -> None:
    assert "".join(pieces(name)) == name
    assert all(pieces(name))


def test_names_of_the_shapes_have_two_to_four_pieces_and_share_them() -> None:
    names = vocabulary_names(SHAPES)
    assert {len(pieces(name)) for name in names} == {2, 3, 4}
    tokens = PieceVocabulary(names, 65)
    assert tokens.size == 5 + 65 + 39  # special tokens, locations; 39 pieces for 90 names
    assert len({tokens.encode_name(name) for name in names}) == len(names) == 90
    assert tuple(tokens.decode_name(tokens.encode_name(name)) for name in names) == names


def test_a_codec_reads_what_it_wrote() -> None:
    codec = Codec(SHAPES, PieceVocabulary(vocabulary_names(SHAPES), 65), CoordinateSpace(65))
    rng = np.random.default_rng(0)
    for example in small.benchmark().split("train")[:20]:
        tokens = target(example, codec, "random", rng)
        parsed = codec.decode(tokens, example.width, example.height)
        assert parsed.malformed == 0
        assert sorted(mention.category_id or 0 for mention in parsed.mentions) == sorted(
            instance.category_id for instance in example.instances
        )


def test_a_prompt_writes_names_in_pieces() -> None:
    tokens = PieceVocabulary(["red_box", "crimson_disc"], 3)
    red, box, crim, son, disc = range(8, 13)
    assert tokens.ask(["red_box", "crimson_disc"]) == (1, red, box, 3, crim, son, disc, 2)


def test_captions_need_whole_names() -> None:
    codec = Codec((Category(1, ("red_box",), None),), PieceVocabulary(["red_box"], 9), CoordinateSpace(9))
    with pytest.raises(
        ConfigError, match="captions need a tokenizer of text or a NameVocabulary, this model has Piece"
    ):
        for_task(codec, "caption")
