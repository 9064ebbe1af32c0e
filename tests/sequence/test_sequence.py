"""Boxes and names survive the way to tokens and back, and nothing that a model emits is silently dropped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ConfigError, DataError
from harness.sequence import KINDS, Codec, CoordinateSpace, NameVocabulary, Tokens, vocabulary_names
from harness.types import Box, Category, Mention
from tests.support.tiny import PieceTokens, characters, codec_of, words

Order = Literal["yxyx", "xyxy"]
ORDERS: tuple[Order, ...] = ("yxyx", "xyxy")
AWKWARD = ("sparkler_(fireworks)", "wiper_(for_windshield/screen)", "Band_Aid", "air-sleeve", "cat's_eye", "_", "a__b")
both_orders = pytest.mark.parametrize("order", ORDERS)

# ---- names ---------------------------------------------------------------------------------------------------


def awkward() -> list[Category]:
    return [Category(1, AWKWARD, "r"), Category(2, ("sofa", "couch"), "f"), Category(3, ("sofa_bed",), None)]


def read_categories(path: Path) -> list[Category]:
    content = json.loads(path.read_text())
    records = content if isinstance(content, list) else content["categories"]
    return [Category(r["id"], tuple(dict.fromkeys([r["name"], *r["synonyms"]])), r["frequency"]) for r in records]


def name_codecs(categories: Sequence[Category]) -> list[Codec]:
    """One token a name, words, characters."""
    names = vocabulary_names(categories)
    tokens: list[Tokens] = [
        NameVocabulary(names, 2),
        PieceTokens(names, 2, words),
        PieceTokens(names, 2, characters),
    ]
    return [Codec(categories, each, CoordinateSpace(2)) for each in tokens]


def assert_all_names_survive(categories: Sequence[Category]) -> None:
    expected = [(name, category.id) for category in categories for name in category.names]
    for codec in name_codecs(categories):
        tokens = codec.encode([(name, Box(0, 0, 9, 9)) for name, _ in expected], 9, 9)
        parsed = codec.decode(tokens, 9, 9)
        assert [(mention.name, mention.category_id) for mention in parsed.mentions] == expected
        assert (parsed.malformed, parsed.truncated) == (0, False)


def test_awkward_names_survive() -> None:
    assert_all_names_survive(awkward())


@pytest.mark.parametrize(
    ("file", "count"), [("data/lvis_v1_categories.json", 1203), ("data/lvis_val_100.json", 1230)], ids=["v1", "v0.5"]
)
def test_all_lvis_names_survive(shared: Callable[[str], Path], file: str, count: int) -> None:
    categories = read_categories(shared(file))
    assert len(categories) == count
    assert_all_names_survive(categories)


def test_prefix_names_are_those_that_another_name_continues() -> None:
    by_words = codec_of(("sofa", "couch"), ("sofa_bed", "sofabed"), bins=2)
    assert by_words.prefix_names == {"sofa"}
    by_characters = codec_of(("sofa", "couch"), ("sofa_bed", "sofabed"), ("so",), bins=2, split=characters)
    assert by_characters.prefix_names == {"sofa", "so"}
    whole = [Category(1, ("sofa",), None), Category(2, ("sofa_bed",), None)]
    assert name_codecs(whole)[0].prefix_names == frozenset()


# ---- boxes ---------------------------------------------------------------------------------------------------


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Box, int, int, int]:
    """A real-valued box inside an image of 32 to 4000 pixels, and a number of bins."""
    width, height = draw(st.integers(32, 4000)), draw(st.integers(32, 4000))
    x0, x1 = sorted(draw(st.tuples(st.floats(0, width), st.floats(0, width))))
    y0, y1 = sorted(draw(st.tuples(st.floats(0, height), st.floats(0, height))))
    return Box(x0, y0, x1 - x0, y1 - y0), width, height, draw(st.integers(2, 5000))


@both_orders
@given(case=boxes())
def test_every_edge_is_within_half_a_bin(order: Order, case: tuple[Box, int, int, int]) -> None:
    box, width, height, bins = case
    space = CoordinateSpace(bins, order)
    restored = space.restore(space.quantise(box, width, height), width, height)
    if restored is None:  # no area is left only where two edges fell into one bin
        assert box.w <= width / (bins - 1) or box.h <= height / (bins - 1)
        return
    for got, want, side in zip(restored.corners, box.corners, (width, height) * 2, strict=True):
        assert abs(got - want) <= 0.5 * side / (bins - 1) + 1e-9 * side


@both_orders
@given(data=st.data(), side=st.integers(32, 4000))
def test_integer_boxes_are_exact_with_one_bin_per_pixel_edge(order: Order, data: st.DataObject, side: int) -> None:
    x0, x1 = sorted(data.draw(st.sets(st.integers(0, side), min_size=2, max_size=2)))
    y0, y1 = sorted(data.draw(st.sets(st.integers(0, side), min_size=2, max_size=2)))
    space = CoordinateSpace(side + 1, order)
    box = Box(x0, y0, x1 - x0, y1 - y0)
    assert space.restore(space.quantise(box, side, side), side, side) == box


def test_quantisation_by_hand() -> None:
    # Image 100 wide, 50 high, 11 bins: 10 px and 5 px a bin. x0 = 12 -> 1.2 -> 1; y0 = 8 -> 1.6 -> 2;
    # x1 = 12 + 34 = 46 -> 4.6 -> 5; y1 = 8 + 19 = 27 -> 5.4 -> 5.
    box = Box(12, 8, 34, 19)
    assert CoordinateSpace(11, "yxyx").quantise(box, 100, 50) == (2, 1, 5, 5)
    assert CoordinateSpace(11, "xyxy").quantise(box, 100, 50) == (1, 2, 5, 5)
    for order in ORDERS:
        space = CoordinateSpace(11, order)
        assert space.restore(space.quantise(box, 100, 50), 100, 50) == Box(10, 10, 40, 15)


def test_boxes_are_clipped_to_the_image() -> None:
    assert CoordinateSpace(11).quantise(Box(-5, -5, 200, 200), 100, 50) == (0, 0, 10, 10)


# ---- parsing -------------------------------------------------------------------------------------------------

# Five bins on 4 x 4 pixels, so that bin b is the edge at b pixels.
SMALL = Codec(
    [Category(7, ("cat",), "f"), Category(8, ("dog",), "f")], NameVocabulary(("cat", "dog"), 5), CoordinateSpace(5)
)
PAD, _IMAGE, _DETECT, SEP, END = range(5)
CAT, DOG = 10, 11


def at(*bins: int) -> tuple[int, ...]:
    return tuple(5 + bin for bin in bins)


BOX = at(0, 0, 1, 1)
GOLDENS: dict[str, tuple[tuple[int, ...], list[str], int, bool]] = {
    # name: (tokens, names read, malformed, truncated)
    "nothing at all": ((), [], 0, True),
    "empty answer": ((END,), [], 0, False),
    "one object": ((CAT, *BOX, END), ["cat"], 0, False),
    "two objects": ((CAT, *BOX, SEP, DOG, *BOX, END), ["cat", "dog"], 0, False),
    "truncated, last entry complete": ((CAT, *BOX), ["cat"], 0, True),
    "truncated, last entry incomplete": ((CAT, *BOX, SEP, DOG, *at(0, 0, 1)), ["cat"], 0, True),
    "truncated after a separator": ((CAT, *BOX, SEP), ["cat"], 0, True),
    "truncated, an earlier entry malformed": ((CAT, SEP, DOG, *BOX), ["dog"], 1, True),
    "three locations": ((CAT, *at(0, 0, 1), END), [], 1, False),
    "five locations": ((CAT, *BOX, *at(2), END), [], 1, False),
    "no locations": ((CAT, END), [], 1, False),
    "no name": ((*BOX, END), [], 1, False),
    "name after the box": ((*BOX, CAT, END), [], 1, False),
    "location inside the name": ((CAT, *at(0), DOG, *BOX, END), [], 1, False),
    "no separator": ((CAT, *BOX, DOG, *BOX, END), [], 1, False),
    "separator at the end": ((CAT, *BOX, SEP, END), ["cat"], 1, False),
    "two separators": ((CAT, *BOX, SEP, SEP, DOG, *BOX, END), ["cat", "dog"], 1, False),
    "only a separator": ((SEP, END), [], 2, False),
    "empty box: y edges meet": ((CAT, *at(1, 0, 1, 1), END), [], 1, False),
    "empty box: x edges meet": ((CAT, *at(0, 1, 1, 1), END), [], 1, False),
    "inverted box: y": ((CAT, *at(2, 0, 1, 1), END), [], 1, False),
    "inverted box: x": ((CAT, *at(0, 2, 1, 1), END), [], 1, False),
    "unknown name": ((CAT, DOG, *BOX, END), ["cat dog"], 0, False),
    "unknown name of special tokens": ((PAD, *BOX, END), ["<pad>"], 0, False),
    "tokens after the end": ((CAT, *BOX, END, SEP, DOG, *BOX, END), ["cat"], 0, False),
    "the end first": ((END, CAT, *BOX), [], 0, False),
}


@pytest.mark.parametrize("case", GOLDENS)
def test_parsing_by_hand(case: str) -> None:
    tokens, names, malformed, truncated = GOLDENS[case]
    parsed = SMALL.decode(tokens, 4, 4)
    assert [mention.name for mention in parsed.mentions] == names
    assert (parsed.malformed, parsed.truncated) == (malformed, truncated)


def test_mentions_say_where_they_stand() -> None:
    #         0    1..4            5    6    7    8..11           12
    tokens = (CAT, *at(0, 1, 2, 3), SEP, DOG, CAT, *at(1, 0, 4, 4), END)
    assert SMALL.decode(tokens, 4, 4).mentions == (
        Mention("cat", 7, Box(1, 0, 2, 2), name_start=0, name_end=1, box_start=1, box_end=5),
        Mention("dog cat", None, Box(0, 1, 4, 3), name_start=6, name_end=8, box_start=8, box_end=12),
    )


def read_by_pattern(tokens: Sequence[int]) -> tuple[int, int, bool]:
    """Mentions, malformed entries, truncated: an independent reading of SMALL's sequences, by regular expression."""
    text = "".join("nnn;$01234nn"[token] for token in tokens)
    body, end, _ = text.partition("$")
    entries = body.split(";") if body else []
    read = [re.fullmatch(r"n+(\d)(\d)(\d)(\d)", entry) for entry in entries]
    good = [match is not None and match[3] > match[1] and match[4] > match[2] for match in read]
    excused = not end and bool(good) and not good[-1]  # the last entry, cut off
    return sum(good), len(good) - sum(good) - excused, not end


@given(st.lists(st.sampled_from([PAD, SEP, SEP, END, CAT, DOG, *at(0, 1, 2, 3, 4)]), max_size=30))
def test_parsing_accounts_for_every_entry(tokens: list[int]) -> None:
    parsed = SMALL.decode(tokens, 4, 4)
    assert (len(parsed.mentions), parsed.malformed, parsed.truncated) == read_by_pattern(tokens)


entries_of_tokens = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([CAT, DOG, PAD]), *[st.integers(5, 9)] * 4),
        st.lists(st.integers(0, 11), max_size=6).map(tuple),
    ),
    max_size=5,
)


@given(entries_of_tokens, st.booleans())
def test_parsing_accounts_for_almost_well_formed_entries(entries: list[tuple[int, ...]], ended: bool) -> None:
    tokens = [token for entry in entries for token in (*entry, SEP)][:-1] + [END] * ended
    parsed = SMALL.decode(tokens, 4, 4)
    assert (len(parsed.mentions), parsed.malformed, parsed.truncated) == read_by_pattern(tokens)
    for mention in parsed.mentions:
        again = SMALL.decode([*tokens[mention.name_start : mention.box_end], END], 4, 4)
        assert [(m.name, m.box) for m in again.mentions] == [(mention.name, mention.box)]


def test_kinds_and_text() -> None:
    tokens = (CAT, *at(0, 1, 2, 3), SEP, DOG, CAT, END)
    names = [KINDS[kind] for kind in SMALL.kinds(tokens)]
    assert names == ["name", *["location"] * 4, "separator", "name", "name", "end"]
    assert SMALL.text(tokens) == "cat <loc0> <loc1> <loc2> <loc3> ; dog cat <end>"
    assert SMALL.text((*at(0), CAT)) == "<loc0> cat"


# ---- errors --------------------------------------------------------------------------------------------------


def test_codec_refuses_bins_that_the_tokenizer_does_not_have() -> None:
    with pytest.raises(ConfigError, match="bins: 6 asked for, the tokenizer has 5 locations"):
        Codec([Category(1, ("cat",), None)], NameVocabulary(("cat",), 5), CoordinateSpace(6))
    with pytest.raises(ConfigError, match="bins: expected at least 2, got 1"):
        CoordinateSpace(1)


def test_codec_refuses_names_with_the_same_tokens() -> None:
    def first_letter(name: str) -> list[str]:
        return [name[0]]

    with pytest.raises(DataError, match="two names have the same tokens"):
        codec_of(("cat",), ("cow",), bins=2, split=first_letter)


@pytest.mark.parametrize("names", [("cat", "cat"), ("cat", ";"), ("<loc1>",)])
def test_name_vocabulary_refuses_names_that_collide(names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="expected each name once"):
        NameVocabulary(names, 2)
