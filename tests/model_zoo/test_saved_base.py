"""What fine-tuning saved as the base of another model: whole, in parts, with low-rank changes, for other bins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import registry
from harness.errors import DataError
from harness.inference.padding import target_batch
from harness.protocols import Adapter, ContextLength
from harness.sequence.targets import target
from model_zoo.location_rows import location_curve
from tests.support import small

MODELS: dict[str, dict[str, Any]] = {
    "open_flamingo": {},
    "open_flamingo_hf": {"language": "toy-opt", "trains": "frozen_embeddings"},
    "pix2seq": {},
    "vlm": {"family": "idefics"},
}


def built(name: str, **settings: Any) -> Adapter:
    torch.manual_seed(1)
    made = registry.model(name, small.benchmark().categories, {**MODELS[name], **settings})
    assert isinstance(made, Adapter)
    made.model.eval()
    return made


def cell_of(folder: Path, adapter: Adapter, seed: int = 3) -> Path:
    """The folder of a cell that has trained the adapter: what trains is another number now."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    folder.mkdir()
    adapter.save(folder / "model.safetensors")
    (folder / "record.json").write_text(json.dumps({"model": adapter.describe()}))
    return folder


@torch.inference_mode()
def logits(adapter: Adapter) -> Tensor:
    examples = small.benchmark().split("val")[:2]
    batch = target_batch([target(e, adapter.codec, "canonical") for e in examples], adapter.codec)
    return adapter.logits(adapter.pixels(examples), batch.inputs)


@pytest.mark.parametrize("name", MODELS)
def test_a_cell_is_the_base_of_another_model(name: str, tmp_path: Path) -> None:
    trained = built(name)
    folder = cell_of(tmp_path / "warm-up", trained)
    torch.manual_seed(99)  # whatever is drawn at random is replaced
    again = built(name, weights=str(folder))
    assert torch.equal(logits(again), logits(trained))
    assert not torch.equal(logits(again), logits(built(name)))
    assert again.describe()["weights_digest"] != built(name).describe()["weights_digest"]


@pytest.mark.parametrize("name", ["open_flamingo", "open_flamingo_hf", "pix2seq"])
def test_the_weights_file_alone_will_do(name: str, tmp_path: Path) -> None:
    trained = built(name)
    folder = cell_of(tmp_path / "warm-up", trained)
    assert torch.equal(logits(built(name, weights=str(folder / "model.safetensors"))), logits(trained))


def _added_rows(adapter: Adapter) -> Tensor:
    """Of the input embedding."""
    rows = [p for name, p in adapter.model.named_parameters() if name.endswith("rows.added")]
    return rows[0].detach()


def test_locations_of_another_number_of_bins_lie_between_those_that_were_learnt(tmp_path: Path) -> None:
    trained = built("open_flamingo_hf", bins=5)
    folder = cell_of(tmp_path / "warm-up", trained)
    finer = built("open_flamingo_hf", bins=9, weights=str(folder))
    old, new = (_added_rows(adapter) for adapter in (trained, finer))
    torch.testing.assert_close(new[-9::2], old[-5:])
    torch.testing.assert_close(new[-8], (old[-5] + old[-4]) / 2)
    assert torch.equal(new[:-9], old[:-5])


def test_low_rank_changes_go_on_or_become_part_of_the_matrices(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    trained = built("open_flamingo_hf", trains="lora")
    folder = cell_of(tmp_path / "warm-up", trained)
    expected = logits(trained)
    assert torch.equal(logits(built("open_flamingo_hf", trains="lora", weights=str(folder))), expected)
    merged = built("open_flamingo_hf", trains="flamingo", weights=str(folder))
    assert not any("lora" in name for name, _ in merged.model.named_parameters())
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)
    assert (expected - logits(built("open_flamingo_hf"))).abs().max() > 1e-2


def test_whole_matrices_are_read_below_low_rank_changes(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    trained = built("open_flamingo_hf", trains="all")
    folder = cell_of(tmp_path / "warm-up", trained)
    lora = built("open_flamingo_hf", trains="lora", weights=str(folder))
    torch.testing.assert_close(logits(lora), logits(trained))  # changes begin at zero


def test_a_cell_of_a_cell_is_read_from_the_beginning(tmp_path: Path) -> None:
    first = cell_of(tmp_path / "first", built("open_flamingo_hf"))
    second_model = built("open_flamingo_hf", weights=str(first))
    second = cell_of(tmp_path / "second", second_model, seed=4)
    again = built("open_flamingo_hf", weights=str(second))
    assert torch.equal(logits(again), logits(second_model))
    digests = again.describe()["weights_digest"]
    assert isinstance(digests, dict)
    assert len(digests["weights"]) == 2


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    folder = cell_of(tmp_path / "warm-up", built("open_flamingo_hf", language="toy-mpt"))
    with pytest.raises(DataError, match=r"made for another tokenizer|does not fit the model: .*unexpected|missing"):
        built("open_flamingo_hf", language="toy-gpt_neox", weights=str(folder))
    (folder / "record.json").write_text("{}")
    with pytest.raises(DataError, match=r"record.json: expected the record of a cell"):
        built("open_flamingo_hf", language="toy-mpt", weights=str(folder))


def test_new_locations_lie_on_a_smooth_curve() -> None:
    rows = torch.randn(500, 64, generator=torch.Generator().manual_seed(0)) * 0.3 + 1.0
    curve = location_curve(rows, 1000)
    steps = (curve[1:] - curve[:-1]).norm(dim=1)
    spread = (rows - rows.mean(0)).norm(dim=1).mean()
    assert float(steps.max()) < 0.05 * float(spread)  # neighbours are alike
    assert float((curve[0] - curve[500]).norm()) > 0.5 * float(spread)  # and places far apart are not
    assert len(torch.unique(curve, dim=0)) == 1000
    # About as far from the mean as rows that were there.
    assert 0.5 * float(spread) < float((curve - rows.mean(0)).norm(dim=1).mean()) < 2 * float(spread)
    state = torch.get_rng_state()
    assert torch.equal(location_curve(rows, 1000), curve)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "settings", "length"),
    [
        ("open_flamingo", {}, 512),
        ("open_flamingo_hf", {"language": "toy-mpt"}, 512),
        ("open_flamingo_hf", {"language": "toy-opt"}, 512),
        ("pix2seq", {}, None),
    ],
)
def test_adapters_say_how_much_they_can_read(name: str, settings: dict[str, Any], length: int | None) -> None:
    adapter = built(name, **settings)
    assert isinstance(adapter, ContextLength)
    assert adapter.context_length == length
