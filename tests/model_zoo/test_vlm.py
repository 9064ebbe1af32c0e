"""The adapter of transformers' models: what is declared of a family is what transformers' own code does."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
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

from harness import conformance, records
from harness.commands.models.predict import open_model
from harness.errors import ConfigError, DataError
from harness.inference.confidence import score
from harness.inference.padding import target_batch
from harness.run import runner
from harness.run.context import open_context
from harness.sequence.targets import target
from harness.suite.train_settings import Train
from harness.training.objective import prepare
from harness.types import Box
from model_zoo import checkpoint
from model_zoo.location_rows import location_curve
from model_zoo.vlm import loading
from model_zoo.vlm.adapter import CARDS, Vlm
from model_zoo.vlm.families import FAMILIES
from model_zoo.vlm.qwen import patches, rope_places
from tests.evaluation.test_questions import assert_each_as_alone, questions_of
from tests.support import small

FIRST, *OTHERS = FAMILIES
EACH = [FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
"""Every family; all but one in the slow tier."""


def fresh(family: str = FIRST, seed: int = 0, **settings: Any) -> Vlm:
    """In eval mode."""
    torch.manual_seed(seed)
    adapter = Vlm(small.benchmark().categories, {"family": family, **settings})
    adapter.model.eval()
    return adapter


@cache
def shared(family: str) -> Vlm:
    """Never change it."""
    return fresh(family)


def canonical(adapter: Vlm, count: int = 3) -> tuple[Tensor, Tensor]:
    """Pixels and inputs of the first training images."""
    examples = small.train_examples(count)
    sequences = [target(example, adapter.codec, "canonical") for example in examples]
    return adapter.pixels(examples), target_batch(sequences, adapter.codec).inputs


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


# ---- what is declared ----------------------------------------------------------------------------------------------


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


# ---- what it computes ----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("family", EACH)
def test_an_image_token_that_a_model_emits_holds_no_image(family: str) -> None:
    adapter = shared(family)
    pixels, tokens = canonical(adapter, 2)
    before = len(adapter.tokens.prompt)
    emitted = tokens.clone()
    emitted[0, before + 1] = adapter._image
    clean, altered = (adapter.logits(pixels, ids) for ids in (tokens, emitted))
    torch.testing.assert_close(altered[1], clean[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(altered[0, : before + 1], clean[0, : before + 1], atol=1e-4, rtol=0)
    assert (altered[0, before + 1 :] - clean[0, before + 1 :]).abs().max() > 1e-3


@torch.no_grad()
def test_the_prompt_sees_all_of_itself_and_the_answer_what_stands_before() -> None:
    """PaliGemma: the question changes what is said of the image that stands before it."""
    adapter = shared("paligemma")
    pixels, tokens = canonical(adapter, 1)
    asked, answered = tokens.clone(), tokens.clone()
    asked[0, len(adapter.tokens.prompt) - 2] += 1
    answered[0, -2] += 1
    clean = adapter.logits(pixels, tokens)
    assert (adapter.logits(pixels, asked) - clean)[0, 0].abs().max() > 1e-6
    assert torch.equal(
        adapter.logits(pixels, answered)[0, : len(adapter.tokens.prompt)], clean[0, : len(adapter.tokens.prompt)]
    )


@torch.no_grad()
def test_the_question_is_part_of_the_prompt() -> None:
    adapter = fresh(question="detect red disc")
    text = adapter.tokens.decode_text(adapter.tokens.prompt)
    assert text == "<image>" * 16 + "<bos>detect red disc\n"
    with pytest.raises(ConfigError, match="expected text without <image>"):
        fresh(question="what is in <image>?")


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("paligemma", "<image><bos>detect {0} ; {1}\n"),
        ("kosmos2", "<s><image><image></image><grounding>{0}; {1}:"),  # the first opens the image
        (
            "idefics",
            "<s>User:<fake_token_around_image><image><fake_token_around_image>"
            "Name every one of these objects and where it is: {0}; {1}.\nAssistant:",
        ),
        (
            "qwen3_vl",
            "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Locate every instance that belongs to the "
            'following categories: "{0}, {1}". Report bbox coordinates and labels ("bbox_2d", "label") in JSON format.'
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_categories_are_asked_about_as_the_family_does(family: str, expected: str) -> None:
    adapter = shared(family)
    first, second = adapter.codec.categories[:2]
    question = replace(small.train_examples(1)[0], asked=(first.id, second.id))
    text = adapter.tokens.decode_text(adapter.codec.prompt(question))
    image = FAMILIES[family].image
    assert text.replace(image * adapter.prompt.images, image) == expected.format(
        *(category.name.replace("_", " ") for category in (first, second))
    )


def test_a_question_of_ones_own_asks_about_categories_where_they_have_a_place() -> None:
    asking = fresh(question="find {names}")
    question = replace(small.train_examples(1)[0], asked=(asking.codec.categories[0].id,))
    name = asking.codec.categories[0].name.replace("_", " ")
    assert asking.tokens.decode_text(asking.codec.prompt(question)).endswith(f"<bos>find {name}\n")
    for silent in (fresh(question="find it"), shared("florence2")):
        with pytest.raises(ConfigError, match="this model's prompt has no place for names"):
            silent.codec.prompt(question)


@torch.no_grad()
def test_each_prompt_sees_all_of_itself_whatever_its_length() -> None:
    """PaliGemma: beside a longer prompt, what the first token sees of the last one is as it is alone."""
    adapter = shared("paligemma")
    ids = [category.id for category in adapter.codec.categories[:4]]
    questions = [
        replace(e, asked=asked_ids)
        for e, asked_ids in zip(small.train_examples(2), (tuple(ids), (ids[0],)), strict=True)
    ]
    pixels, prompts = adapter.pixels(questions), [adapter.codec.prompt(question) for question in questions]
    answer = target(small.fitted_examples()[0], adapter.codec, "canonical")
    joint = adapter.logits(pixels, target_batch([answer, answer], adapter.codec, prompts).inputs)
    assert len(adapter.tokens.prompt) < len(prompts[1]) < len(prompts[0])
    for row, prompt in enumerate(prompts):
        alone, image = target_batch([answer], adapter.codec, [prompt]).inputs, pixels[row : row + 1]
        asked, answered = alone.clone(), alone.clone()
        asked[0, len(prompt) - 2] += 1
        answered[0, len(prompt)] += 1
        clean, of_asked, of_answered = (
            adapter.logits(image, answer_batch)[0] for answer_batch in (alone, asked, answered)
        )
        torch.testing.assert_close(joint[row, : len(clean)], clean, atol=1e-4, rtol=0)
        assert (of_asked - clean)[0].abs().max() > 1e-6
        assert torch.equal(of_answered[: len(prompt)], clean[: len(prompt)])


@pytest.mark.parametrize("family", EACH)
def test_questions_are_answered_as_each_alone(family: str) -> None:
    if family == "florence2":
        pytest.skip("its encoder reads the same prompt for every row")
    adapter = shared(family)
    assert_each_as_alone(adapter, questions_of(adapter))


@torch.no_grad()
def test_names_of_several_tokens_are_scored_after_their_own_prompt() -> None:
    """The probability of a category is the sum over its names, each from a pass of its own."""
    adapter = shared("paligemma")
    codec, example = adapter.codec, small.train_examples(1)[0]
    category = next(c for c in codec.categories if len(c.names) > 1)
    question = replace(example, asked=(category.id, codec.categories[-1].id))
    tokens = codec.encode([(category.name, Box(0, 0, 32, 32))], example.width, example.height)
    parsed = codec.decode(tokens, example.width, example.height)
    ((scores,),) = score(adapter, [question], [tokens], [parsed])
    box, expected = tokens[: parsed.mentions[0].name_start], 0.0
    for name in category.names:
        ids = codec.name_ids[name]
        inputs = torch.tensor([[*codec.prompt(question), *box, *ids]])
        log_p = adapter.logits(adapter.pixels([question]), inputs)[0, -len(ids) - 1 :].log_softmax(-1)
        value = float(log_p[:-1].gather(1, torch.tensor(ids)[:, None]).sum())
        if name in codec.prefix_names:
            value += float(log_p[-1, list(codec.form.terminators)].logsumexp(0))
        expected += math.exp(value)
    assert len(codec.name_ids[category.names[1]]) > 1
    assert scores.category == pytest.approx(expected, rel=1e-4)


# ---- learning ------------------------------------------------------------------------------------------------------


def trained(adapter: Vlm) -> Vlm:
    plan = Train(steps=2, batch_size=4)
    objective = prepare("ce", {}, adapter, (), plan, 0)
    small.fine_tune(adapter, objective, plan)
    adapter.model.eval()
    return adapter


@pytest.mark.parametrize("family", EACH)
def test_a_frozen_image_encoder_stays_as_it_is(family: str) -> None:
    adapter = fresh(family, trains="decoder")
    before = {name: t.detach().clone() for name, t in checkpoint.named_tensors(adapter.model).items()}
    after = checkpoint.named_tensors(trained(adapter).model)
    still = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    vision = {name for name in before if name.startswith(adapter.family.vision)}
    assert vision
    assert vision <= still
    assert len(still - vision) < 0.2 * len(before)  # layers that no token has come through


@pytest.mark.parametrize("new", [False, True], ids=["pretrained", "toy"])
def test_low_rank_changes_are_all_that_is_trained(new: bool, tmp_path: Path) -> None:
    """A toy has not learnt its tokens: they are trained too."""
    pytest.importorskip("peft")
    plain = published(FIRST, tmp_path)
    adapter = fresh(trains="lora", weights="random" if new else str(tmp_path))
    pixels, tokens = canonical(plain)
    assert torch.equal(adapter.logits(pixels, tokens), plain.logits(pixels, tokens))  # they start at 0
    before = {name: p.detach().clone() for name, p in adapter.model.named_parameters()}
    trained(adapter)
    moved = {name for name, p in adapter.model.named_parameters() if not torch.equal(p, before[name])}
    changes = {name for name in moved if "lora_" in name and not name.startswith(adapter.family.vision)}
    assert changes
    assert moved - changes == ({"model.language_model.embed_tokens.weight"} if new else set())


@pytest.mark.parametrize("family", EACH)
def test_gradients_computed_twice_are_the_same(family: str) -> None:
    gradients = []
    for twice in (False, True):
        adapter = fresh(family)
        if twice:
            adapter.checkpoint_gradients()
            assert any(getattr(module, "gradient_checkpointing", False) for module in adapter.model.modules())
        adapter.model.train()
        adapter.logits(*canonical(adapter, 2)).square().mean().backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad for p in adapter.model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-4)


def test_without_peft_low_rank_changes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"install it with: pip install 'detmodes\[lora\]'"):
        fresh(trains="lora")


@pytest.mark.slow
def test_a_suite_runs_from_end_to_end(tmp_path: Path) -> None:
    plan = {"steps": 4, "batch_size": 4, "lr": 1e-3, "warm_up": 0}
    runner.run(open_context(small.mini_suite(models=[{"name": "vlm"}], train=plan), None, "cpu"), tmp_path)
    folders = {folder: records.read_record(folder) for folder in (tmp_path / "cells").iterdir()}
    by_label = {record.label: record for record in folders.values()}
    assert {label: record.status for label, record in by_label.items()} == dict.fromkeys(
        ("base", "ce", "sed", "oracle-uniform", "oracle-collapsed"), "finished"
    )
    before, after = (by_label[label].evaluations[-1].heldout_nll for label in ("base", "ce"))
    assert before is not None
    assert after is not None
    assert after < before - 0.05
    models = {record.label: open_model(str(folder)) for folder, record in folders.items() if record.role == "trained"}
    pixels, tokens = canonical(shared(FIRST))
    assert not torch.equal(models["ce"].logits(pixels, tokens), models["sed"].logits(pixels, tokens))


# ---- weights on disk -----------------------------------------------------------------------------------------------


def published(family: str, folder: Path) -> Vlm:
    """A toy in a folder, as transformers writes a model."""
    adapter = fresh(family)
    adapter.model.save_pretrained(folder)
    adapter.tokens._tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    return adapter


@torch.no_grad()
@pytest.mark.parametrize("family", EACH)
def test_a_folder_gives_the_same_model(family: str, tmp_path: Path) -> None:
    adapter = published(family, tmp_path)
    loaded = fresh(
        family,
        seed=1,
        weights=str(tmp_path),
        **({} if adapter.family.step(adapter.model.config) == 1 else {"image_size": 64}),
    )
    pixels, tokens = canonical(adapter)
    assert torch.equal(canonical(loaded)[1], tokens)
    assert torch.equal(loaded.logits(pixels, tokens), adapter.logits(pixels, tokens))
    digest = loaded.describe()["weights_digest"]
    assert digest == " ".join(checkpoint.sha256(tmp_path / name) for name in ("config.json", "model.safetensors"))


def test_what_is_saved_is_what_was_trained(tmp_path: Path) -> None:
    published(FIRST, tmp_path / "base")
    adapter = trained(fresh(weights=str(tmp_path / "base"), trains="decoder"))
    adapter.save(tmp_path / "model.safetensors")
    names = checkpoint.read(tmp_path / "model.safetensors")[0].keys()
    assert not [name for name in names if name.startswith(adapter.family.vision)]
    loaded = fresh(seed=1, weights=str(tmp_path / "base"), trains="decoder")
    pixels, tokens = canonical(adapter)
    assert not torch.equal(loaded.logits(pixels, tokens), adapter.logits(pixels, tokens))
    loaded.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded.logits(pixels, tokens), adapter.logits(pixels, tokens))


def test_a_folder_of_another_family_is_refused(tmp_path: Path) -> None:
    published("paligemma", tmp_path)
    with pytest.raises(ConfigError, match=r"expected a kosmos-2 model in .*, got paligemma"):
        fresh("kosmos2", weights=str(tmp_path))
    with pytest.raises(DataError, match=r"expected a folder with config\.json"):
        fresh(weights=str(tmp_path / "none"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    published(FIRST, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"transformers cannot read it: .*safetensors"):
        fresh(weights=str(tmp_path))


def test_a_repository_is_read_at_its_revision_without_what_could_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(*asked: object, **more: object) -> str:
        assert (asked, more["revision"]) == (("owner/name",), "v1")
        assert isinstance(more["allow_patterns"], list)
        assert not {"*.py", "*.bin", "*.pt", "*"} & set(more["allow_patterns"])
        return str(tmp_path)

    monkeypatch.setattr(loading, "snapshot_download", download)
    published(FIRST, tmp_path)
    assert fresh(weights="hub:owner/name@v1").weights_digest == loading.digest(tmp_path)


@torch.no_grad()
def test_idefics_keeps_its_rows_and_gets_new_ones() -> None:
    """A published Idefics has its two added tokens in a table of their own; location tokens are appended."""
    torch.manual_seed(0)
    adapter = fresh("idefics")
    config = adapter.model.config
    config.vocab_size, config.additional_vocab_size, config.tie_word_embeddings = 500, 2, False
    model = type(adapter.model)(config).eval()
    tokens = torch.tensor([[3, 499, 500, 501, 7]])
    looked_up = {
        "pixel_values": adapter.pixels(small.train_examples(1))[:, None],
        "image_attention_mask": torch.ones(1, 5, 1),
    }
    before = model(input_ids=tokens, use_cache=False, **looked_up).logits
    adapter.family.grow(model, 600)
    after = model(input_ids=tokens, use_cache=False, **looked_up).logits
    assert after.shape == (1, 5, 600)
    torch.testing.assert_close(after[..., :502], before, atol=1e-5, rtol=0)
    rows = model.get_input_embeddings().weight.detach()
    torch.testing.assert_close(rows[502:], location_curve(rows[:500], 98))


# ---- settings ------------------------------------------------------------------------------------------------------


def test_every_wrong_setting_is_reported_at_once() -> None:
    wrong = {"famly": 1, "family": "paligema", "weights": "hub:a/b", "trains": "al", "image_size": 0, "question": 3}
    with pytest.raises(ConfigError) as error:
        Vlm(small.benchmark().categories, wrong)
    text = "\n".join(error.value.problems)
    assert len(error.value.problems) == 6
    assert "'famly', did you mean 'family'" in text
    assert "'paligema', did you mean 'paligemma'" in text
    assert "expected 'random', a folder or hub:OWNER/NAME@REVISION (a tag or commit), got 'hub:a/b'" in text


@pytest.mark.parametrize(
    ("family", "side", "message"),
    [
        ("paligemma", 32, "this model reads 64 pixels a side, got 32"),
        ("qwen2_5_vl", 40, "expected a multiple of 16, got 40"),
        ("florence2", 60, "expected a multiple of 8, got 60"),
    ],
)
def test_an_image_size_that_does_not_fit_is_refused(family: str, side: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fresh(family, image_size=side)


def test_an_image_size_changes_the_prompt() -> None:
    adapter = fresh("qwen2_5_vl", image_size=96)
    assert (adapter.prompt.images, adapter.pixels(small.train_examples(1)).shape[2:]) == (36, (96, 96))
