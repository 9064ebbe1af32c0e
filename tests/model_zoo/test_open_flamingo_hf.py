"""OpenFlamingo over tokenizers: families of language models, released checkpoints, and what trains."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from harness import conformance
from harness.errors import ConfigError, DataError
from harness.inference.padding import target_batch
from harness.sequence import vocabulary_names
from harness.sequence.targets import target
from harness.suite.train_settings import Train
from harness.training.objective import prepare
from harness.types import Box, Example
from model_zoo import checkpoint
from model_zoo.flamingo import language, published
from model_zoo.flamingo import vision as flamingo_vision
from model_zoo.flamingo.architectures import FAMILIES
from model_zoo.flamingo.new_embeddings import GrownEmbedding, GrownHead, Rows
from model_zoo.flamingo.published import OpenFlamingoHf
from model_zoo.location_rows import location_curve
from tests.support import small

NAMES = vocabulary_names(small.benchmark().categories)


def fresh(seed: int = 0, **settings: Any) -> OpenFlamingoHf:
    torch.manual_seed(seed)
    adapter = OpenFlamingoHf(small.benchmark().categories, settings)
    adapter.model.eval()
    return adapter


def folder_of(family: str, path: Path) -> Path:
    """A language model with its tokenizer, as transformers saves them."""
    torch.manual_seed(7)
    tokenizer = language.toy_tokenizer(NAMES)
    language.toy_model(family, len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def logits_of(adapter: OpenFlamingoHf) -> Tensor:
    examples = small.train_examples(2)
    tokens = target_batch([target(e, adapter.codec, "canonical") for e in examples], adapter.codec).inputs
    with torch.no_grad():
        return adapter.logits(adapter.pixels(examples), tokens)


# ---- families ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] * (name != "opt")) for name in FAMILIES]
)
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


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_grown_embeddings_are_the_joined_matrix() -> None:
    rows = Rows(torch.randn(5, 3), 2)
    nn.init.normal_(rows.added)
    ids, hidden = torch.tensor([[0, 4, 5], [6, 2, 5]]), torch.randn(2, 3, 3)
    torch.testing.assert_close(GrownEmbedding(rows)(ids), F.embedding(ids, torch.cat([rows.kept, rows.added])))
    torch.testing.assert_close(GrownHead(rows)(hidden), hidden @ torch.cat([rows.kept, rows.added]).T)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("trains", ["flamingo", "frozen_embeddings", "lora"])
def test_what_trains_moves_and_nothing_else(family: str, trains: str) -> None:
    if trains == "lora":
        pytest.importorskip("peft")
    adapter = fresh(language=f"toy-{family}", trains=trains)
    before = {name: t.detach().clone() for name, t in checkpoint.named_tensors(adapter.model).items()}
    plan = Train(steps=2, batch_size=4)
    objective = prepare("ce", {}, adapter, (), plan, 0)
    small.fine_tune(adapter, objective, plan)
    moved = {n for n, t in checkpoint.named_tensors(adapter.model).items() if not torch.equal(t, before[n])}
    parts = ["perceiver.", "gated_cross_attn_layer", ".added", *(["lora_"] if trains == "lora" else [])]
    source = adapter.model.lang_encoder.get_input_embeddings().rows
    frozen = {name for name, parameter in adapter.model.named_parameters() if parameter is source.kept}
    assert frozen & moved == (frozen if trains == "flamingo" else set())  # frozen rows are the same to the bit
    for part in parts:
        assert any(part in name for name in moved), part
    assert all(any(part in name for part in parts) for name in moved - frozen)


def test_tied_rows_stay_tied() -> None:
    """MPT and OPT share them, so a location's row is one; GPT-NeoX has two."""
    for family, tied in {"mpt": True, "opt": True, "gpt_neox": False, "llama": False}.items():
        language = fresh(language=f"toy-{family}").model.lang_encoder
        assert (language.get_input_embeddings().rows is language.get_output_embeddings().rows) is tied


# ---- released checkpoints ------------------------------------------------------------------------------------------

INPUT = {
    "gpt_neox": "gpt_neox.embed_in",
    "llama": "model.embed_tokens",
    "mpt": "transformer.wte",
    "opt": "model.decoder.embed_tokens",
}
LAYERS = {"gpt_neox": "gpt_neox.layers", "llama": "model.layers", "mpt": "transformer.blocks"} | {
    "opt": "model.decoder.layers"
}
READER = {
    "attn.norm.weight": (64,),
    "attn.norm.bias": (64,),
    "attn.to_q.weight": (64, 64),
    "attn.to_kv.weight": (128, 64),
    "attn.to_out.weight": (64, 64),
    "attn_gate": (1,),
    "ff_gate": (1,),
    "ff.0.weight": (64,),
    "ff.0.bias": (64,),
    "ff.1.weight": (256, 64),
    "ff.3.weight": (64, 256),
}
"""Names and shapes of one block as upstream saves it; 64 is every width here, 4 x 16 the heads."""
PERCEIVER = {
    "latents": (16, 64),
    "norm.weight": (64,),
    "norm.bias": (64,),
    "layers.0.0.norm_media.weight": (64,),
    "layers.0.0.norm_media.bias": (64,),
    "layers.0.0.norm_latents.weight": (64,),
    "layers.0.0.norm_latents.bias": (64,),
    "layers.0.0.to_q.weight": (64, 64),
    "layers.0.0.to_kv.weight": (128, 64),
    "layers.0.0.to_out.weight": (64, 64),
    "layers.0.1.0.weight": (64,),
    "layers.0.1.0.bias": (64,),
    "layers.0.1.1.weight": (256, 64),
    "layers.0.1.3.weight": (64, 256),
}


def released(family: str, every: int = 1) -> dict[str, Tensor]:
    """What upstream's training would have saved for a toy: random numbers under the official names."""
    torch.manual_seed(3)
    rows = len(language.toy_tokenizer(NAMES)) + 3  # the end of a chunk, the image, padding
    layers = [n for n in range(language.LAYERS) if (n + 1) % every == 0]
    shapes = {f"perceiver.{name}": shape for name, shape in PERCEIVER.items()}
    for n in layers:
        block = f"lang_encoder.{LAYERS[family]}.{n}.gated_cross_attn_layer"
        shapes |= {f"{block}.{name}": shape for name, shape in READER.items()}
    shapes[f"lang_encoder.{INPUT[family]}.weight"] = (rows, 64)
    if family == "gpt_neox":
        shapes["lang_encoder.embed_out.weight"] = (rows, 64)
    return {name: torch.randn(shape) * 0.1 for name, shape in shapes.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_released_checkpoint_is_read(family: str, tmp_path: Path) -> None:
    tensors = released(family, every=2)
    torch.save(tensors, tmp_path / "checkpoint.pt")
    settings: dict[str, Any] = {"language": f"toy-{family}", "every": 2}
    adapter = fresh(**settings, weights=str(tmp_path / "checkpoint.pt"))
    state = adapter.model.state_dict()
    for name, tensor in tensors.items():
        if INPUT[family] not in name and "embed_out" not in name:
            assert torch.equal(state[name], tensor), name
    stored, rows = tensors[f"lang_encoder.{INPUT[family]}.weight"], adapter.model.lang_encoder.get_input_embeddings()
    assert torch.equal(rows.weight[: len(stored)], stored)
    assert torch.equal(rows.weight[len(stored) :], location_curve(rows.rows.kept.detach(), 65))
    assert not torch.equal(logits_of(adapter), logits_of(fresh(**settings)))
    assert adapter.describe()["weights_digest"] == {
        "language": [],
        "vision": [],
        "weights": [checkpoint.sha256(tmp_path / "checkpoint.pt")],
    }


def test_a_checkpoint_of_a_training_run_is_the_same(tmp_path: Path) -> None:
    tensors = released("mpt")
    torch.save(tensors, tmp_path / "released.pt")
    inner = {f"module.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"epoch": 3, "model_state_dict": inner}, tmp_path / "run.pt")
    one, other = (fresh(language="toy-mpt", weights=str(tmp_path / f"{n}.pt")) for n in ("released", "run"))
    assert torch.equal(logits_of(one), logits_of(other))


def test_the_first_ten_mismatches_are_listed(tmp_path: Path) -> None:
    """As with a checkpoint for cross-attention in every layer where there is one in every second."""
    path = tmp_path / "checkpoint.pt"
    torch.save({**released("mpt"), "perceiver.latents": torch.zeros(64, 64)}, path)
    with pytest.raises(DataError) as error:
        fresh(language="toy-mpt", every=2, weights=str(path))
    message = str(error.value)
    assert message.count("unexpected") == 10
    assert "lang_encoder.transformer.blocks.0.gated_cross_attn_layer.attn.norm.bias unexpected" in message
    assert message.endswith("(and 2 more)")
    assert "\n" not in message
    torch.save({**released("mpt"), "perceiver.latents": torch.zeros(64, 64)}, path)
    with pytest.raises(DataError, match=r"model: perceiver\.latents: expected \(16, 64\), got \(64, 64\)$"):
        fresh(language="toy-mpt", weights=str(path))
    wte = "lang_encoder.transformer.wte.weight"
    torch.save({name: tensor for name, tensor in released("mpt").items() if name != wte}, path)
    with pytest.raises(DataError, match=f"{wte} missing"):
        fresh(language="toy-mpt", weights=str(path))


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('ran').touch()",))


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pt"
    for content in ({"a": Evil()}, [1, 2], {"a": 1}):
        torch.save(content, path)
        with pytest.raises(DataError, match=r"checkpoint.pt: expected a (checkpoint|state dict)"):
            fresh(weights=str(path))
    assert not (tmp_path / "ran").exists()
    path.write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"checkpoint.pt: expected a checkpoint that torch.save wrote"):
        fresh(weights=str(path))
    with pytest.raises(DataError, match="no such weights file"):
        fresh(weights=str(tmp_path / "none.pt"))


# ---- vision --------------------------------------------------------------------------------------------------------


def test_a_tower_of_open_clip_reads_clips_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are those of open_clip's own model; its text half is left in the file."""
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text = {"context_length": 7, "vocab_size": 11, "width": 64, "heads": 1, "layers": 1}
    config = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-mini", config)
    torch.manual_seed(5)
    whole = open_clip.CLIP(embed_dim=16, vision_cfg={**vision, "output_tokens": True}, text_cfg=text, quick_gelu=True)
    save_file({n: t.contiguous() for n, t in whole.state_dict().items()}, tmp_path / "clip.safetensors")
    made = flamingo_vision.build("ViT-mini", str(tmp_path / "clip.safetensors"), 224)
    whole.eval()
    made.tower.eval()
    pixels = made.pixels(small.train_examples(2))
    assert pixels.shape == (2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(made.tower(pixels)[1], whole.visual(pixels)[1])
    adapter = fresh(vision="ViT-mini", vision_weights=str(tmp_path / "clip.safetensors"))
    assert logits_of(adapter).isfinite().all()
    save_file({"visual.proj": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="weights do not fit the model: class_embedding missing"):
        flamingo_vision.build("ViT-mini", str(tmp_path / "other.safetensors"), 224)


def _painted(path: Path, mode: str, orientation: int = 1) -> Example:
    """A picture of 40 x 20 as it is shown: white, with red in the box (10, 5, 20, 10)."""
    shown = Image.new("RGB", (40, 20), "white")
    shown.paste((255, 0, 0), (10, 5, 30, 15))
    if orientation == 6:
        shown = shown.transpose(Image.Transpose.ROTATE_90)  # stored lying on its side
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown.convert(mode).save(path, exif=exif)
    return Example(1, path, 40, 20, ())


@pytest.mark.parametrize(
    ("name", "mode", "orientation"), [("a.png", "RGB", 6), ("a.tif", "CMYK", 1), ("a.png", "P", 1)]
)
def test_the_box_lies_where_the_model_sees_the_object(tmp_path: Path, name: str, mode: str, orientation: int) -> None:
    """Colours and orientation are handled before the picture is squeezed: the pixels inside the box are red."""
    adapter = fresh()
    example = _painted(tmp_path / name, mode, orientation)
    raw = adapter.pixels([example])[0] * flamingo_vision.STD[:, None, None] + flamingo_vision.MEAN[:, None, None]
    red = (raw[0] > 0.9) & (raw[1] < 0.1) & (raw[2] < 0.1)
    space = adapter.codec.space
    box = space.restore(space.quantise(Box(10, 5, 20, 10), 40, 20), 64, 64)
    assert box == Box(16, 16, 32, 32)
    assert red[18:46, 18:46].all()
    assert red.sum() <= 34 * 34


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


# ---- settings and files --------------------------------------------------------------------------------------------


def test_only_what_trains_is_saved_where_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of("opt", tmp_path / "opt")
    tower = flamingo_vision._toy()
    save_file({n: t.contiguous() for n, t in tower.state_dict().items()}, tmp_path / "tower.safetensors")

    vision = flamingo_vision.Vision(tower, 64, 64, tmp_path / "tower.safetensors")
    monkeypatch.setattr(flamingo_vision, "build", lambda name, weights, image_size: vision)
    settings: dict[str, Any] = {"language": str(folder), "vision": "toy", "trains": "frozen_embeddings"}
    adapter, other = fresh(**settings), fresh(seed=1, **settings)
    with torch.no_grad():
        adapter.model.lang_encoder.get_input_embeddings().rows.added.add_(0.1)
    adapter.save(tmp_path / "own.safetensors")
    stored, _ = checkpoint.read(tmp_path / "own.safetensors")
    assert stored.keys() == {n for n, p in adapter.model.named_parameters() if p.requires_grad}
    assert not torch.equal(logits_of(other), logits_of(adapter))
    other.load(tmp_path / "own.safetensors")
    assert torch.equal(logits_of(other), logits_of(adapter))
    with pytest.raises(DataError, match="another vocabulary"):
        fresh(**settings, bins=33).load(tmp_path / "own.safetensors")


def test_every_wrong_setting_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    settings = {
        "languge": "x",
        "language": "hub:owner/name",
        "vision": "ViT-L-14-quikgelu",
        "every": 0,
        "bins": True,
        "trains": "lora",
        "trust_remote_code": "yes",
        "weights": 3,
    }
    reported = "\n".join(OpenFlamingoHf.problems(settings))
    for part in (
        "'languge', did you mean 'language'",
        "language: expected hub:OWNER/NAME@REVISION (a tag or commit), got 'hub:owner/name'",
        "unknown vision 'ViT-L-14-quikgelu', did you mean 'ViT-L-14-quickgelu'?",
        "every: expected an integer from 1 to 64, got 0",
        "bins: expected an integer from 2 to 10000, got True",
        "trains: lora needs the package peft; install detmodes[lora]",
        "trust_remote_code: expected true or false, got 'yes'",
        "weights: expected a path or hub:OWNER/NAME@REVISION, got 3",
    ):
        assert part in reported
    assert len(reported.splitlines()) == 8
    (toy,) = OpenFlamingoHf.problems({"language": "toy-gpt_nex"})
    assert "did you mean 'toy-gpt_neox'" in toy
    (size,) = OpenFlamingoHf.problems({"image_size": 224})
    assert size == "image_size: toy has an image size of its own; it is for timm:NAME"
    assert OpenFlamingoHf.problems({"vision": "timm:resnet10t", "image_size": 96}) == []
