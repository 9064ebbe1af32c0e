"""Prompts that name categories: which questions an image is asked, and how they are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import records
from harness.errors import ConfigError
from harness.records import CellInfo
from harness.sequence import (
    NAMES,
    Codec,
    CoordinateSpace,
    NameQuestion,
    NameVocabulary,
    TokenizerTokens,
    prompts,
    vocabulary_names,
)
from harness.suite.schema import Prompt, Suite
from harness.types import Box, Category, Example
from tests.support import small, small_tokenizers
from tests.support.tiny import codec_of, example_of

CATEGORIES = (
    Category(7, ("sofa", "couch"), "f"),
    Category(2, ("lamp",), "c"),
    Category(5, ("floor_lamp",), "r"),
    Category(1, ("mug", "cup"), "f"),
)
A, B, C = Box(8, 8, 16, 16), Box(40, 40, 16, 16), Box(40, 8, 16, 16)
"""On 64 x 64 pixels with 65 bins every edge is a bin."""


def image(image_id: int, objects: Sequence[tuple[int, Box]] = (), **fields: Any) -> Example:
    return replace(example_of(image_id, objects, 64, 64), **fields)


def vocabulary_codec() -> Codec:
    return Codec(CATEGORIES, NameVocabulary(vocabulary_names(CATEGORIES), 65), CoordinateSpace(65))


def asked(questions: Sequence[Example]) -> list[tuple[int, ...] | None]:
    return [question.asked for question in questions]


# ---- which questions -----------------------------------------------------------------------------------------------


def test_a_federated_image_is_asked_about_what_was_verified() -> None:
    """Present: 1 and 2; absent: 3; nothing is known of 4. Two at a time: {1, 2} and {3}."""
    categories = [Category(index, (str(index),), None) for index in (1, 2, 3, 4)]
    example = image(9, [(2, A), (1, B), (2, C)], negative=frozenset({3}))
    first, second = prompts.about(example, prompts.verified(example), categories, 2)
    assert (first.asked, second.asked) == ((1, 2), (3,))
    assert first == replace(example, asked=(1, 2), negative=frozenset())
    assert second == replace(example, asked=(3,), instances=())
    assert (first.key, second.key, example.key) == ((9, 1, 2), (9, 3), (9,))


def test_each_question_has_what_there_is_to_say_about_its_categories() -> None:
    example = image(1, [(1, A), (7, B), (1, C)], negative=frozenset({2, 5}), not_exhaustive=frozenset({1}))
    first, second = prompts.about(example, prompts.verified(example), CATEGORIES, 3)
    assert asked([first, second]) == [(7, 2, 5), (1,)]  # in the benchmark's order: presence does not show
    assert [item.id for item in first.instances] == [2]
    assert [item.id for item in second.instances] == [1, 3]
    assert (first.negative, first.not_exhaustive) == (frozenset({2, 5}), frozenset())
    assert (second.negative, second.not_exhaustive) == (frozenset(), frozenset({1}))


def test_what_is_only_known_not_to_be_exhaustive_is_asked_about_but_not_taught() -> None:
    example = image(1, [(7, A)], not_exhaustive=frozenset({2}))
    assert prompts.verified(example) == {7, 2}
    assert prompts.taught(example, None, 0) == {7}


def test_all_of_lvis_is_61_questions_of_twenty(shared: Callable[[str], Path]) -> None:
    listed = json.loads(shared("data/lvis_v1_categories.json").read_text())
    categories = [Category(item["id"], (item["name"],), item["frequency"]) for item in listed]
    everything = [category.id for category in categories]
    questions = prompts.about(image(1, [(1203, A)]), everything, categories, 20)
    assert len(questions) == 61  # 60 x 20 + 3
    assert [len(ids) for ids in asked(questions) if ids is not None] == [*[20] * 60, 3]
    assert [category for ids in asked(questions) for category in ids or ()] == everything
    assert [len(question.instances) for question in questions] == [*[0] * 60, 1]


def test_training_asks_about_what_is_there_and_so_many_others() -> None:
    categories = [Category(index, (str(index),), None) for index in range(40)]
    example = image(3, [(5, A), (6, B)], negative=frozenset(range(10, 40)))
    drawn = prompts.taught(example, 4, seed=0)
    assert {5, 6} < drawn
    assert len(drawn) == 6
    assert drawn == prompts.taught(example, 4, seed=0)
    assert drawn != prompts.taught(example, 4, seed=1)
    assert drawn != prompts.taught(replace(example, image_id=4), 4, seed=0)
    assert prompts.taught(example, 0, seed=0) == {5, 6}
    assert prompts.taught(example, None, 0) == prompts.taught(example, 30, 0) == {5, 6, *range(10, 40)}
    times = np.zeros(40)
    for seed in range(300):
        times[list(prompts.taught(example, 6, seed))] += 1
    # 6 of 30: each 60 times in 300, with a standard deviation of 6.9.
    assert (times[:10] == [0, 0, 0, 0, 0, 300, 300, 0, 0, 0]).all()
    assert ((times[10:] > 30) & (times[10:] < 90)).all()
    assert prompts.about(image(1), prompts.verified(image(1)), categories, 5) == []


# ---- how they are written ------------------------------------------------------------------------------------------


def test_names_stand_before_the_token_that_every_answer_follows() -> None:
    codec = vocabulary_codec()
    tokens = codec.tokens
    assert isinstance(tokens, NameVocabulary)
    floor_lamp, mug = tokens.ids["floor_lamp"], tokens.ids["mug"]
    written = codec.prompt(image(1, asked=(5, 1)))
    assert written == (tokens.image, floor_lamp, tokens.separator, mug, tokens.detect)
    assert codec.prompt(image(1, asked=(1,))) == (tokens.image, mug, tokens.detect)  # its first name, not cup
    assert codec.prompt(image(1)) == tokens.prompt == (tokens.image, tokens.detect)


def test_a_tokenizer_writes_the_names_as_text() -> None:
    made = small_tokenizers.byte_level(vocabulary_names(CATEGORIES))
    locations = [f"<loc{index}>" for index in range(65)]
    asking = NameQuestion(f"<image>detect {NAMES}\n", between=" ; ")
    tokens = TokenizerTokens(made, locations, added=["<image>"], prompt="<image>detect", asking=asking)
    codec = Codec(CATEGORIES, tokens, CoordinateSpace(65))
    written = codec.prompt(image(1, asked=(7, 5)))
    assert tokens.decode_text(written) == "<image>detect sofa ; floor lamp\n"
    assert written == tokens.encode_text("<image>detect sofa ; floor lamp\n")
    assert codec.prompt(image(1)) == tokens.encode_text("<image>detect")


def test_tokens_that_cannot_ask_are_refused_in_one_line() -> None:
    made = small_tokenizers.byte_level(["sofa"])
    silent = TokenizerTokens(made, ["<loc0>", "<loc1>"], prompt="a")
    with pytest.raises(ConfigError, match=r"^prompt: kind: categories: .* no place for names \(\{names\}\); use "):
        silent.ask(["sofa"])
    pieces = codec_of(["sofa"], bins=3)
    with pytest.raises(ConfigError, match=r"^prompt: kind: categories: this model's PieceTokens have no ask\(names\)"):
        pieces.prompt(image(1, asked=(1,)))
    assert pieces.prompt(image(1)) == pieces.tokens.prompt


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "categories"}, "prompt: chunk: expected with kind: categories, and only there"),
        ({"kind": "open", "chunk": 3}, "prompt: chunk: expected with kind: categories, and only there"),
        ({"negatives": 3}, "prompt: negatives, evaluate: expected with kind: categories, and only there"),
        ({"evaluate": "all"}, "prompt: negatives, evaluate: expected with kind: categories, and only there"),
        ({"kind": "categories", "chunk": 0}, "prompt.chunk: .* greater than or equal to 1, got 0"),
        ({"kind": "names"}, "prompt.kind: .*'open' or 'categories', got 'names'"),
        ({"kind": "categories", "chunks": 2}, "unknown key prompt.chunks: 'chunks', did you mean 'chunk'"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small.mini_suite(prompt=given)


def test_the_open_prompt_is_the_default_and_changes_no_digest() -> None:
    assert small.mini_suite(prompt={"kind": "open"}) == small.mini_suite()
    assert Prompt().described is None
    fields: dict[str, Any] = {"benchmark": {}, "model": {}, "objective": {}, "seed": 0, "train": {}, "sample": {}}
    info = CellInfo(**fields, score="name")
    assert "prompt" not in info.model_dump() | json.loads(info.model_dump_json())
    asking = CellInfo(**fields, score="name", prompt=Prompt(kind="categories", chunk=3).described)
    assert asking.model_dump()["prompt"] == {
        "kind": "categories",
        "chunk": 3,
        "negatives": None,
        "evaluate": "verified",
    }
    assert CellInfo.model_validate_json(asking.model_dump_json()) == asking
    digests = {records.digest_of(described) for described in (info, asking)}
    assert len(digests) == 2


def test_a_suite_that_asks_is_read_again_as_it_was_written() -> None:
    suite = small.mini_suite(prompt={"kind": "categories", "chunk": 4, "negatives": 2, "evaluate": "all"})
    assert Suite.model_validate_json(suite.model_dump_json()) == suite
