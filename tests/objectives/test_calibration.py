"""The top-k mass and the threshold made from it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from harness.errors import ObjectiveError
from harness.objectives import ready
from harness.objectives.calibration import top_k_mass
from tests.objectives.cases import selection


@given(seed=st.integers(0, 2**31), top_k=st.integers(1, 7), scale=st.floats(0.0, 30.0))
@hypothesis_settings(max_examples=40)
def test_mass_is_the_sum_of_the_largest_probabilities(seed: int, top_k: int, scale: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(5, 7, generator=rng, dtype=torch.float64)
    expected = [
        sum(sorted((math.exp(z - max(row)) for z in row), reverse=True)[:top_k])
        / sum(math.exp(z - max(row)) for z in row)
        for row in logits.tolist()
    ]
    assert top_k_mass(logits, top_k).tolist() == pytest.approx(expected, abs=1e-12)


def test_mass_is_a_probability_whatever_the_logits() -> None:
    logits = torch.cat([1e4 * torch.randn(50, 11), torch.zeros(1, 11), torch.randn(50, 11)])
    for top_k in range(1, 12):
        masses = top_k_mass(logits, top_k)
        assert ((masses > 0) & (masses <= 1)).all()


def test_mass_by_hand_in_float32_without_gradient() -> None:
    # p = (1/2, 1/4, 1/8, 1/8) in another order
    logits = torch.tensor([[1.0, 2.0, 4.0, 1.0]]).log().requires_grad_()
    masses = [top_k_mass(logits, top_k) for top_k in (1, 2, 3, 4)]
    assert [mass.item() for mass in masses] == pytest.approx([0.5, 0.75, 0.875, 1.0], abs=1e-6)
    assert not any(mass.requires_grad for mass in masses)
    assert {mass.dtype for mass in masses} == {torch.float32}
    assert top_k_mass(logits.bfloat16(), 1).dtype == torch.float32


def test_top_k_beyond_the_vocabulary_raises() -> None:
    with pytest.raises(ObjectiveError, match="top_k is 5, but the vocabulary has 4 tokens"):
        top_k_mass(torch.zeros(2, 4), 5)


@given(seed=st.integers(0, 2**31), rank=st.integers(1, 9))
@hypothesis_settings(max_examples=20)
def test_a_calibrated_threshold_selects_that_share_of_the_base_model(seed: int, rank: int) -> None:
    # 11 positions: quantile (rank + 1/2) / 10 lies midway between the masses number rank + 1 and rank + 2.
    logits = 2 * torch.randn(11, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    settings = {"top_k": 2, "quantile": rank / 10 + 0.05}
    resolved = ready("sed_sft", settings).calibrated(top_k_mass(logits, 2)).settings
    assert int(selection(logits, resolved).sum()) == rank + 1


@pytest.mark.parametrize("masses", [torch.tensor([]), torch.tensor([[0.5, 0.6]]), torch.tensor([0.5, math.nan])])
def test_calibration_without_masses_raises(masses: torch.Tensor) -> None:
    with pytest.raises(ObjectiveError, match="1-d tensor of finite top-k masses"):
        ready("sed_sft", {"top_k": 2, "quantile": 0.5}).calibrated(masses)
