"""Small trainings: the shipped configurations that launch them, their curves, and that two are the same to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness.suite.train_settings import Train
from harness.training.objective import prepare
from tests.support import small

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "harness" / "launch_configs"


def curve_of(**plan: Any) -> dict[str, Any]:
    """Two steps of the small model."""
    adapter, full = small.fitted(), Train.model_validate({"steps": 2, "batch_size": 2, "log_every": 1, **plan})
    ready = prepare("ce", {}, small.fitted(), [], full, 0)
    curve = small.fine_tune(adapter, ready, full, small.train_examples(4))
    return {"curve": [row["loss"] for row in curve], "weights": dict(adapter.model.named_parameters())}


def assert_same_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["curve"] == other["curve"]
    assert all(torch.equal(tensor, other["weights"][name]) for name, tensor in one["weights"].items())
