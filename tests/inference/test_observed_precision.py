"""What a record says of precision is what forward passes compute in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from harness.inference.observed_precision import PrecisionObserver

CPU = torch.device("cpu")


def observed() -> tuple[PrecisionObserver, nn.Sequential]:
    observer, model = PrecisionObserver(), nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    observer.watch(model, CPU)
    return observer, model


def test_training_and_generation_are_told_apart() -> None:
    observer, model = observed()
    assert observer.observed == {}
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(torch.ones(1, 2))
    assert observer.observed == {"training": "bf16 autocast"}
    model.eval()(torch.ones(1, 2))
    assert observer.observed == {"training": "bf16 autocast", "generation": "float32"}


def test_passes_that_differ_are_both_named() -> None:
    observer, model = observed()
    for enabled in (True, False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            model.eval()(torch.ones(1, 2))
    assert observer.observed == {"generation": "bf16 autocast; float32"}


def test_weights_of_another_type_are_named() -> None:
    """Of the first map that trains: frozen ones may be held in fewer bits."""
    observer = PrecisionObserver()
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).bfloat16()
    observer.watch(model, CPU)
    model.eval()(torch.ones(1, 2, dtype=torch.bfloat16))
    assert observer.observed == {"generation": "float32, weights bfloat16"}
    frozen = nn.Sequential(nn.Linear(2, 2).bfloat16().requires_grad_(False), nn.Linear(2, 2))
    observer = PrecisionObserver()
    observer.watch(frozen, CPU)
    frozen[1](torch.ones(1, 2))
    assert observer.observed == {"training": "float32"}


def test_what_an_earlier_process_saw_is_kept(tmp_path: Path) -> None:
    earlier = PrecisionObserver(tmp_path / "precision.json")
    earlier.add("training", "bf16 autocast")
    observer, model = PrecisionObserver(tmp_path / "precision.json"), nn.Linear(2, 2)
    observer.watch(model, CPU)
    model.eval()(torch.ones(1, 2))
    expected = {"training": "bf16 autocast", "generation": "float32"}
    assert observer.observed == PrecisionObserver(tmp_path / "precision.json").observed == expected


def test_a_map_that_is_never_called_is_not_waited_for() -> None:
    """torch's attention has one: it uses the weights without calling the module."""
    observer = PrecisionObserver()
    model = nn.MultiheadAttention(4, 1)
    assert any(isinstance(module, nn.Linear) for module in model.modules())
    whole = nn.ModuleDict({"attention": model, "head": nn.Linear(4, 2)})
    observer.watch(whole, CPU)
    attended, _ = model(*[torch.ones(1, 1, 4)] * 3)
    whole["head"](attended)
    assert observer.observed == {"training": "float32"}
