"""OpenFlamingo over tokenizers: every family of language models keeps the contract, in memory and from its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from harness import conformance
from harness.errors import ConfigError, DataError
from harness.inference.padding import target_batch
from harness.sequence.targets import target
from model_zoo import checkpoint
from model_zoo.flamingo import language, published
from model_zoo.flamingo.architectures import FAMILIES
from model_zoo.flamingo.published import OpenFlamingoHf
from model_zoo.location_rows import location_curve
from tests.model_zoo.flamingo.toys import NAMES, folder_of, fresh
from tests.support import small


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_the_contract(family: str) -> None:
    """GPT-NeoX, the default, is among the registered models."""
    every = {"gpt_neox": 2, "opt": 2}.get(family, 1)  # some layers have no cross-attention
    outcomes = conformance.check(OpenFlamingoHf, {"language": f"toy-{family}", "every": every})
    assert {o.check: o.message for o in outcomes if o.state == "failed"} == {}
    assert {o.check for o in outcomes if o.state == "skipped"} <= {"card"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"trains": "flamingo"},
        {"trains": "frozen_embeddings", "language": "toy-llama"},
        {"trains": "lora", "language": "toy-llama"},
        {"trains": "lora", "language": "toy-mpt"},
        {"vision": "timm:resnet10t", "image_size": 64},
    ],
)
def test_it_keeps_it_with_other_settings(settings: dict[str, object]) -> None:
    if settings.get("trains") == "lora":
        pytest.importorskip("peft")
    outcomes = conformance.check(OpenFlamingoHf, settings)
    assert {o.check: o.message for o in outcomes if o.state == "failed"} == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_that_transformers_multiplies(family: str) -> None:
    """With closed gates the image has no say: what remains is the language model as transformers computes it."""
    adapter = fresh(language=f"toy-{family}")
    for block in adapter.model.readers():
        nn.init.zeros_(block.attn_gate)
        nn.init.zeros_(block.ff_gate)
    torch.manual_seed(0)  # the language model is the first that draws
    plain = language.toy_model(family, len(language.toy_tokenizer(NAMES)))
    plain.eval()
    size = plain.get_input_embeddings().weight.shape[0]
    words = torch.arange(5, 25).repeat(2, 1)  # tokens that both know
    with torch.no_grad():
        expected = plain(input_ids=words).logits
        states = adapter.logits(adapter.pixels(small.train_examples(2)), words)
    torch.testing.assert_close(states[..., :size], expected, atol=1e-5, rtol=1e-5)


def test_cross_attention_stands_before_every_nth_layer() -> None:
    layers = fresh(every=2).model.lang_encoder._get_decoder_layers()
    assert [layer.gated_cross_attn_layer is not None for layer in layers] == [False, True]
    with pytest.raises(ConfigError, match="every: the language model has 2 layers, got 3: it would see no image"):
        fresh(every=3)


def test_checkpointed_gradients_are_what_they_were() -> None:
    def gradients(adapter: OpenFlamingoHf) -> list[Tensor]:
        examples = small.train_examples(2)
        tokens = target_batch([target(e, adapter.codec, "canonical") for e in examples], adapter.codec).inputs
        adapter.logits(adapter.pixels(examples), tokens).logsumexp(-1).sum().backward()  # type: ignore[no-untyped-call]
        return [p.grad for p in adapter.model.parameters() if p.grad is not None]

    once, twice = fresh(every=2), fresh(every=2)
    twice.checkpoint_gradients()
    for one, other in zip(gradients(once), gradients(twice), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_saved_language_model_is_read_from_its_folder(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path / "llama")
    adapter = fresh(language=str(folder), vision="toy", bins=65)
    rows = adapter.model.lang_encoder.get_input_embeddings().rows
    torch.manual_seed(7)
    plain = language.toy_model("llama", len(language.toy_tokenizer(NAMES)))
    assert torch.equal(rows.kept, plain.get_input_embeddings().weight)
    torch.testing.assert_close(rows.added[:3], rows.kept.mean(0).expand(3, -1))
    assert torch.equal(rows.added[3:], location_curve(rows.kept.detach(), 65))
    assert len(rows.added) == 3 + 65  # the end of a chunk, the image, padding; locations
    digest = checkpoint.sha256(folder / "model.safetensors")
    assert adapter.describe()["weights_digest"] == {"language": [digest], "vision": [], "weights": []}


@pytest.mark.parametrize("where", [{"attn_config": {"qk_ln": True}}, {"attn_qk_ln": True, "model_type": "mosaic_gpt"}])
def test_mpt_with_normalised_queries_is_refused(tmp_path: Path, where: dict[str, object]) -> None:
    path = folder_of("mpt", tmp_path / "mpt-1b") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **where}))
    with pytest.raises(ConfigError, match=r"mpt-1b has qk_ln, which transformers' own MPT ignores.*trust-remote-code"):
        fresh(language=str(path.parent), vision="toy")


CODE = """
from transformers import MptConfig, MptForCausalLM


class OwnConfig(MptConfig):
    model_type = "mpt"


class Own(MptForCausalLM):
    config_class = OwnConfig
    ran = True
"""


def test_code_that_comes_with_a_model_runs_if_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = folder_of("mpt", tmp_path / "mpt_1b") / "config.json"
    config = {"auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}, "attn_qk_ln": True}
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    (path.parent / "own.py").write_text(CODE)
    trusting: dict[str, Any] = {"language": str(path.parent), "vision": "toy", "trust_remote_code": True}
    adapter = fresh(**trusting)
    assert adapter.model.lang_encoder.ran


def test_other_families_and_missing_files_are_named(tmp_path: Path) -> None:
    path = folder_of("llama", tmp_path / "own") / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "model_type": "bert"}))
    with pytest.raises(ConfigError, match="own is a 'bert'; available: gpt_neox, llama, mpt, opt"):
        fresh(language=str(path.parent), vision="toy")
    path.write_text(json.dumps({**content, "num_hidden_layers": 3}))
    with pytest.raises(DataError, match=r"weights do not fit its configuration: model.layers.2.*missing"):
        fresh(language=str(path.parent), vision="toy")
    with pytest.raises(DataError, match=r"nowhere.*config.json: expected the configuration of a language model"):
        fresh(language=str(tmp_path / "nowhere"), vision="toy")


def test_a_tokenizer_that_writes_spaces_itself_gets_none() -> None:
    pieces = ["<unk>", "</s>", "\u2581", "\u2581a", *"abcdefghijklmnopqrstuvwxyz;:O", "\u2581;"]
    fast = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=False))
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    fast.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="</s>")  # type: ignore[no-untyped-call]
    tokens = published._tokens(tokenizer, 4)
    assert [fast.id_to_token(index) for index in tokens.encode_name("cab")] == ["\u2581", "c", "a", "b"]


def test_an_answer_without_end_is_truncated() -> None:
    """Its end token is made impossible; the codec counts that, and what is whole is read."""
    adapter = fresh()
    head = adapter.model.lang_encoder.get_output_embeddings()
    end = adapter.codec.tokens.end
    head.register_forward_hook(lambda module, given, out: out.index_fill(-1, torch.tensor([end]), -1e9))
    answers = adapter.generate(small.train_examples(2), [0.0, 1.0], 0, 15, grammar=True)
    for sample in (sample for of_image in answers for sample in of_image):
        assert len(sample.tokens) == 15
        parsed = adapter.codec.decode(sample.tokens, 64, 64)
        assert parsed.truncated
        assert parsed.malformed == 0
        assert parsed.mentions
