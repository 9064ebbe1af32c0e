"""What a model is taught to say in captions, and where captions are refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from harness import registry
from harness.errors import ConfigError
from harness.run.task import of_model, without_boxes
from harness.sequence import (
    CaptionCodec,
    Codec,
    CoordinateSpace,
    for_task,
)
from harness.sequence.formats import LOCATION
from harness.sequence.targets import members, target
from harness.suite.schema import Suite
from harness.types import Box, Category
from tests.sequence.caption_cases import (
    BED,
    BINS,
    CATEGORIES,
    LAMP,
    LEFT,
    LOW,
    RIGHT,
    SOFA,
    example,
    listed,
    names,
    prose,
    tokens_of,
)
from tests.support import small, small_tokenizers
from tests.support.tiny import codec_of

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
