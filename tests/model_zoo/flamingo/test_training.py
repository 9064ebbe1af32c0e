"""What trains of OpenFlamingo over tokenizers: rows of new tokens, what moves, what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from harness.errors import DataError
from harness.suite.train_settings import Train
from harness.training.objective import prepare
from model_zoo import checkpoint
from model_zoo.flamingo import vision as flamingo_vision
from model_zoo.flamingo.architectures import FAMILIES
from model_zoo.flamingo.new_embeddings import GrownEmbedding, GrownHead, Rows
from tests.model_zoo.flamingo.toys import folder_of, fresh, logits_of
from tests.support import small

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
