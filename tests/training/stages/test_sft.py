"""Continued fine-tuning after fine-tuning, and the divergence that holds it to what the model was."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import small
from tests.support.chains import SFT, chain_of, train_chain, weights


@cache
def outcome(objective: str, **settings: Any) -> tuple[list[dict[str, Any]], Tensor]:
    """The curve of the stage, long enough for the divergence to pull back, and all weights afterwards."""
    adapter = small.fitted()
    curve = train_chain(adapter, chain_of({**SFT, "steps": 8, "objective": {"name": objective, **settings}}))
    return curve[2:], weights(adapter)


def test_the_divergence_begins_at_0_and_is_logged_apart() -> None:
    """In its first step the model is the reference: the loss is that of cross-entropy."""
    tied, free = outcome("ce_kl", weight=50.0)[0], outcome("ce")[0]
    assert tied[0]["loss"] == pytest.approx(free[0]["loss"], rel=1e-5)
    assert tied[-1]["loss"] > tied[-1]["nll"]  # the divergence is not 0 any more
    assert free[-1]["loss"] == pytest.approx(free[-1]["nll"])


def divergence(weight: float) -> float:
    """Of the last step's batch, before its update."""
    last = outcome("ce_kl", weight=weight)[0][-1]
    return float(last["loss"] - last["nll"]) / weight


def test_a_divergence_holds_the_model_back() -> None:
    assert 0 < divergence(50.0) < 0.9 * divergence(0.1)


def test_without_a_weight_it_is_cross_entropy_to_the_last_bit() -> None:
    assert torch.equal(outcome("ce_kl", weight=0.0)[1], outcome("ce")[1])
