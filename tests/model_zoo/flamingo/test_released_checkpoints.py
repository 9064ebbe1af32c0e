"""Released checkpoints of OpenFlamingo: names, shapes, what does not fit, and nothing of them is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.errors import DataError
from model_zoo import checkpoint
from model_zoo.flamingo import language
from model_zoo.flamingo.architectures import FAMILIES
from model_zoo.location_rows import location_curve
from tests.model_zoo.flamingo.toys import NAMES, fresh, logits_of

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
