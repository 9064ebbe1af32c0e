"""What is declared of a family is what transformers' own code does, and every family keeps the contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import Florence2Config, Kosmos2Config, PaliGemmaConfig, Qwen2_5_VLConfig, Qwen3VLConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.florence2.processing_florence2 import Florence2PostProcessor
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil
from transformers.models.kosmos2.processing_kosmos2 import clean_text_and_extract_entities_with_bboxes
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from harness import conformance
from harness.types import Box
from model_zoo.vlm.adapter import CARDS, Vlm
from model_zoo.vlm.families import FAMILIES
from model_zoo.vlm.qwen import patches, rope_places
from tests.model_zoo.vlm.toys import OTHERS, canonical, shared
from tests.support import small


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
def test_every_family_keeps_the_contract(family: str) -> None:
    """The first one, being the default, is checked with all registered models."""
    outcomes = conformance.check(Vlm, {"family": family})
    assert [(o.check, o.message) for o in outcomes if o.state == "failed"] == []
    skipped = {o.check for o in outcomes if o.state == "skipped"}
    lacking = {"qwen2_5_vl": {"grammar"}, "qwen3_vl": {"grammar"}, "florence2": {"asked"}}
    assert skipped == {"hidden"} | lacking.get(family, set())


def test_every_family_has_a_card() -> None:
    assert [card["settings"] for card in CARDS] == [{}, *({"family": name} for name in OTHERS)]


@pytest.mark.parametrize(
    ("family", "config", "side", "expected"),
    [
        ("paligemma", PaliGemmaConfig(), 224, 256),  # (224 / 14)^2
        ("kosmos2", Kosmos2Config(), 224, 64),  # latent queries
        ("florence2", Florence2Config(), 768, 577),  # (768 / 32)^2, and their mean
        ("qwen2_5_vl", Qwen2_5_VLConfig(), 448, 256),  # (448 / 14 / 2)^2
        ("qwen3_vl", Qwen3VLConfig(), 448, 196),  # (448 / 16 / 2)^2
    ],
)
def test_an_image_takes_as_many_tokens_as_it_does_in_published_models(
    family: str, config: Any, side: int, expected: int
) -> None:
    assert FAMILIES[family].image_tokens(config, side) == expected
    assert side % FAMILIES[family].step(config) == 0


@pytest.mark.parametrize(
    ("family", "processor"),
    [
        ("paligemma", SiglipImageProcessorPil(size={"height": 64, "width": 64})),
        ("kosmos2", CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)),
        ("idefics", IdeficsImageProcessorPil(image_size=64)),
    ],
)
def test_pixels_are_those_of_the_familys_own_processor(family: str, processor: Any) -> None:
    examples = small.train_examples(2)
    pictures = [Image.open(example.path).convert("RGB") for example in examples]
    theirs = processor(pictures, return_tensors="pt")
    expected = theirs if isinstance(theirs, Tensor) else theirs["pixel_values"]
    torch.testing.assert_close(shared(family).pixels(examples), expected.float().view(2, 3, 64, 64), atol=1e-5, rtol=0)


def test_patches_are_those_of_qwens_own_processor() -> None:
    side = {"shortest_edge": 64 * 64, "longest_edge": 64 * 64}
    processor = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, temporal_patch_size=2, size=side)
    examples = small.train_examples(2)
    theirs = processor([Image.open(example.path).convert("RGB") for example in examples], return_tensors="pt")
    rows = patches(shared("qwen2_5_vl").pixels(examples), patch=8, merge=2, frames=2)
    torch.testing.assert_close(rows, torch.as_tensor(theirs["pixel_values"]).float(), atol=1e-5, rtol=0)
    assert theirs["image_grid_thw"].tolist() == [[1, 8, 8]] * 2


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_places_are_those_of_qwens_own_code(family: str) -> None:
    adapter = shared(family)
    _, tokens = canonical(adapter, 2)
    prompt, length = adapter.prompt, tokens.shape[1]
    images = prompt.is_image(length, tokens.device).long().expand_as(tokens)
    grid = torch.tensor([[1, 8, 8]] * 2)
    expected, deltas = adapter.model.model.get_rope_index(tokens, mm_token_type_ids=images, image_grid_thw=grid)
    places = rope_places(prompt, length, tokens.device)
    assert torch.equal(places[:, None].expand(-1, 2, -1), expected)
    following = adapter.family.next(adapter.model, prompt, {}, tokens[:, :1], length)["position_ids"]
    assert torch.equal(following[0], length + deltas)


def test_transformers_reads_the_phrases_of_kosmos_as_they_were_written() -> None:
    """Its reader takes the middle of a patch for a box of several, as PatchSpace does."""
    codec, box = shared("kosmos2").codec, Box(10, 20, 40, 30)
    name = next(iter(codec.category_of))
    tokens = codec.encode([(name, box)], 64, 64)
    text = codec.tokens.decode_text(tokens[:-1])  # type: ignore[attr-defined]
    _, [(read, _, [corners])] = clean_text_and_extract_entities_with_bboxes(text)  # type: ignore[no-untyped-call]
    (mention,) = codec.decode(tokens, 64, 64).mentions
    assert read == name.replace("_", " ")
    np.testing.assert_allclose(np.array(corners) * 64, mention.box.corners, atol=1e-9)


def test_transformers_reads_the_boxes_of_florence_as_they_were_written() -> None:
    codec = shared("florence2").codec
    first, second = list(codec.category_of)[:2]
    sent = [(first, Box(10, 20, 40, 30)), (second, Box(0.3, 0, 63.7, 48))]
    tokens = codec.encode(sent, 64, 48)

    class Special:
        all_special_tokens = ("<s>", "</s>", "<pad>")

    reader = Florence2PostProcessor(config={}, tokenizer=Special())  # type: ignore[no-untyped-call]
    text = codec.tokens.decode_text(tokens[:-1])  # type: ignore[attr-defined]
    read = reader.parse_description_with_bboxes_from_text_and_spans(text, image_size=(64, 48))
    mentions = codec.decode(tokens, 64, 48).mentions
    assert [one["cat_name"] for one in read] == [name.replace("_", " ") for name in (first, second)]
    for theirs, ours, (_, box) in zip(read, mentions, sent, strict=True):
        assert theirs["bbox"] == [int(edge) for edge in ours.box.corners]  # it leaves the fractions out
        quantised = reader.quantize(torch.tensor([box.corners]), (64, 48))[0].tolist()
        assert quantised == list(codec.space.quantise(box, 64, 48))


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("paligemma", "<loc0426><loc0160><loc1023><loc0799> {name}<eos>"),  # 20/48, 10/64, 48/48, 50/64 of 1023
        ("kosmos2", "<phrase>{name}</phrase><object><patch_index_0421><patch_index_1016></object></s>"),
        ("florence2", "{name}<loc_156><loc_416><loc_781><loc_999></s>"),
        ("idefics", " {name}<loc_416><loc_156><loc_999><loc_780></s>"),
        ("qwen2_5_vl", '[{{"bbox_2d": [10, 27, 50, 64], "label": "{name}"}}]<|im_end|>'),  # 20/48 of 64 is 26.7
        ("qwen3_vl", '[{{"bbox_2d": [156, 417, 781, 1000], "label": "{name}"}}]<|im_end|>'),
    ],
)
def test_answers_are_written_as_the_family_does(family: str, expected: str) -> None:
    """Patch 421 is in row 13 = floor(20/48 * 32), column 5 = 10/64 * 32; patch 1016 in row 31, column 24."""
    codec = shared(family).codec
    name = next(iter(codec.category_of))
    tokens = codec.encode([(name, Box(10, 20, 40, 28))], 64, 48)
    text = codec.tokens.decode_text(tokens)  # type: ignore[attr-defined]
    assert text == expected.format(name=name.replace("_", " "))
