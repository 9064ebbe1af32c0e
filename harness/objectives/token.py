"""Objectives that are sums over target positions.

Each is a pure function `(batch, **settings) -> LossOutput`. p = softmax(logits), p_y the probability of the
label, N target positions, V vocabulary. Positions whose label is IGNORED_LABEL add to no sum and no count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import ObjectiveError
from harness.objectives.calibration import log_probs, mass_of
from harness.types import IGNORED_LABEL, LossOutput, Term, TokenBatch

Mask = Literal["live", "none", "base"]
Stat = tuple[Tensor, Tensor]


def ce(batch: TokenBatch) -> LossOutput:
    """Cross-entropy: -log p_y, in nats, per target position. Without any, sum and count are 0."""
    log_p, nll, target = _score(batch)
    terms = {"ce": Term(nll.sum(), target.sum())}
    return LossOutput(terms, _stats(log_p, nll, target))


def sed_sft(
    batch: TokenBatch,
    *,
    mask: Mask,
    weight: float,
    top_k: int | None = None,
    threshold: float | None = None,
    quantile: float | None = None,
) -> LossOutput:
    """SED-SFT: -log p_y + weight * m * (p_y*(p_y - 1) + 1/4), in nats, per target position.

    m (see `select`) carries no gradient, p_y does: the gradient is that of cross-entropy times
    1 - 2*weight*m*p_y*(p_y - 1/2). Both terms are counted in target positions, selected or not.
    """
    log_p, nll, target = _score(batch)
    selected = select(log_p, batch.selected, mask=mask, top_k=top_k, threshold=threshold, quantile=quantile)
    p_y = (-nll).exp()
    # p_y*(p_y - 1) + 1/4 = (p_y - 1/2)^2, which loses nothing to cancellation near p_y = 1/2
    penalty = torch.where(selected & target, (p_y - 0.5).square(), 0.0)
    terms = {
        "ce": Term(nll.sum(), target.sum()),
        "penalty": Term(penalty.sum(), target.sum(), weight),
    }
    return LossOutput(terms, _stats(log_p, nll, target) | _selection_stats(p_y.detach(), selected, target))


@torch.no_grad()
def select(
    log_p: Tensor,
    selected: Tensor | None,
    *,
    mask: Mask,
    top_k: int | None = None,
    threshold: float | None = None,
    quantile: float | None = None,
) -> Tensor:
    """SED-SFT's m as bool [N], for log-probabilities [N, V]; means nothing at ignored positions.

    live: the `top_k` largest probabilities sum to strictly less than `threshold`; none: everywhere;
    base: `selected` [N], made from the base model. Undefined (ObjectiveError) before a quantile is resolved.
    """
    if mask == "none":
        return torch.ones(log_p.shape[:1], dtype=torch.bool, device=log_p.device)
    if top_k is None or threshold is None:
        raise ObjectiveError(
            f"sed_sft has no threshold yet (top_k {top_k}, quantile {quantile}): "
            "call harness.objectives.resolve with the base model's top-k masses before training"
        )
    if mask == "base":
        return _reference_mask(selected, log_p.shape[:1])
    return mass_of(log_p, top_k) < threshold


def sed_sft_problems(settings: Mapping[str, Any]) -> list[str]:
    """What is wrong between the settings (defaults included): the mask decides which ones have an effect."""
    mask = settings["mask"]
    given = [name for name in ("top_k", "threshold", "quantile") if name in settings]
    if mask == "none":
        return [f"{name} has no effect with mask 'none': remove it" for name in given]
    found = []
    if "threshold" in given and "quantile" in given:
        found.append("give either threshold or quantile, not both")
    if mask not in get_args(Mask):  # a problem of its own: what is required depends on what was meant
        return found
    if "top_k" not in given:
        found.append(f"mask {mask!r} requires top_k")
    if "threshold" not in given and "quantile" not in given:
        found.append(f"mask {mask!r} requires threshold or quantile")
    return found


def sed_sft_needs(settings: Mapping[str, Any]) -> frozenset[str]:
    """ "reference": TokenBatch.selected from the base model; "calibration": `resolve` before training."""
    reference = {"reference"} if settings.get("mask") == "base" else set()
    calibration = {"calibration"} if "quantile" in settings else set()
    return frozenset(reference | calibration)


@torch.no_grad()
def by_kind(values: Tensor, kinds: Tensor, n_kinds: int) -> Stat:
    """Sums and counts [n_kinds] of values [N] by kinds [N] in 0..n_kinds-1; a negative kind is left out.

    A kind that does not occur has sum and count 0: its mean is undefined.
    """
    kept = kinds >= 0
    dtype = torch.promote_types(values.dtype, torch.float32)
    sums = torch.zeros(n_kinds, dtype=dtype, device=values.device)
    counts = torch.zeros(n_kinds, dtype=torch.int64, device=values.device)
    sums.index_add_(0, kinds[kept], values[kept].to(dtype))
    counts.index_add_(0, kinds[kept], torch.ones_like(kinds[kept], dtype=torch.int64))
    return sums, counts


def _score(batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
    """log p [N, V], -log p_y [N] (0 where ignored), and which positions are targets, bool [N]."""
    log_p = log_probs(batch.logits)
    nll = F.nll_loss(log_p, batch.labels, ignore_index=IGNORED_LABEL, reduction="none")
    return log_p, nll, batch.labels != IGNORED_LABEL


def _reference_mask(selected: Tensor | None, shape: torch.Size) -> Tensor:
    if selected is None:
        raise ObjectiveError(
            "sed_sft with mask 'base' needs TokenBatch.selected, the base model's selection, and got none"
        )
    if selected.shape != shape or selected.dtype != torch.bool:
        raise ObjectiveError(
            f"TokenBatch.selected must be bool {list(shape)}, one per target position; "
            f"got {selected.dtype} {list(selected.shape)}"
        )
    return selected


@torch.no_grad()
def _stats(log_p: Tensor, nll: Tensor, target: Tensor) -> dict[str, Stat]:
    """p_y and entropy (nats) over target positions."""
    entropy = -log_p.exp().mul_(log_p).sum(dim=-1)  # [N]; in place: one [N, V] buffer, less than backward takes
    return {"p_y": _over((-nll).exp(), target), "entropy": _over(entropy, target)}


def _selection_stats(p_y: Tensor, selected: Tensor, target: Tensor) -> dict[str, Stat]:
    """Selected share of the target positions, and p_y on either side of the mask."""
    return {
        "selected": _over(selected.to(p_y.dtype), target),
        "p_y_selected": _over(p_y, target & selected),
        "p_y_unselected": _over(p_y, target & ~selected),
    }


def _over(values: Tensor, where: Tensor) -> Stat:
    """Sum of values [N] over the positions `where` [N], and how many those are."""
    return torch.where(where, values, 0.0).sum(), where.sum()
