"""What is written in each family's format: by hand, and as the family's own code has it."""

from __future__ import annotations

import json
import re

import pytest
from transformers.models.kosmos2 import processing_kosmos2

from harness.sequence import (
    KINDS,
    TokenizerTokens,
)
from tests.sequence.formats.families import FAMILIES, HEIGHT, TWO, WIDTH, every_family, text_of
from tests.sequence.formats.readings import PHRASE, PLACE, TWO_PLACES

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
