"""Losses and gradients of the methods' published code, and a case that is derived by hand."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.objectives import build
from harness.types import TokenBatch

KEYS = (
    "ce",
    "sed_k2_tau0.7_lambda1.0",
    "sed_k2_tau0.95_lambda0.2",
    "sed_k10_tau0.9_lambda1.0",
    "sed_k5_tau0.8_lambda5.0",
    "sed_no_mask_lambda1.0",
)


def objective_of(key: str) -> tuple[str, dict[str, Any]]:
    if key == "ce":
        return "ce", {}
    weight = float(key.rpartition("lambda")[2])
    if key.startswith("sed_no_mask"):
        return "sed_sft", {"mask": "none", "weight": weight}
    found = re.fullmatch(r"sed_k(\d+)_tau([\d.]+)_lambda[\d.]+", key)
    assert found is not None
    return "sed_sft", {"top_k": int(found[1]), "threshold": float(found[2]), "weight": weight}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("key", KEYS)
def test_published_code(shared: Callable[[str], Path], key: str, dtype: torch.dtype, tolerance: float) -> None:
    cases = json.loads(shared("golden/objectives.json").read_text())["cases"]
    assert cases
    name, settings = objective_of(key)
    for case in cases:
        logits = torch.tensor(case["logits"], dtype=dtype, requires_grad=True)
        loss = build(name, **settings)(TokenBatch(logits, torch.tensor(case["targets"]))).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        expected = case["expected"][key]
        assert loss.dtype == dtype
        assert loss.item() == pytest.approx(expected["loss"], rel=0, abs=tolerance)
        gradient = torch.tensor(expected["grad"], dtype=dtype)
        torch.testing.assert_close(logits.grad, gradient, rtol=0, atol=tolerance)


def test_every_golden_of_these_objectives_is_used(shared: Callable[[str], Path]) -> None:
    for case in json.loads(shared("golden/objectives.json").read_text())["cases"]:
        assert {key for key in case["expected"] if key == "ce" or key.startswith("sed_")} == set(KEYS)


@pytest.mark.parametrize(
    ("label", "threshold", "loss", "gradient"),
    [
        # logits (ln 3, 0): p = (3/4, 1/4); weight 2.
        # top_k 1: mass 3/4, below 0.8 (m = 1), not below 0.7 (m = 0).
        # Label 0: ce = ln 4/3; penalty 3/4 * (-1/4) + 1/4 = 1/16, times 2 = 1/8.
        # d ce / d z_0 = 3/4 - 1 = -1/4; scale 1 - 2*2*(3/4)*(3/4 - 1/2) = 1/4: -1/16, and +1/16 for z_1.
        (0, 0.8, math.log(4 / 3) + 1 / 8, (-1 / 16, 1 / 16)),
        # Label 1: ce = ln 4; penalty 1/4 * (-3/4) + 1/4 = 1/16.
        # d ce / d z_0 = 3/4; scale 1 - 2*2*(1/4)*(1/4 - 1/2) = 5/4.
        (1, 0.8, math.log(4) + 1 / 8, (15 / 16, -15 / 16)),
        (0, 0.7, math.log(4 / 3), (-1 / 4, 1 / 4)),
    ],
)
def test_two_classes_by_hand(label: int, threshold: float, loss: float, gradient: tuple[float, float]) -> None:
    logits = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64, requires_grad=True)
    objective = build("sed_sft", top_k=1, threshold=threshold, weight=2.0)
    mean = objective(TokenBatch(logits, torch.tensor([label]))).mean()
    mean.backward()  # type: ignore[no-untyped-call]
    assert mean.item() == pytest.approx(loss, abs=1e-12)
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx(gradient, abs=1e-12)
