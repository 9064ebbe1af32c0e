"""Captions: what is written, what is found in it, and what is right."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import registry
from harness.metrics.samples.matching import match_sample
from harness.run.task import without_boxes
from harness.sequence import (
    Codec,
    CoordinateSpace,
    JsonFormat,
    NameVocabulary,
    TokenizerTokens,
    vocabulary_names,
)
from harness.sequence.captions import TEMPLATES, Prose, sentence
from harness.sequence.formats import END, LOCATION, NAME, SEPARATOR
from harness.sequence.targets import target
from harness.types import Box, Mention, Parsed
from tests.sequence.caption_cases import (
    BED,
    BINS,
    CATEGORIES,
    LAMP,
    LEFT,
    LOW,
    RIGHT,
    SOFA,
    WORDS,
    captioning,
    example,
    listed,
    names,
    parsed_text,
    prose,
    tokens_of,
)
from tests.support.tiny import example_of

# ---- sentences ---------------------------------------------------------------------------------------------------


def test_sentences() -> None:
    assert sentence(["red_disc"], 0) == "A red disc."
    assert sentence(["red_disc", "orange"], 0) == "A red disc and an orange."
    assert sentence(["red_disc", "orange", "blue_box"], 1) == "There is a red disc, an orange and a blue box."
    assert {sentence([], template) for template in range(len(TEMPLATES))} == {"Nothing."}


def in_sevens(everything: Sequence[str]) -> list[list[str]]:
    return [list(everything[start : start + 7]) for start in range(0, len(everything), 7)]


@pytest.mark.parametrize("kind", ["byte_level", "slow"])
def test_every_lvis_name_is_found_in_order_in_every_sentence(kind: str) -> None:
    """Names with signs, and 107 that begin other names, seven to a caption so that they meet."""
    categories = registry.lvis_categories()
    everything = list(vocabulary_names(categories))
    codec = captioning(Codec(categories, tokens_of(kind, tuple(everything)), CoordinateSpace(BINS)), "caption")
    np.random.default_rng(0).shuffle(everything)
    for template, seven in itertools.product(range(3), in_sevens(everything)):
        parsed = codec.decode(codec.encode([(name, LEFT) for name in seven], 8, 8, template), 8, 8)
        assert names(parsed) == seven
        assert [mention.category_id for mention in parsed.mentions] == [codec.category_of[name] for name in seven]
        assert (parsed.malformed, parsed.truncated) == (0, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A sofa bed.", ["sofa_bed"]),  # the longest
        ("a sofa, a bed", ["sofa", "bed"]),
        ("a sofa, bed and couch", ["sofa", "bed", "couch"]),  # a name goes over no comma
        ("COUCHES beside Lamps", ["couch", "lamp"]),
        ("glasses", ["glass"]),
        ("a reading lamp (desk) and a lamp", ["reading_lamp_(desk)", "lamp"]),
        ("a reading lamp", ["lamp"]),
        ("bedside lampshade, sofas' ends; bed-lamp", ["sofa", "bed", "lamp"]),  # whole words
        ("somebody sleeps", []),
        ("", []),
    ],
)
def test_what_a_caption_mentions(text: str, expected: list[str]) -> None:
    parsed = parsed_text(prose(), text)
    assert names(parsed) == expected
    assert (parsed.malformed, parsed.truncated) == (0, False)
    assert {mention.box for mention in parsed.mentions} <= {Box(0, 0, 8, 8)}


@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_what_a_caption_mentions_is_what_a_regular_expression_finds(words: list[str]) -> None:
    """The longest of all names at each place, as an alternation tries them, with one space around every sign."""
    spaced = {name: name.replace("_", " ").replace("(", "( ").replace(")", " )") for name in prose().category_of}
    longest_first = "|".join(re.escape(name) for name in sorted(spaced.values(), key=len, reverse=True))
    text = " ".join(words)
    expected = re.findall(rf"(?<!\S)({longest_first})(?:s|es)?(?!\S)", text.lower())
    writing = prose().writing
    assert isinstance(writing, Prose)
    assert [spaced[name] for name, _, _ in writing.mentioned(text)] == expected
    for name, start, end in writing.mentioned(text):
        assert text[start:end].lower().startswith(spaced[name])


def test_a_mention_knows_its_tokens() -> None:
    codec = prose()
    assert isinstance(codec.tokens, TokenizerTokens)
    tokens = codec.tokens.encode_text("There is a reading lamp (desk), two sofa beds")  # truncated
    parsed = codec.decode(tokens, 8, 8)
    assert parsed.truncated
    texts = [codec.tokens.decode_text(tokens[m.name_start : m.name_end]).strip() for m in parsed.mentions]
    assert [text.rstrip(",s") for text in texts] == ["reading lamp (desk)", "sofa bed"]
    kinds = codec.kinds((*tokens, codec.tokens.end))
    named = {position for m in parsed.mentions for position in range(m.name_start, m.name_end)}
    assert kinds == [NAME if k in named else SEPARATOR for k in range(len(tokens))] + [END]


# ---- a vocabulary of names -----------------------------------------------------------------------------------------


def test_a_caption_in_a_vocabulary_of_names() -> None:
    codec = listed()
    ids, separator, end = codec.name_ids, codec.tokens.separator, codec.tokens.end
    tokens = codec.encode([("couch", LEFT), ("lamp", LOW)], 8, 8)
    assert tokens == (*ids["couch"], separator, *ids["lamp"], end)
    assert codec.kinds(tokens) == [NAME, SEPARATOR, NAME, END]
    assert codec.text(tokens) == "couch ; lamp <end>"
    whole = Box(0, 0, 6, 5)
    mentions = Mention("couch", SOFA, whole, 0, 1, 1, 1), Mention("lamp", LAMP, whole, 2, 3, 3, 3)
    assert codec.decode(tokens, 6, 5) == Parsed(mentions, 0, False)
    assert codec.decode(codec.encode([], 8, 8), 8, 8) == Parsed((), 0, False)


def test_what_cannot_be_read_is_counted() -> None:
    codec = listed()
    couch, lamp = codec.name_ids["couch"][0], codec.name_ids["lamp"][0]
    place, between, end = codec.tokens.locations[3], codec.tokens.separator, codec.tokens.end
    boxes = (couch, place, place, place, place, between, lamp, place, place, place, place, end)
    assert names(codec.decode(boxes, 8, 8)) == ["couch", "lamp"]  # of a model that gives boxes unasked
    assert codec.decode(boxes, 8, 8).malformed == 0
    damaged = (couch, lamp, between, place, between, between, lamp, end)  # two names; none; nothing
    assert (names(codec.decode(damaged, 8, 8)), codec.decode(damaged, 8, 8).malformed) == (["lamp"], 3)
    cut = codec.decode((lamp, between, place), 8, 8)
    assert (names(cut), cut.malformed, cut.truncated) == (["lamp"], 0, True)


# ---- captions and boxes --------------------------------------------------------------------------------------------


def test_a_caption_and_its_boxes() -> None:
    codec = listed("caption+boxes")
    assert isinstance(codec.tokens, NameVocabulary)
    couch, lamp, places = codec.name_ids["couch"][0], codec.name_ids["lamp"][0], codec.tokens.locations
    tokens = codec.encode([("couch", LEFT), ("lamp", LOW)], 8, 8)
    first, second = (places[0], places[0], places[4], places[4]), (places[4], places[0], places[8], places[8])
    between = codec.tokens.separator
    boxes = (couch, *first, between, lamp, *second, codec.tokens.end)
    assert tokens == (couch, between, lamp, codec.tokens.detect, *boxes)
    assert codec.decode(tokens, 8, 8) == Parsed(
        (Mention("couch", SOFA, LEFT, 4, 5, 5, 9), Mention("lamp", LAMP, LOW, 10, 11, 11, 15)), 0, False
    )
    assert codec.kinds(tokens)[:5] == [NAME, SEPARATOR, NAME, SEPARATOR, NAME]
    assert codec.kinds(tokens)[5:] == [*[LOCATION] * 4, SEPARATOR, NAME, *[LOCATION] * 4, END]
    assert codec.text(tokens).startswith("couch ; lamp | couch <loc0>")
    # A model that gives boxes alone is read as such.
    assert [mention.box for mention in codec.decode(boxes, 8, 8).mentions] == [LEFT, LOW]
    assert codec.kinds(boxes) == codec.kinds(tokens)[4:]


@pytest.mark.parametrize("json", [False, True])
def test_text_and_its_boxes(json: bool) -> None:
    tokens = tokens_of()
    codec = captioning(
        Codec(CATEGORIES, tokens, CoordinateSpace(BINS), JsonFormat(tokens) if json else None), "caption+boxes"
    )
    objects = [("sofa_bed", LEFT), ("reading_lamp_(desk)", LOW), ("sofa", RIGHT)]
    for count in range(4):
        encoded = codec.encode(objects[:count], 8, 8, template=2)
        parsed = codec.decode(encoded, 8, 8)
        assert [(mention.name, mention.box) for mention in parsed.mentions] == objects[:count]
        assert (parsed.malformed, parsed.truncated) == (0, False)
        for mention in parsed.mentions:
            assert tokens.decode_name(encoded[mention.name_start : mention.name_end]) == mention.name.replace("_", " ")
        assert len(codec.kinds(encoded)) == len(encoded)
    assert codec.text(codec.encode(objects[:1], 8, 8)).startswith("A sofa bed. | ")


# ---- what is right -------------------------------------------------------------------------------------------------


def test_categories_alone_are_compared() -> None:
    """Two lamps and a sofa are there; three lamps and a bed are said: two lamps are right, one is too many."""
    whole = Box(0, 0, 8, 8)
    there = without_boxes(example(LAMP, SOFA, LAMP))
    spoken = [Mention("lamp", LAMP, whole)] * 2 + [Mention("bed", BED, whole), Mention("glass", LAMP, whole)]
    matches = match_sample(there, spoken)
    assert [mention.instance_id for mention in matches] == [1, 3, None, None]
    assert [mention.duplicate for mention in matches] == [False, False, False, True]


@pytest.mark.parametrize(("there", "spoken"), [*itertools.product(range(1, 7), range(1, 9))])
def test_the_first_mention_verifies_the_first_instance(there: int, spoken: int) -> None:
    """Otherwise the order of what looks alike would be an accident of the solver."""
    whole = Box(0, 0, 8, 8)
    matches = match_sample(example_of(1, [(LAMP, whole)] * there), [Mention("lamp", LAMP, whole)] * spoken)
    assert [mention.instance_id for mention in matches] == [k if k <= there else None for k in range(1, spoken + 1)]


def test_instances_without_boxes_keep_their_reading_order() -> None:
    below_first = example_of(1, [(LAMP, LOW), (BED, RIGHT), (SOFA, LEFT)])
    codec = listed()
    taught = target(without_boxes(below_first), codec, "canonical")
    assert names(codec.decode(taught, 8, 8)) == ["sofa", "sofa_bed", "lamp"]
