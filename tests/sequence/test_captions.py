"""Captions: what is written, what is found in it, what is right, and what a model is taught."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import registry
from harness.errors import ConfigError
from harness.metrics.samples.matching import match_sample
from harness.run.task import of_model, without_boxes
from harness.sequence import (
    CaptionCodec,
    Codec,
    CoordinateSpace,
    JsonFormat,
    NameVocabulary,
    Task,
    TokenizerTokens,
    for_task,
    vocabulary_names,
)
from harness.sequence.captions import TEMPLATES, Prose, sentence
from harness.sequence.formats import END, LOCATION, NAME, SEPARATOR
from harness.sequence.targets import members, target
from harness.suite.schema import Suite
from harness.types import Box, Category, Example, Mention, Parsed
from tests.support import small, small_tokenizers
from tests.support.tiny import codec_of, example_of

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


# ---- targets -------------------------------------------------------------------------------------------------------


def test_random_targets_are_the_whole_equivalence_set() -> None:
    """Two objects of 2 names each: 2 orders x 4 names, in text x 3 sentences."""
    two = without_boxes(example(SOFA, BED))
    for codec, size in ((listed(), 8), (prose(), 24)):
        drawn = members(two, codec, "all(40)", seed=0, epoch=0, count=40)
        assert len(set(drawn)) == size
        assert target(two, codec, "canonical") in drawn
        for tokens in drawn:
            assert {mention.category_id for mention in codec.decode(tokens, 8, 8).mentions} == {SOFA, BED}


def test_given_captions_are_targets() -> None:
    captions = ("Two lamps by a couch", "A bed and the sofa; a lamp", "somebody sleeps")
    given = replace(example(LAMP, SOFA, LAMP), captions=captions)
    codec = prose("caption+boxes")

    def read(tokens: tuple[int, ...]) -> tuple[str, list[tuple[str, Box]]]:
        parsed = codec.decode(tokens, 8, 8)
        return codec.text(tokens).split(" |")[0], [(mention.name, mention.box) for mention in parsed.mentions]

    # All lamps by the name that the caption has for them; no box of a bed, which is not there.
    first = read(target(given, codec, "canonical"))
    assert first == (captions[0], [("lamp", LEFT), ("lamp", LOW), ("couch", RIGHT)])
    drawn = [read(tokens) for tokens in members(given, codec, "all(5)", seed=0, epoch=0, count=5)]
    second = ("A bed and the sofa a lamp", [("sofa", RIGHT), ("lamp", LEFT), ("lamp", LOW)])
    assert sorted(text for text, _ in drawn[:3]) == sorted([captions[0], second[0], captions[2]])
    assert first in drawn
    assert second in drawn
    assert (captions[2], []) in drawn
    assert drawn[3:] == drawn[:2]


def test_a_vocabulary_of_names_has_its_own_captions() -> None:
    given = replace(example(LAMP), captions=("a sofa",))
    assert names(listed().decode(target(given, listed(), "canonical"), 8, 8)) == ["lamp"]


def test_given_captions_hold_no_special_tokens() -> None:
    codec = prose("caption+boxes")
    given = replace(example(SOFA), captions=(f"a {small_tokenizers.END} sofa <loc3> ; lamp",))
    tokens = target(given, codec, "canonical")
    assert tokens.count(codec.tokens.end) == 1
    assert codec.kinds(tokens).count(LOCATION) == 4
    assert names(codec.decode(tokens, 8, 8)) == ["sofa"]


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_who_cannot_write_captions() -> None:
    with pytest.raises(ConfigError, match=r"need a tokenizer of text or a NameVocabulary, this model has PieceTokens"):
        for_task(codec_of(["sofa"], bins=BINS), "caption")
    with pytest.raises(ConfigError, match=r"expected one that can write captions, 'Nothing\. .*' does not survive it"):
        prose(kind="word_level")
    clashing = Codec([Category(1, ("There", "sofa"), "f")], tokens_of(), CoordinateSpace(BINS))
    with pytest.raises(ConfigError, match=r"expected none that is a word of every caption, got \['There'\]"):
        for_task(clashing, "caption")


def test_captions_in_words_need_a_model_with_words() -> None:
    pictured = replace(example(SOFA), captions=("a sofa",))
    benchmark: Any = SimpleNamespace(name="photos", split=lambda name: (pictured,))
    with pytest.raises(ConfigError, match=r"^task: caption: the captions of photos are text, this model's vocabulary"):
        of_model(small.fresh(), benchmark, "caption")
    of_model(small.fresh(), small.benchmark(), "caption")
    oracle = registry.model("oracle-uniform", CATEGORIES, {})
    of_model(oracle, benchmark, "caption")  # it knows the objects, not what people said
    assert isinstance(oracle.codec, CaptionCodec)


def suite(**changes: Any) -> Suite:
    return small.mini_suite(task="caption", **changes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"hypotheses": [{"id": "H1", "claim": "c", "metric": "AP50", "a": "sed", "b": "ce"}]},
            "hypothesis H1: task: caption has no boxes, so AP50 is undefined; use recall, precision or a figure of",
        ),
        ({"early_stops": [{"label": "e", "objective": "ce", "at_ap_of": "sed"}]}, "early_stops: task: caption has no"),
        ({"sample": {"grammar": True}}, "sample.grammar: task: caption has no decoding grammar"),
        ({"prompt": {"kind": "categories", "chunk": 5}}, "prompt.kind: task: caption has the open prompt only"),
        ({"objectives": [{"name": "ce", "label": "n", "then": "nsft"}]}, "objectives.n.then: nsft corrects lists"),
        ({"task": "captions"}, "task: Input should be 'boxes', 'caption' or 'caption+boxes'"),
    ],
)
def test_suites_that_ask_for_boxes(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        small.mini_suite(**{"task": "caption", **changes})
    (reported,) = error.value.problems
    assert reported.startswith(f"mini.yaml: {problem}")
    assert "\n" not in reported


def test_figures_without_boxes_may_be_claimed() -> None:
    stated = {"id": "H", "claim": "c", "a": "sed", "b": "ce"}
    metrics = ("recall", "precision", "name_diversity", "order_distance", "coverage@2")
    assert suite(hypotheses=[{**stated, "id": name, "metric": name} for name in metrics])
    with_boxes = {"task": "caption+boxes", "hypotheses": [{**stated, "metric": "AP"}]}
    assert small.mini_suite(**with_boxes).task == "caption+boxes"
