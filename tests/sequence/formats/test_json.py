"""Answers in JSON: read strictly where they are JSON, and as far as they go where not."""

from __future__ import annotations

import json
import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sequence import (
    Codec,
    CoordinateSpace,
    JsonFormat,
    TokenizerTokens,
)
from harness.sequence.json_objects import read_objects
from harness.types import Box, Category
from tests.sequence.formats.families import FAMILIES, HEIGHT, WIDTH
from tests.support import small_tokenizers

SOFA = '{"bbox_2d": [100, 100, 700, 700], "label": "sofa"}'
JSON_GOLDENS: dict[str, tuple[str, list[str], int, int]] = {
    # name: (text, names read, malformed, read leniently), from a model of 0-1000
    "as it is encoded": (f"[{SOFA}]", ["sofa"], 0, 0),
    "as Qwen writes it": (f"```json\n[\n\t{SOFA},\n\t{SOFA}\n]\n```", ["sofa", "sofa"], 0, 0),
    "no white space": ('[{"bbox_2d":[1,2,3,4],"label":"couch"}]', ["couch"], 0, 0),
    "an unknown name": ('[{"bbox_2d": [1, 2, 3, 4], "label": "red sofa"}]', ["red sofa"], 0, 0),
    "escapes": ('[{"bbox_2d": [1, 2, 3, 4], "label": "s\\u006ffa"}]', ["sofa"], 0, 0),
    "brackets in a name": ('[{"bbox_2d": [1, 2, 3, 4], "label": "a {b} [c"}]', ["a {b} [c"], 0, 0),
    "an empty list": ("```json\n[]\n```", [], 0, 0),
    "beyond the edge": ('[{"bbox_2d": [900, 900, 1200, 1005], "label": "sofa"}]', ["sofa"], 0, 0),
    "no area": ('[{"bbox_2d": [3, 2, 3, 4], "label": "sofa"}]', [], 1, 0),
    "no area, and another order": ('[{"label": "sofa", "bbox_2d": [3, 2, 3, 4]}]', [], 1, 0),
    "nothing but beyond the edge": ('[{"bbox_2d": [1100, 2, 1200, 4], "label": "sofa"}]', [], 1, 0),
    "three numbers": ('[{"bbox_2d": [1, 2, 3], "label": "sofa"}]', [], 1, 0),
    "five numbers": (f'[{SOFA}, {{"bbox_2d": [1, 2, 3, 4, 5], "label": "sofa"}}]', ["sofa"], 1, 0),
    "no numbers": ('[{"bbox_2d": [], "label": "sofa"}]', [], 1, 0),
    "a negative number": ('[{"bbox_2d": [-1, 2, 3, 4], "label": "sofa"}]', [], 1, 0),
    "no name": ('[{"bbox_2d": [1, 2, 3, 4], "label": ""}]', [], 1, 0),
    "a blank for a name": ('[{"bbox_2d": [1, 2, 3, 4], "label": " "}]', [], 1, 0),
    "half a character for a name": ('[{"bbox_2d": [1, 2, 3, 4], "label": "\\ud800"}]', [], 1, 0),
    "no label": ('[{"bbox_2d": [1, 2, 3, 4]}]', [], 1, 0),
    "no comma": (f"[{SOFA} {SOFA}]", ["sofa"], 1, 0),
    "no bracket at the end": (f"[{SOFA}", [], 1, 0),
    "no bracket at the start": (f"{SOFA}]", ["sofa"], 1, 0),
    "words before it": (f"Here they are: [{SOFA}]", ["sofa"], 1, 0),
    "words after it": (f"[{SOFA}] That is all.", [], 1, 0),
    "the other order": ('[{"label": "sofa", "bbox_2d": [1, 2, 3, 4]}]', ["sofa"], 0, 1),
    "one object": (SOFA, ["sofa"], 0, 1),
    "one object in a fence": (f"```json\n{SOFA}\n```", ["sofa"], 0, 1),
    "two objects and no list": (f"{SOFA}, {SOFA}", ["sofa", "sofa"], 0, 2),
    "a sentence after the fence": (f"```json\n[{SOFA}, {SOFA}]\n```\nThere are sofas.", ["sofa", "sofa"], 0, 1),
    "a sentence before the fence": (f"I see:\n```json\n[{SOFA}]\n```", ["sofa"], 0, 1),
    "a comma at the end": (f"[{SOFA},]", ["sofa"], 0, 1),
    "a comma at the end of a box": ('[{"bbox_2d": [1, 2, 3, 4,], "label": "sofa"}]', ["sofa"], 0, 1),
    "decimals": ('[{"bbox_2d": [1.4, 2.0, 3.5, 4], "label": "sofa"}]', ["sofa"], 0, 1),
    "many decimals": ('[{"bbox_2d": [1.4000000000000001, 2, 3, 4], "label": "sofa"}]', ["sofa"], 0, 1),
    "an exponent": ('[{"bbox_2d": [1, 2, 3e2, 4], "label": "sofa"}]', ["sofa"], 0, 1),
    "zeros in front": ('[{"bbox_2d": [001, 2, 3, 4], "label": "sofa"}]', ["sofa"], 0, 1),
    "a line break in a name": ('[{"bbox_2d": [1, 2, 3, 4], "label": "sofa\n"}]', ["sofa"], 0, 1),
    "further fields": (
        '[{"id": 1, "bbox_2d": [1, 2, 3, 4], "score": 0.5, "label": "sofa", "sub": "x", "crowd": false}]',
        ["sofa"],
        0,
        1,
    ),
    "further fields that hold more": (
        '[{"bbox_2d": [1, 2, 3, 4], "label": "sofa", "more": {"colours": ["red", {}], "size": [[1], -2e3]}}]',
        ["sofa"],
        0,
        1,
    ),
    "a list in an object": (f'{{"objects": [{SOFA}, {SOFA}]}}', ["sofa"], 2, 1),
    "the same field twice": ('[{"label": "sofa", "label": "couch", "bbox_2d": [1, 2, 3, 4]}]', [], 1, 0),
    "a separator that is no white space": ('[{"bbox_2d": [1,\x1f2, 3, 4], "label": "sofa"}]', [], 1, 0),
    "white space of other alphabets": ('[{"bbox_2d": [1,\u20032, 3, 4], "label": "sofa"}]', [], 1, 0),
    "a number of many digits": ('[{"bbox_2d": [1, 2, 3, 12345678901], "label": "sofa"}]', [], 1, 0),
    "a large exponent": ('[{"bbox_2d": [1, 2, 3, 1e99], "label": "sofa"}]', [], 1, 0),
    "no number": ('[{"bbox_2d": [1, 2, NaN, 4], "label": "sofa"}]', [], 1, 0),
    "nested": ('[{"bbox_2d": [[[[1, 2, 3, 4]]]], "label": "sofa"}]', [], 1, 0),
    "nested without end": (f'[{{"x": {"[" * 50}{"]" * 50}, {SOFA[1:]}]', [], 1, 0),
    "a long name": (f'[{{"bbox_2d": [1, 2, 3, 4], "label": "{"x" * 2000}"}}]', [], 1, 0),
    "only words": ("There is a sofa.", [], 1, 0),
}


@pytest.mark.parametrize("case", JSON_GOLDENS)
def test_reading_json_by_hand(case: str) -> None:
    text, names, malformed, lenient = JSON_GOLDENS[case]
    codec = FAMILIES["qwen3"]()
    assert isinstance(codec.tokens, TokenizerTokens)
    tokens = (*codec.tokens.encode_text(text), codec.tokens.end)
    parsed = codec.decode(tokens, WIDTH, HEIGHT)
    assert [mention.name for mention in parsed.mentions] == names
    assert (parsed.malformed, parsed.truncated, parsed.lenient) == (malformed, False, lenient)
    assert codec.text(tokens) == f"{text} <end>"
    for mention in parsed.mentions:
        name = codec.tokens.decode_text(tokens[mention.name_start : mention.name_end])
        assert mention.name.replace("_", " ") in name or "\\" in name


SCRAPS = (*"[]{},:", " ", "\n", "0", "12", "-1", "1.5", '"label"', '"bbox_2d"', '"x"', '"cat"', "[1, 2, 3, 4]", "null")


@given(source=st.randoms(use_true_random=False))
def test_what_is_read_strictly_is_what_json_says(source: random.Random) -> None:
    """And what is JSON as the model was trained to write it is read strictly."""
    entries = [
        {"bbox_2d": [source.randrange(1000) for _ in range(4)], "label": source.choice(["cat", "{b", 'é"', "a\\b"])}
        for _ in range(source.randrange(1, 4))
    ]
    text = json.dumps(entries, indent=source.choice([None, 1]), ensure_ascii=source.random() < 0.5)
    for _ in range(source.choice([0, 0, 1, 2])):
        place = source.randrange(len(text))
        text = text[:place] + source.choice(SCRAPS) + text[place + source.randrange(3) :]
    reading = read_objects(text, truncated=False)
    if any(item is None or item.lenient for item in reading):
        with suppress(ValueError):
            assert not well_formed_json(json.loads(text))
        return
    assert [{"bbox_2d": list(item.numbers), "label": item.label} for item in reading if item] == json.loads(text)


def well_formed_json(content: object) -> bool:
    """Whether a document is a list of objects as the model was trained to write them."""
    return isinstance(content, list) and all(
        isinstance(entry, dict)
        and list(entry) == ["bbox_2d", "label"]
        and isinstance(entry["bbox_2d"], list)
        and len(entry["bbox_2d"]) > 0
        and all(type(number) is int and 0 <= number < 10**9 for number in entry["bbox_2d"])
        and isinstance(entry["label"], str)
        and bool(entry["label"].strip())
        for entry in content
    )


def test_json_is_read_whatever_tokens_say_it() -> None:
    """One byte at a time, letters of two bytes included: the tokens of `encode` are not the only ones."""
    categories = [Category(1, ("crêpe", "pancake"), None)]
    tokens = TokenizerTokens(small_tokenizers.slow([]), before="")
    codec = Codec(categories, tokens, CoordinateSpace(1001, "xyxy"), JsonFormat(tokens))
    encoded = codec.encode([("crêpe", Box(0, 0, 9, 9)), ("pancake", Box(0, 0, 9, 9))], 9, 9)
    mentions = codec.decode(encoded, 9, 9).mentions
    assert [mention.name for mention in mentions] == ["crêpe", "pancake"]
    assert mentions[0].name_end - mentions[0].name_start == 6
