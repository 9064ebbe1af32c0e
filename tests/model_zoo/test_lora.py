"""Low-rank changes are those that a suite asks for, and count as much wherever they are read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from harness.errors import ConfigError, DataError
from harness.sequence.targets import target
from model_zoo import checkpoint
from model_zoo.flamingo.published import OpenFlamingoHf
from model_zoo.lora import scale_of
from model_zoo.settings import lora, open_flamingo_hf, vlm
from model_zoo.vlm.adapter import Vlm
from tests.support import small

pytest.importorskip("peft")
TOY: dict[str, Any] = {"language": "toy-llama", "vision": "toy", "bins": 5, "trains": "lora"}


def built(**settings: Any) -> OpenFlamingoHf:
    """A toy with the same weights each time, changes that are not zero where it has some."""
    torch.manual_seed(0)
    adapter = OpenFlamingoHf(small.benchmark().categories, {**TOY, **settings})
    adapter.model.eval()
    return adapter


def changed(adapter: OpenFlamingoHf) -> OpenFlamingoHf:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapter.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return adapter


def logits(adapter: OpenFlamingoHf) -> Tensor:
    (example,) = small.train_examples(1)
    tokens = torch.tensor([[*adapter.codec.prompt(example), *target(example, adapter.codec, "canonical")]])
    with torch.no_grad():
        return adapter.logits(adapter.pixels([example]), tokens)


def low_rank(adapter: OpenFlamingoHf | Vlm) -> dict[str, tuple[int, ...]]:
    model: nn.Module = adapter.model
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters() if "lora_" in name}


def cell_of(folder: Path, adapter: OpenFlamingoHf) -> str:
    folder.mkdir()
    adapter.save(folder / "model.safetensors")
    (folder / "record.json").write_text(json.dumps({"model": adapter.describe()}))
    return str(folder)


def test_rank_alpha_and_targets_are_used() -> None:
    usual = low_rank(built())
    assert {shape[0] for name, shape in usual.items() if "lora_A" in name} == {16}
    assert scale_of(built().model) == 2.0
    small_one = built(lora={"rank": 2, "alpha": 3})
    assert low_rank(small_one).keys() == usual.keys()
    assert {shape[0] for name, shape in low_rank(small_one).items() if "lora_A" in name} == {2}
    assert scale_of(small_one.model) == 1.5
    some = low_rank(built(lora={"targets": ["q_proj"]}))
    assert some.keys() == {name for name in usual if ".q_proj." in name}
    wide = low_rank(built(lora={"targets": ["down_proj"]}))
    assert wide
    assert all(".down_proj." in name for name in wide)


def test_alpha_changes_what_the_model_says() -> None:
    outputs = [logits(changed(built(lora={"rank": 2, "alpha": alpha}))) for alpha in (4, 8)]
    assert torch.equal(outputs[0], logits(changed(built(lora={"rank": 2}))))  # twice the rank
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)


def test_vlm_has_them_too_and_never_in_the_image_encoder() -> None:
    torch.manual_seed(0)
    adapter = Vlm(small.benchmark().categories, {"trains": "lora", "lora": {"rank": 3, "targets": ["q_proj"]}})
    shapes = low_rank(adapter)
    assert shapes
    assert all(".q_proj." in name and not name.startswith(adapter.family.vision) for name in shapes)
    assert {shape[0] for name, shape in shapes.items() if "lora_A" in name} == {3}


@pytest.mark.parametrize("settings", [{"rank": 2, "alpha": 3}, {"rank": 4}])
def test_saved_changes_go_on_or_become_part_of_the_matrices(settings: dict[str, Any], tmp_path: Path) -> None:
    trained = changed(built(lora=settings))
    folder, expected = cell_of(tmp_path / "cell", trained), logits(trained)
    assert torch.equal(logits(built(lora=settings, weights=folder)), expected)
    merged = logits(built(trains="flamingo", weights=folder))
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(merged, logits(built(trains="flamingo")), atol=1e-3)


def test_changes_of_another_factor_are_refused(tmp_path: Path) -> None:
    folder = cell_of(tmp_path / "cell", changed(built(lora={"rank": 2, "alpha": 3})))
    with pytest.raises(DataError, match=r"expected low-rank changes times 2\.0 \(alpha / rank\), got 1\.5"):
        built(lora={"rank": 2}, weights=folder)


def test_a_file_of_the_usual_factor_says_nothing_of_it(tmp_path: Path) -> None:
    """As files of earlier code."""
    for name, settings in (("usual", {}), ("other", {"lora": {"rank": 2, "alpha": 3}})):
        checkpoint.save(built(**settings).model, ["x"], tmp_path / name)
        with safe_open(tmp_path / name, framework="pt") as file:
            assert file.metadata().get("lora_scale") == {"usual": None, "other": "1.5"}[name]


def test_what_is_not_given_is_not_described() -> None:
    """So that cells stay the same."""
    assert "lora" not in built().describe()
    assert built(lora={"rank": 2}).describe()["lora"] == {"rank": 2}


def test_a_target_that_names_nothing_is_told() -> None:
    with pytest.raises(ConfigError, match=r"open_flamingo_hf\.lora\.targets: 'qproj' names no linear map; there are"):
        built(lora={"targets": ["q_proj", "qproj"]})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"lora": {"rnak": 2}}, "lora: unknown setting 'rnak', did you mean 'rank'"),
        ({"lora": {"rank": 0}}, "lora.rank: expected an integer of at least 1, got 0"),
        ({"lora": {"targets": "q_proj"}}, "lora.targets: expected a list of names of modules, got 'q_proj'"),
        ({"lora": 16}, "lora: expected keys among rank, alpha, targets, got 16"),
        ({"lora": {"rank": 2}, "trains": "all"}, "lora: expected with trains: lora, and only there"),
    ],
)
def test_mistakes(given: dict[str, Any], expected: str) -> None:
    for owner, checks in (("vlm", vlm), ("open_flamingo_hf", open_flamingo_hf)):
        toy = {"language": "toy-llama"} if owner != "vlm" else {}
        (problem,) = checks.problems({"trains": "lora", **toy, **given})
        assert problem.startswith(f"{owner}.{expected}")
    assert lora.problems("vlm", {}) == []
