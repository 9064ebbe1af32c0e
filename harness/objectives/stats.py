"""What is logged of a loss: sums and counts over target positions, without gradient.

N positions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.objectives.token import entropy

Stat = tuple[Tensor, Tensor]
"""A sum and the count that makes it a mean."""


@torch.no_grad()
def stats_of(nll: Tensor, log_p: Tensor | None, target: Tensor, selected: Tensor | None) -> dict[str, Stat]:
    """Sums up nll (nats), p_y and entropy (nats) over target positions, the selected share, and p_y on either side."""
    p_y = (-nll).exp()
    stats = {"nll": _over(nll, target), "p_y": _over(p_y, target)}
    if log_p is not None:
        stats["entropy"] = _over(entropy(log_p), target)
    if selected is not None:
        stats["selected"] = _over(selected.to(p_y.dtype), target)
        stats["p_y_selected"] = _over(p_y, target & selected)
        stats["p_y_unselected"] = _over(p_y, target & ~selected)
    return stats


def _over(values: Tensor, where: Tensor) -> Stat:
    """Sums values [N] over the positions `where` [N], and counts these."""
    return torch.where(where, values, 0.0).sum(), where.sum()


@torch.no_grad()
def sums_by_kind(values: Tensor, kinds: Tensor, n_kinds: int) -> tuple[Tensor, Tensor]:
    """Adds up and counts [n_kinds] the values [N] of each kind in 0..n_kinds-1; a negative kind is left out.

    A kind that does not occur has sum and count 0: its mean is undefined.
    """
    counted = kinds >= 0
    dtype = torch.promote_types(values.dtype, torch.float32)
    sums = torch.zeros(n_kinds, dtype=dtype, device=values.device)
    counts = torch.zeros(n_kinds, dtype=torch.int64, device=values.device)
    sums.index_add_(0, kinds[counted], values[counted].to(dtype))
    counts.index_add_(0, kinds[counted], torch.ones_like(kinds[counted], dtype=torch.int64))
    return sums, counts
