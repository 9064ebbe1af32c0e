"""The formats that model families were trained on: what they look like, and that nothing of them is misread."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import cache
from itertools import product
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.kosmos2 import processing_kosmos2

from harness import registry
from harness.errors import ConfigError
from harness.run.context import Context, build
from harness.sequence import (
    KINDS,
    Codec,
    CoordinateSpace,
    Grammar,
    JsonFormat,
    PatchSpace,
    PixelSpace,
    TokenFormat,
    TokenizerTokens,
    vocabulary_names,
)
from harness.sequence.json_objects import read_objects
from harness.types import Box, Category
from tests.sequence.test_grammar import admitted, well_formed
from tests.support import small, small_tokenizers
from tests.support.tiny import PieceTokens

CATEGORIES = [Category(1, ("sofa", "couch"), "f"), Category(2, ("sofa_bed",), "c"), Category(3, ("cat's_eye",), "r")]
NAMES = vocabulary_names(CATEGORIES)
WIDTH, HEIGHT = 640, 480


def resized(width: int, height: int) -> tuple[int, int]:
    """Whole patches of 28 pixels, as Qwen2.5-VL has it."""
    return max(28, round(width / 28) * 28), max(28, round(height / 28) * 28)


def paligemma() -> Codec:
    names = [f"<loc{index:04d}>" for index in range(1024)]
    tokens = TokenizerTokens(small_tokenizers.gemma_like(NAMES, names), names)
    form = TokenFormat(tokens, separator=tokens.encode_text(" ; "), name_first=False)
    return Codec(CATEGORIES, tokens, CoordinateSpace(1024), form)


def florence() -> Codec:
    tokens = TokenizerTokens(small_tokenizers.byte_level(NAMES), [f"<loc_{index}>" for index in range(1000)], before="")
    return Codec(CATEGORIES, tokens, CoordinateSpace(1000, "xyxy"), TokenFormat(tokens, separator=(), again=()))


def kosmos() -> Codec:
    marks = ("<phrase>", "</phrase>", "<object>", "</object>", "</delimiter_of_multi_objects/>")
    patches = [f"<patch_index_{index:04d}>" for index in range(1024)]
    tokens = TokenizerTokens(small_tokenizers.sentencepiece(NAMES), patches, added=marks, before="")
    phrase, phrase_end, thing, thing_end, again = (tokens.encode_text(mark)[-1] for mark in marks)
    form = TokenFormat(
        tokens,
        opening=(phrase,),
        middle=(phrase_end, thing),
        separator=(thing_end, phrase),
        closing=(thing_end,),
        again=(again,),
    )
    return Codec(CATEGORIES, tokens, PatchSpace(32), form)


def qwen() -> Codec:
    tokens = TokenizerTokens(small_tokenizers.byte_level(NAMES), before="")
    return Codec(CATEGORIES, tokens, PixelSpace(resized), JsonFormat(tokens))


def qwen3() -> Codec:
    tokens = TokenizerTokens(small_tokenizers.byte_level(NAMES), before="")
    return Codec(CATEGORIES, tokens, CoordinateSpace(1001, "xyxy"), JsonFormat(tokens))


FAMILIES = {family.__name__: cache(family) for family in (paligemma, florence, kosmos, qwen, qwen3)}
every_family = pytest.mark.parametrize("family", FAMILIES)
TWO = [("sofa_bed", Box(64, 48, 320, 240)), ("cat's_eye", Box(0, 0, 640, 480))]


def text_of(codec: Codec, tokens: Sequence[int]) -> str:
    """What the tokenizer itself makes of a sequence without its end."""
    assert tokens[-1] == codec.tokens.end
    assert isinstance(codec.tokens, TokenizerTokens)
    return codec.tokens.decode_text(tokens[:-1])


# ---- what is written -------------------------------------------------------------------------------------------

# Of 640 x 480 the first box has edges at 0.1 and 0.6, both ways. PaliGemma: 102.3 and 613.8 of 1,023. Florence-2:
# 99.9 and 599.4 of 999. Kosmos-2: 3.2 and 19.2 of 32 patches: row and column 3 and 19, that is 3 * 32 + 3 and
# 19 * 32 + 19. Qwen2.5-VL sees 644 x 476 pixels: 64.4, 47.6, 386.4 and 285.6. Qwen3-VL: thousandths.
WRITTEN = {
    "paligemma": "<loc0102><loc0102><loc0614><loc0614> sofa bed ; <loc0000><loc0000><loc1023><loc1023> cat's eye",
    "florence": "sofa bed<loc_100><loc_100><loc_599><loc_599>cat's eye<loc_0><loc_0><loc_999><loc_999>",
    "kosmos": "<phrase> sofa bed</phrase><object><patch_index_0099><patch_index_0627></object>"
    "<phrase> cat's eye</phrase><object><patch_index_0000><patch_index_1023></object>",
    "qwen": '[{"bbox_2d": [64, 48, 386, 286], "label": "sofa bed"}, '
    '{"bbox_2d": [0, 0, 644, 476], "label": "cat\'s eye"}]',
    "qwen3": '[{"bbox_2d": [100, 100, 600, 600], "label": "sofa bed"}, '
    '{"bbox_2d": [0, 0, 1000, 1000], "label": "cat\'s eye"}]',
}


@every_family
def test_what_is_written_by_hand(family: str) -> None:
    codec = FAMILIES[family]()
    assert text_of(codec, codec.encode(TWO, WIDTH, HEIGHT)) == WRITTEN[family]


@every_family
def test_the_tokens_are_those_of_the_text_as_a_whole(family: str) -> None:
    """So a model that was trained on such texts meets the tokens that it knows."""
    codec = FAMILIES[family]()
    tokens = codec.encode(TWO, WIDTH, HEIGHT)
    assert isinstance(codec.tokens, TokenizerTokens)
    assert codec.tokens.encode_text(text_of(codec, tokens)) == tokens[:-1]


def test_json_is_json() -> None:
    codec = FAMILIES["qwen"]()
    for objects in ([], TWO[:1], TWO, TWO * 3):
        document = json.loads(text_of(codec, codec.encode(objects, WIDTH, HEIGHT)))
        assert [entry["label"] for entry in document] == [name.replace("_", " ") for name, _ in objects]
        assert all(entry["bbox_2d"] in ([64, 48, 386, 286], [0, 0, 644, 476]) for entry in document)


def test_kosmos_itself_reads_what_is_written() -> None:
    codec = FAMILIES["kosmos"]()
    tokens = codec.encode(TWO, WIDTH, HEIGHT)
    _, entities = processing_kosmos2.clean_text_and_extract_entities_with_bboxes(text_of(codec, tokens))  # type: ignore[no-untyped-call]
    mentions = codec.decode(tokens, WIDTH, HEIGHT).mentions
    for (name, _, (corners,)), mention in zip(entities, mentions, strict=True):
        assert name == mention.name.replace("_", " ")
        x0, y0, x1, y1 = corners
        assert mention.box.corners == pytest.approx((x0 * WIDTH, y0 * HEIGHT, x1 * WIDTH, y1 * HEIGHT))
    assert entities[0][2] == [pytest.approx((3.5 / 32, 3.5 / 32, 19.5 / 32, 19.5 / 32))]  # the middles of 3 and 19


def test_florence_reads_its_own_example() -> None:
    """Of the answer to `<OD>` that transformers' processor is documented with: two wheels after one name."""
    text = (
        "car<loc_52><loc_332><loc_932><loc_774>door handle<loc_425><loc_504><loc_474><loc_516>"
        "wheel<loc_708><loc_557><loc_865><loc_772><loc_147><loc_563><loc_305><loc_774>"
    )
    codec = FAMILIES["florence"]()
    assert isinstance(codec.tokens, TokenizerTokens)
    parsed = codec.decode((*codec.tokens.encode_text(text), codec.tokens.end), 999, 999)
    assert [mention.name for mention in parsed.mentions] == ["car", "door handle", "wheel", "wheel"]
    corners = [(52, 332, 932, 774), (425, 504, 474, 516), (708, 557, 865, 772), (147, 563, 305, 774)]
    assert [mention.box.corners for mention in parsed.mentions] == [pytest.approx(box) for box in corners]
    assert parsed.malformed == 0


def test_kosmos_itself_reads_several_boxes_of_a_phrase_as_we_do() -> None:
    text = PHRASE + TWO_PLACES + PHRASE + PLACE
    codec = FAMILIES["kosmos"]()
    assert isinstance(codec.tokens, TokenizerTokens)
    parsed = codec.decode((*codec.tokens.encode_text(text), codec.tokens.end), 1, 1)
    _, entities = processing_kosmos2.clean_text_and_extract_entities_with_bboxes(text)  # type: ignore[no-untyped-call]
    expected = [box for _, _, boxes in entities for box in boxes]
    assert len(expected) == 3
    assert [mention.box.corners for mention in parsed.mentions] == [pytest.approx(box) for box in expected]


@every_family
def test_nothing_is_there(family: str) -> None:
    codec = FAMILIES[family]()
    tokens = codec.encode([], WIDTH, HEIGHT)
    assert text_of(codec, tokens) == ("[]" if family.startswith("qwen") else "")
    for empty in (tokens, (codec.tokens.end,)):
        parsed = codec.decode(empty, WIDTH, HEIGHT)
        assert (parsed.mentions, parsed.malformed, parsed.truncated) == ((), 0, False)


@every_family
def test_kinds_name_both_parts_and_count_the_rest_as_structure(family: str) -> None:
    codec = FAMILIES[family]()
    tokens = codec.encode(TWO, WIDTH, HEIGHT)
    kinds = [KINDS[kind] for kind in codec.kinds(tokens)]
    mentions = codec.decode(tokens, WIDTH, HEIGHT).mentions
    names = {p for mention in mentions for p in range(mention.name_start, mention.name_end)}
    boxes = {p for mention in mentions for p in range(mention.box_start, mention.box_end)}
    assert {position for position, kind in enumerate(kinds) if kind == "name"} == names
    assert {position for position, kind in enumerate(kinds) if kind == "location"} <= boxes
    assert [position for position, kind in enumerate(kinds) if kind == "end"] == [len(tokens) - 1]
    assert isinstance(codec.tokens, TokenizerTokens)
    digits = "".join(codec.tokens.piece(t) for t, kind in zip(tokens, kinds, strict=True) if kind == "location")
    assert digits == "".join(re.findall(r"<[a-z_]+\d+>|(?<=[\[ ])\d+(?=[\],])", WRITTEN[family]))
    for mention, (name, _) in zip(mentions, TWO, strict=True):
        assert tokens[mention.name_start : mention.name_end] == codec.name_ids[name]


# ---- what is read ----------------------------------------------------------------------------------------------


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[tuple[str, Box]], int, int]:
    """Objects with real-valued boxes in an image of 32 x 32 to 4000 x 3000 pixels."""
    width, height = draw(st.integers(32, 4000)), draw(st.integers(32, 3000))
    objects = []
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=4)):
        x0, x1 = sorted(draw(st.tuples(st.floats(0, width), st.floats(0, width))))
        y0, y1 = sorted(draw(st.tuples(st.floats(0, height), st.floats(0, height))))
        objects.append((name, Box(x0, y0, x1 - x0, y1 - y0)))
    return objects, width, height


@every_family
@settings(deadline=None, max_examples=60)
@given(scene=scenes())
def test_names_come_back_and_edges_within_half_a_step(
    family: str, scene: tuple[list[tuple[str, Box]], int, int]
) -> None:
    objects, width, height = scene
    codec = FAMILIES[family]()
    steps = codec.space.steps(width, height)
    wide = [(n, b) for n, b in objects if b.w > 2 * steps[0] and b.h > 2 * steps[1]]  # the rest may lose its area
    parsed = codec.decode(codec.encode(wide, width, height), width, height)
    assert [mention.name for mention in parsed.mentions] == [name for name, _ in wide]
    assert (parsed.malformed, parsed.truncated) == (0, False)
    for mention, (_, box) in zip(parsed.mentions, wide, strict=True):
        for step, before, after in zip(steps * 2, box.corners, mention.box.corners, strict=True):
            assert abs(before - after) <= step / 2 * (1 + 1e-6)
    read = len(codec.decode(codec.encode(objects, width, height), width, height).mentions)
    assert len(wide) <= read <= len(objects)


@every_family
def test_a_truncated_answer_is_read_as_far_as_it_goes(family: str) -> None:
    """Cut anywhere: both names are read from where they are complete, and what is cut off is no complaint."""
    codec = FAMILIES[family]()
    tokens = codec.encode(TWO, WIDTH, HEIGHT)
    counts = []
    for cut in range(len(tokens)):
        parsed = codec.decode(tokens[:cut], WIDTH, HEIGHT)
        assert (parsed.malformed, parsed.truncated) == (0, True), codec.text(tokens[:cut])
        assert all(mention.category_id is None or mention.name in NAMES for mention in parsed.mentions)
        counts.append(len(parsed.mentions))
    assert counts == sorted(counts)
    assert counts[-1] == 2
    assert len(codec.kinds(tokens[:-5])) == len(tokens) - 5


@every_family
@settings(deadline=None, max_examples=60)
@given(source=st.randoms(use_true_random=False))
def test_damage_is_counted_and_never_raises(family: str, source: random.Random) -> None:
    """A token lost, doubled or swapped for another: what is read and what is malformed is never nothing."""
    codec = FAMILIES[family]()
    tokens = list(codec.encode(TWO, WIDTH, HEIGHT))
    for _ in range(source.randint(1, 3)):
        place = source.randrange(len(tokens) - 1)
        tokens[place : place + 1] = source.choice([[], tokens[place : place + 1] * 2, [source.choice(tokens[:-1])]])
    parsed = codec.decode(tokens, WIDTH, HEIGHT)
    assert len(parsed.mentions) + parsed.malformed >= 1
    codec.text(tokens)
    assert len(codec.kinds(tokens)) == len(tokens)


@every_family
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_rubbish_never_raises(family: str, data: st.DataObject) -> None:
    codec = FAMILIES[family]()
    tokens = data.draw(st.lists(st.integers(0, codec.tokens.size - 1), max_size=40))
    codec.decode(tokens, WIDTH, HEIGHT)
    codec.text(tokens)
    assert len(codec.kinds(tokens)) == len(tokens)


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


@settings(deadline=None)
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


# ---- the other side: a family that has not this format ------------------------------------------------------------

PALIGEMMA_GOLDENS: dict[str, tuple[str, list[str], int]] = {
    "two": (
        "<loc0001><loc0001><loc0009><loc0009> sofa ; <loc0001><loc0001><loc0009><loc0009> couch",
        ["sofa", "couch"],
        0,
    ),
    "name first": (" sofa<loc0001><loc0001><loc0009><loc0009>", [], 1),
    "no name": ("<loc0001><loc0001><loc0009><loc0009>", [], 1),
    "three locations": ("<loc0001><loc0001><loc0009> sofa", [], 1),
    "no separator": ("<loc0001><loc0001><loc0009><loc0009> sofa<loc0001><loc0001><loc0009><loc0009> couch", [], 1),
    "separator at the end": ("<loc0001><loc0001><loc0009><loc0009> sofa ; ", ["sofa"], 1),
    "no area": ("<loc0009><loc0001><loc0009><loc0009> sofa", [], 1),
}
FLORENCE_GOLDENS: dict[str, tuple[str, list[str], int]] = {
    "three": (
        "sofa<loc_1><loc_1><loc_9><loc_9>couch<loc_1><loc_1><loc_9><loc_9>sofa<loc_1><loc_1><loc_9><loc_9>",
        ["sofa", "couch", "sofa"],
        0,
    ),
    "a box without a name": ("<loc_1><loc_1><loc_9><loc_9>couch<loc_1><loc_1><loc_9><loc_9>", ["couch"], 1),
    "two boxes": (
        "sofa<loc_1><loc_1><loc_9><loc_9><loc_2><loc_1><loc_9><loc_9>couch<loc_1><loc_1><loc_9><loc_9>",
        ["sofa", "sofa", "couch"],
        0,
    ),
    "a box and a half": (
        "sofa<loc_1><loc_1><loc_9><loc_9><loc_2><loc_1>couch<loc_1><loc_1><loc_9><loc_9>",
        ["sofa", "couch"],
        1,
    ),
    "two boxes without a name": (
        "<loc_1><loc_1><loc_9><loc_9>" * 2 + "couch<loc_1><loc_1><loc_9><loc_9>",
        ["couch"],
        2,
    ),
    "a name at the end": ("sofa<loc_1><loc_1><loc_9><loc_9>couch", ["sofa"], 1),
}
PHRASE, PLACE = "<phrase> sofa</phrase>", "<object><patch_index_0033><patch_index_0099></object>"
AGAIN = "</delimiter_of_multi_objects/>"
TWO_PLACES = PLACE.replace("</object>", f"{AGAIN}<patch_index_0070><patch_index_0200></object>")
KOSMOS_GOLDENS: dict[str, tuple[str, list[str], int]] = {
    "two": (PHRASE + PLACE + PHRASE + PLACE, ["sofa", "sofa"], 0),
    "no phrase mark": (f" sofa</phrase>{PLACE}", [], 1),
    "no object mark at the end": (PHRASE + PLACE.removesuffix("</object>"), [], 1),
    "no object mark at the start": (PHRASE + PLACE.removeprefix("<object>"), [], 1),
    "one patch": (f"{PHRASE}<object><patch_index_0033></object>", [], 1),
    "inverted": (f"{PHRASE}<object><patch_index_0099><patch_index_0033></object>{PHRASE}{PLACE}", ["sofa"], 1),
    "the end of a place in the name": (f"<phrase> sofa</object> sofa</phrase>{PLACE}", [], 1),
    "the start of a place in the name": (f"<phrase> sofa<object> sofa</phrase>{PLACE}", ["sofa<object> sofa"], 0),
    "only an opening": ("<phrase>", [], 1),
    "two boxes": (PHRASE + TWO_PLACES + PHRASE + PLACE, ["sofa", "sofa", "sofa"], 0),
    "nothing after a box": (PHRASE + PLACE.replace("</object>", f"{AGAIN}</object>"), ["sofa"], 1),
    "a box between boxes that is none": (
        f"{PHRASE}<object><patch_index_0033>{AGAIN}<patch_index_0033><patch_index_0099></object>",
        ["sofa"],
        1,
    ),
    "the mark between boxes in the name": (f"<phrase> sofa{AGAIN} sofa</phrase>{PLACE}", [], 2),
}
GOLDENS = [
    (family, text, names, malformed)
    for family, goldens in (
        ("paligemma", PALIGEMMA_GOLDENS),
        ("florence", FLORENCE_GOLDENS),
        ("kosmos", KOSMOS_GOLDENS),
    )
    for text, names, malformed in goldens.values()
]


@pytest.mark.parametrize(("family", "text", "names", "malformed"), GOLDENS)
def test_reading_by_hand(family: str, text: str, names: list[str], malformed: int) -> None:
    codec = FAMILIES[family]()
    assert isinstance(codec.tokens, TokenizerTokens)
    parsed = codec.decode((*codec.tokens.encode_text(text), codec.tokens.end), WIDTH, HEIGHT)
    assert [mention.name for mention in parsed.mentions] == names
    assert (parsed.malformed, parsed.truncated) == (malformed, False)


# ---- grammar -----------------------------------------------------------------------------------------------------


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
@settings(deadline=None)
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


# ---- coordinates ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(0, 1024), min_size=4, max_size=4, unique=True), st.integers(1, 40))
def test_patches_are_those_of_kosmos(four: list[float], side: int) -> None:
    """And what they are read as."""
    (x0, x1), (y0, y1) = (sorted(value / 1024 for value in pair) for pair in (four[:2], four[2:]))
    box, space = Box(x0, y0, x1 - x0, y1 - y0), PatchSpace(side)
    upper, lower = processing_kosmos2.coordinate_to_patch_index(box.corners, side)
    assert space.quantise(box, 1, 1) == (upper, lower)
    restored = space.restore((upper, lower), 1, 1)
    assert restored is not None
    assert restored.corners == pytest.approx(processing_kosmos2.patch_index_to_coordinate(upper, lower, side))


def test_patches_by_hand() -> None:
    # 4 x 4 patches of 10 pixels. 12 lies in column 1; the far edge 30 on a boundary belongs to column 2. Rows: 5 is in
    # row 0, 8 as well: one row, so that rows and columns are read as a whole, columns 1 and 2 as 10 to 30. Where
    # neither is shared, they are read from middle to middle.
    space = PatchSpace(4)
    assert space.quantise(Box(12, 5, 18, 3), 40, 40) == (1, 2)
    assert space.restore((1, 2), 40, 40) == Box(10, 0, 20, 10)
    assert space.restore((1, 6), 40, 40) == Box(15, 5, 10, 10)
    assert space.restore((5, 5), 40, 40) == Box(10, 10, 10, 10)
    assert space.restore((2, 1), 40, 40) is None
    assert space.restore((4, 1), 40, 40) is None
    assert space.quantise(Box(-5, -5, 100, 100), 40, 40) == (0, 15)


def test_pixels_by_hand() -> None:
    # 640 x 480 is seen as 320 x 120: 2 pixels of the image across and 4 down for each that is seen.
    space = PixelSpace(lambda width, height: (width // 2, height // 4))
    assert space.quantise(Box(11, 9, 100, 200), 640, 480) == (6, 2, 56, 52)  # 5.5 -> 6, 2.25, 55.5 -> 56, 52.25
    assert space.restore((6, 2, 56, 52), 640, 480) == Box(12, 8, 100, 200)
    assert space.restore((6, 2, 900, 52), 640, 480) == Box(12, 8, 628, 200)
    assert space.restore((6, 2, 6, 52), 640, 480) is None


def test_pixels_are_no_location_tokens() -> None:
    tokens = TokenizerTokens(small_tokenizers.word_level(NAMES), ["<loc0>"], before="")
    with pytest.raises(ConfigError, match="location tokens need a space with a fixed number of bins"):
        Codec(CATEGORIES, tokens, PixelSpace(resized))
    with pytest.raises(ConfigError, match="patches on a side: expected at least 1, got 0"):
        PatchSpace(0)
