"""Weights files: what is refused and how, and vocabularies that differ from the stored one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.errors import DataError
from model_zoo import checkpoint

STORED = ("<pad>", "<loc0>", "<loc1>", "cat", "dog")


class Toy(nn.Module):
    """One row per vocabulary entry, under the names that checkpoint.VOCABULARY knows; and one tensor more."""

    def __init__(self, entries: int, fresh: float) -> None:
        super().__init__()
        self.lang_encoder = nn.Module()
        self.lang_encoder.model = nn.Module()
        self.lang_encoder.model.embed_tokens = nn.Embedding(entries, 1)
        self.lang_encoder.lm_head = nn.Linear(1, entries, bias=False)
        self.body = nn.Linear(2, 2)
        for parameter in self.parameters():
            nn.init.constant_(parameter, fresh)


def stored_tensors() -> dict[str, torch.Tensor]:
    """Embedding rows 0, 10, 20, 1, 3; head rows ten times that."""
    rows = torch.tensor([[0.0], [10.0], [20.0], [1.0], [3.0]])
    tensors = {name: t.detach().clone() for name, t in checkpoint.named_tensors(Toy(5, 7.0)).items()}
    return {**tensors, checkpoint.VOCABULARY[0]: rows, checkpoint.VOCABULARY[1]: rows * 10}


def test_rows_follow_the_wanted_vocabulary() -> None:
    """Hand case. Three bins between the two stored ones: 10, (10 + 20) / 2 = 15, 20. `dog` is copied from where
    it was. `bird` is unseen: the mean of the stored names, (1 + 3) / 2 = 2, plus the fresh value 0.5."""
    model = Toy(6, 0.5)
    wanted = ("<pad>", "<loc0>", "<loc1>", "<loc2>", "dog", "bird")
    fitted = checkpoint.fit_vocabulary(model, stored_tensors(), STORED, wanted)
    assert fitted[checkpoint.VOCABULARY[0]].flatten().tolist() == [0, 10, 15, 20, 3, 2.5]
    assert fitted[checkpoint.VOCABULARY[1]].flatten().tolist() == [0, 100, 150, 200, 30, 20.5]
    checkpoint.load(model, fitted)
    assert model.body.weight.tolist() == [[7.0, 7.0], [7.0, 7.0]]  # everything else is copied


def test_unseen_names_start_alike_but_not_equal() -> None:
    torch.manual_seed(0)
    model = Toy(6, 0.0)
    nn.init.normal_(model.lang_encoder.model.embed_tokens.weight, std=0.01)  # type: ignore[union-attr, arg-type]
    wanted = ("<pad>", "<loc0>", "<loc1>", "cat", "bird", "fish")
    rows = checkpoint.fit_vocabulary(model, stored_tensors(), STORED, wanted)[checkpoint.VOCABULARY[0]].flatten()
    assert rows[:4].tolist() == [0, 10, 20, 1]
    assert rows[4] != rows[5]
    torch.testing.assert_close(rows[4:], torch.tensor([2.0, 2.0]), atol=0.1, rtol=0)


def test_the_same_vocabulary_is_left_as_it_is() -> None:
    tensors = stored_tensors()
    assert checkpoint.fit_vocabulary(Toy(5, 0.0), tensors, STORED, STORED) == tensors


def test_round_trip_with_entries(tmp_path: Path) -> None:
    model = Toy(5, 2.0)
    digest = checkpoint.save(model, STORED, tmp_path / "model.safetensors")
    tensors, entries = checkpoint.read(tmp_path / "model.safetensors")
    assert entries == STORED
    assert digest == checkpoint.sha256(tmp_path / "model.safetensors")
    assert tensors.keys() == checkpoint.named_tensors(model).keys()
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]  # nothing partial is left


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(Toy(5, 2.0), STORED, path)
    content = path.read_bytes()
    for size in (0, 4, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"model\.safetensors: expected safetensors written by detmodes"):
            checkpoint.read(path)


def test_a_file_without_vocabulary_or_none_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(DataError, match="no such weights file"):
        checkpoint.read(path)
    save_file({"body": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="expected safetensors written by detmodes"):
        checkpoint.read(path)


def test_shipped_weights_without_digests_are_refused(tmp_path: Path) -> None:
    checkpoint.save(Toy(5, 2.0), STORED, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"digests\.json"):
        checkpoint.read_shipped(tmp_path / "model.safetensors")
    (tmp_path / checkpoint.DIGESTS).write_text("{")
    with pytest.raises(DataError, match=r"digests\.json"):
        checkpoint.read_shipped(tmp_path / "model.safetensors")


def test_weights_that_do_not_fit_name_every_tensor() -> None:
    tensors = stored_tensors()
    tensors["body.weight"] = torch.zeros(3, 2)
    tensors["tail"] = tensors.pop("body.bias")
    with pytest.raises(DataError) as error:
        checkpoint.load(Toy(5, 0.0), tensors)
    text = str(error.value)
    assert "body.bias missing" in text
    assert "tail unexpected" in text
    assert "body.weight: expected (2, 2), got (3, 2)" in text


def test_an_aliased_tensor_is_listed_under_its_first_name() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    assert list(checkpoint.named_tensors(model)) == ["a.weight", "a.bias", "b.bias"]
