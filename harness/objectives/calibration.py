"""The top-k probability mass: SED-SFT masks with it, and calibrates its threshold on it (one place for both).

N target positions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.errors import ObjectiveError


def log_probs(logits: Tensor) -> Tensor:
    """Computes log softmax [N, V] in nats of finite logits [N, V]; in float32 at least (float64 stays float64)."""
    # The dtype argument fuses the cast: bf16 logits on a GPU get no float32 copy beside the result.
    return torch.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


@torch.no_grad()
def top_k_mass(logits: Tensor, top_k: int) -> Tensor:
    """Sums the `top_k` largest softmax probabilities of logits [N, V] into masses [N] in (0, 1], without gradient."""
    return mass_of(log_probs(logits), top_k)


@torch.no_grad()
def mass_of(log_p: Tensor, top_k: int) -> Tensor:
    """Computes `top_k_mass` of log-probabilities [N, V] that are at hand: the same value to the last bit."""
    vocabulary = log_p.shape[-1]
    if top_k > vocabulary:
        raise ObjectiveError(f"top_k is {top_k}, but the vocabulary has {vocabulary} tokens: use a smaller top_k")
    largest = log_p.topk(top_k, dim=-1, sorted=False).values  # [N, top_k]
    return largest.exp().sum(dim=-1).clamp(max=1.0)  # rounding can reach 1 + 1e-7, which is no probability


def threshold_at(masses: Tensor, quantile: float) -> float:
    """Interpolates the `quantile` of the top-k masses [N] of all positions linearly.

    Undefined (ObjectiveError) without positions or where a mass is not a number.
    """
    if masses.ndim != 1 or masses.numel() == 0 or not bool(masses.isfinite().all()):
        raise ObjectiveError(
            "calibration needs a 1-d tensor of finite top-k masses, one per target position; "
            f"got shape {tuple(masses.shape)}, {int(masses.isfinite().sum())} of them finite"
        )
    return float(torch.quantile(masses, quantile, interpolation="linear"))
