"""Losses and gradients of the methods' published code (SED-SFT, GEM, DFT) and of the framework (CE, smoothing)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.types import TokenBatch
from tests.objectives.cases import chunks_of, outcome, projected

KEYS = (
    "ce",
    "label_smoothing_0.1",
    "sed_k2_tau0.7_lambda1.0",
    "sed_k2_tau0.95_lambda0.2",
    "sed_k10_tau0.9_lambda1.0",
    "sed_k5_tau0.8_lambda5.0",
    "sed_no_mask_lambda1.0",
    "dft",
    "gem_beta0.7_linear",
    "gem_beta0.7_logsigmoid",
    "gem_beta0.5_linear",
)
PATTERNS: dict[str, Callable[[re.Match[str]], tuple[str, dict[str, Any]]]] = {
    r"ce|dft": lambda match: (match[0], {}),
    r"label_smoothing_([\d.]+)": lambda match: ("label_smoothing", {"epsilon": float(match[1])}),
    r"gem_beta([\d.]+)_(linear|logsigmoid)": lambda match: ("gem", {"beta": float(match[1]), "h": match[2]}),
    r"sed_no_mask_lambda([\d.]+)": lambda match: ("sed_sft", {"mask": "none", "weight": float(match[1])}),
    r"sed_k(\d+)_tau([\d.]+)_lambda([\d.]+)": lambda match: (
        "sed_sft",
        {"top_k": int(match[1]), "threshold": float(match[2]), "weight": float(match[3])},
    ),
}


def objective_of(key: str) -> tuple[str, dict[str, Any]]:
    """Name and settings that a key of the goldens stands for."""
    ((pattern, named),) = [item for item in PATTERNS.items() if re.fullmatch(item[0], key)]
    match = re.fullmatch(pattern, key)
    assert match is not None
    return named(match)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("given_as", ["logits", "projection"])
@pytest.mark.parametrize("key", KEYS)
def test_published_code(
    shared: Callable[[str], Path], key: str, given_as: str, dtype: torch.dtype, tolerance: float
) -> None:
    cases = json.loads(shared("golden/objectives.json").read_text())["cases"]
    assert cases
    for case in cases:
        logits = torch.tensor(case["logits"], dtype=dtype)
        batch = TokenBatch(logits, torch.tensor(case["targets"]))
        with chunks_of(5, logits.shape[-1]):  # 12 positions: chunks of 5, 5 and 2
            output, gradients = outcome(*objective_of(key), batch if given_as == "logits" else projected(batch))
        expected = case["expected"][key]
        assert output.mean().dtype == gradients[0].dtype == dtype
        assert output.mean().item() == pytest.approx(expected["loss"], rel=0, abs=tolerance)
        torch.testing.assert_close(gradients[0], torch.tensor(expected["grad"], dtype=dtype), rtol=0, atol=tolerance)


def test_every_golden_is_used(shared: Callable[[str], Path]) -> None:
    for case in json.loads(shared("golden/objectives.json").read_text())["cases"]:
        assert case["expected"].keys() == set(KEYS)
