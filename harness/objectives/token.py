"""Objectives that are sums over target positions.

Each is a pure function `(at, **settings) -> PerToken`: what every one of N positions contributes, in nats. How
the positions were scored (logits at hand, or chunk by chunk from hidden states), which of them are targets, and
the sums are the business of harness.objectives.apply.

Shape legend: N positions, V vocabulary. p = softmax(logits), p_y the probability of the label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness.errors import ObjectiveError
from harness.objectives.calibration import log_probs, mass_of

Mask = Literal["live", "none", "base"]
Scaling = Literal["linear", "logsigmoid"]


@dataclass(frozen=True)
class ScoredPositions:
    """The positions that a token-level objective sees, as the model scored them.

    log_p     [N, V]  log softmax of the logits, float32 or float64, with gradient. (An objective that needs
                      logits takes these: the two differ by a constant per position.)
    labels    [N]     int64 in [0, V)
    selected  [N]     bool or None: see TokenBatch
    reference [N, V]  log softmax of the reference's logits, or None
    places            gives how many targets of its sequence stand before each position, and how many it has ([N]
                      int64 each); None where no sequences are known
    """

    log_p: Tensor
    labels: Tensor
    selected: Tensor | None = None
    reference: Tensor | None = None
    places: Callable[[], tuple[Tensor, Tensor]] | None = None

    @cached_property
    def nll(self) -> Tensor:
        """-log p_y [N], with gradient."""
        with torch.enable_grad():  # kept for all, so also where a stop-gradient factor is the first to ask
            return -self.log_p.gather(-1, self.labels[:, None])[:, 0]


@dataclass(frozen=True, slots=True)
class PerToken:
    """What every position contributes to the loss. terms: name -> [N], weighted by `weights` (1 where not named).

    selected [N] bool or None: where a selective penalty acts.
    """

    terms: Mapping[str, Tensor]
    weights: Mapping[str, float] = field(default_factory=dict)
    selected: Tensor | None = None


def ce(at: ScoredPositions) -> PerToken:
    """Cross-entropy: -log p_y."""
    return PerToken({"ce": at.nll})


def ce_kl(at: ScoredPositions, *, weight: float) -> PerToken:
    """-log p_y + weight * KL(p || q), q being the reference's: sum over v of p_v * (log p_v - log q_v).

    As a stage after fine-tuning (`then: {name: sft, objective: ce_kl}`) it is the continued SFT with a divergence of
    Zhu et al., CVPR 2025, table 7 (arXiv 2411.14797): nSFT without its negative supervision, the model at the left as
    there. Without a weight there is no such term, and no reference is needed. ObjectiveError where one is missing.
    """
    if not weight:
        return ce(at)
    if at.reference is None:
        raise ObjectiveError("a divergence from a reference needs TokenBatch.reference, and got none")
    divergence = (at.log_p.exp() * (at.log_p - at.reference)).sum(-1)
    return PerToken({"ce": at.nll, "kl": divergence}, {"kl": weight})


def mixture(at: ScoredPositions) -> PerToken:
    """-log p_y, the prompt of a sequence being that of the expert z* which it is likeliest under: the M-step of hMup.

        z* = argmax over z of log P(sequence | image, z), by the model in eval mode, without gradient

    Which expert that is, is chosen before the model is asked (harness.training.step.with_experts), so that only the
    chosen one gets a gradient. Shen et al., ICML 2019; arXiv 1902.07816
    """
    return ce(at)


def label_smoothing(at: ScoredPositions, *, epsilon: float) -> PerToken:
    """Cross-entropy against (1 - epsilon) one-hot + epsilon/V:

    (1 - epsilon) * (-log p_y) + epsilon * mean over v of (-log p_v). Szegedy et al., CVPR 2016; arXiv 1512.00567
    """
    return PerToken({"ce": at.nll, "uniform": -at.log_p.mean(-1)}, {"ce": 1 - epsilon, "uniform": epsilon})


def focal(at: ScoredPositions, *, gamma: float) -> PerToken:
    """-(1 - p_y)^gamma * log p_y, differentiated through both factors. Lin et al., ICCV 2017; arXiv 1708.02002"""
    # The clamp keeps the derivative of the power finite where p_y rounds to 1 (its limit there is 0).
    rest = -torch.expm1(-at.nll)
    return PerToken({"focal": rest.clamp(min=torch.finfo(rest.dtype).tiny) ** gamma * at.nll})


def dft(at: ScoredPositions) -> PerToken:
    """-p_y * log p_y, the factor p_y carrying no gradient. Wu et al., ICLR 2026; arXiv 2508.05629"""
    return PerToken({"dft": (-at.nll.detach()).exp() * at.nll})


def eaft(at: ScoredPositions, *, alpha: float, top_k: int, z: float | None = None) -> PerToken:
    """-log p_y * (H / Z)^alpha: entropy-adaptive fine-tuning. Diao et al., 2026; arXiv 2601.02151

    H: entropy (nats) of the softmax over the min(top_k, V) largest logits, without gradient. Z: `z`, by default
    ln k of that k, so that the factor is at most 1 (the published code takes 3.0, ln 20 rounded). For k = 1 the
    entropy is 0 and so is the factor.
    """
    with torch.no_grad():
        k = min(top_k, at.log_p.shape[-1])
        largest = torch.log_softmax(at.log_p.topk(k, dim=-1, sorted=False).values, dim=-1)  # [N, k]
        share = entropy(largest) / (z or max(math.log(k), torch.finfo(largest.dtype).tiny))
        factor = share.clamp(min=0) ** alpha
    return PerToken({"eaft": factor * at.nll})


def entropy_bonus(at: ScoredPositions, *, weight: float) -> PerToken:
    """-log p_y - weight * H(p): rewards entropy everywhere, the non-selective baseline of SED-SFT.
    H(p) = -sum over v of p_v log p_v. Pereyra et al., 2017; arXiv 1701.06548"""
    return PerToken({"ce": at.nll, "negative_entropy": -entropy(at.log_p)}, {"negative_entropy": weight})


def gem(at: ScoredPositions, *, beta: float, h: Scaling) -> PerToken:
    """GEM: - sum over v of q_v * h(z_v - z_y) * (log p_y - log p_v); Li et al., ICLR 2025; arXiv 2408.16673

    z: logits; q = softmax(z / beta); h = 1 (`linear`) or sigmoid(0.01 * (z_v - z_y)) (`logsigmoid`). q and h
    carry no gradient. With beta = 1 and `linear`, the gradient is that of cross-entropy.
    """
    with torch.no_grad():
        factor = torch.softmax(at.log_p / beta, dim=-1)  # [N, V]
        if h == "logsigmoid":
            factor *= torch.sigmoid(0.01 * (at.log_p + at.nll[:, None]))  # z_v - z_y = log p_v - log p_y
    expected = torch.bmm(factor[:, None], at.log_p[:, :, None])[:, 0, 0]  # sum of factor * log_p, without that product
    return PerToken({"gem": factor.sum(-1) * at.nll + expected})


def precision_recall(at: ScoredPositions, *, lam: float, gamma: float) -> PerToken:
    """-w * log p_y: precision against recall (the lambda-PR loss of Verine et al., ICML 2025; arXiv 2508.09654).

        w = lam^(t/L) * [r <= lam^(1/L)] * r, r = p_y / (gamma + (1 - gamma) * p_y), without gradient

    t targets of the position's sequence stand before it, of L. Where it comes from: for data P and a model Q of
    sequences the sum over x of min(lam * P(x), Q(x)) is what both have in common; lam below 1 asks for recall (little
    everywhere that data are), 1 for the total variation. With lam^(1/L) for each token,

        sum over x of |lam * P(x) - Q(x)| <= sum over t of lam^(t/L) * E over prefixes under P of
                                             sum over v of |lam^(1/L) * P(v) - Q(v)|

    and the right side falls along w: a token counts as long as Q(y) <= lam^(1/L) * P(y). P is not known; gamma + (1 -
    gamma) * Q(y) stands for it, as in TaiLr (Ji et al., ICLR 2023), which this is for lam = 1. For lam = gamma = 1 it
    is `dft`. A small gamma is nearer to cross-entropy, but less is learnt: no token beyond

        p_y = gamma * lam^(1/L) / (1 - (1 - gamma) * lam^(1/L))

    For texts of hundreds of tokens lam in [0.1, 1] and gamma in [1e-7, 1e-5] are in use. With 30 tokens nothing above
    p_y = 1e-4 would be learnt then, so the default gamma is larger here. `selected` says which positions count.
    """
    if at.places is None:
        raise ObjectiveError("precision_recall needs TokenBatch.group, the sequence of each position, and got none")
    with torch.no_grad():
        p_y = (-at.nll).exp()
        before, length = (count.to(p_y.dtype) for count in at.places())
        ratio = (p_y / (gamma + (1 - gamma) * p_y)).clamp(max=1.0)  # rounding must not put it beyond lam = 1
        selected = ratio <= lam ** (1 / length)
        factor = torch.where(selected, lam ** (before / length) * ratio, 0.0)
    return PerToken({"precision_recall": factor * at.nll}, selected=selected)


def sed_sft(
    at: ScoredPositions,
    *,
    mask: Mask,
    weight: float,
    top_k: int | None = None,
    threshold: float | None = None,
) -> PerToken:
    """SED-SFT: -log p_y + weight * m * (p_y*(p_y - 1) + 1/4). Chen et al., ACL 2026; arXiv 2602.07464

    m (see `select`) carries no gradient, p_y does: the gradient is that of cross-entropy times
    1 - 2*weight*m*p_y*(p_y - 1/2). Both terms are counted in target positions, selected or not.

    The threshold is given, or it is a quantile of masses that the base model has on held-out examples before training:

        threshold = quantile_q { sum of the calibration_top_k largest p at t : t in calibration_positions }

    where calibration_top_k is top_k unless it is given, and calibration_positions are those that predict a token of
    the target, or `all`: of the prompt or the target. The published code masks on the top-2 mass (top_k: 2), takes
    the 0.3-quantile of the top-10 mass (calibration_top_k: 10) over all positions of 100 examples, and has weight 1.
    As a top-10 mass is never smaller than the top-2 mass, more than 30% of the positions are selected then.
    """
    selected = select(at, mask=mask, top_k=top_k, threshold=threshold)
    p_y = (-at.nll).exp()
    # p_y*(p_y - 1) + 1/4 = (p_y - 1/2)^2, which loses nothing to cancellation near p_y = 1/2
    penalty = torch.where(selected, (p_y - 0.5).square(), 0.0)
    return PerToken({"ce": at.nll, "penalty": penalty}, {"penalty": weight}, selected)


@torch.no_grad()
def select(
    at: ScoredPositions,
    *,
    mask: Mask,
    top_k: int | None = None,
    threshold: float | None = None,
) -> Tensor:
    """Makes SED-SFT's m, bool [N].

    live: the `top_k` largest probabilities sum to strictly less than `threshold`; none: everywhere;
    base: `at.selected`, made from the base model.
    """
    if mask == "none":
        return torch.ones_like(at.labels, dtype=torch.bool)
    if mask == "base":
        return _reference_mask(at.selected)
    if top_k is None or threshold is None:
        raise ObjectiveError(f"sed_sft with mask 'live' needs top_k and threshold, got {top_k} and {threshold}")
    return mass_of(at.log_p, top_k) < threshold


@torch.no_grad()
def sed_sft_selection(logits: Tensor, *, top_k: int, threshold: float, **_: object) -> Tensor:
    """Makes `TokenBatch.selected` for mask `base`: bool [N] from the base model's logits [N, V]."""
    return mass_of(log_probs(logits), top_k) < threshold


def entropy(log_p: Tensor) -> Tensor:
    """Computes -sum over v of p_v log p_v [N] in nats, of log-probabilities [N, V]; in [0, ln V]."""
    made: Tensor = _Entropy.apply(log_p)
    return made


class _Entropy(torch.autograd.Function):
    """Autograd's own formula would hold six tensors [N, V]; log p is all that is needed."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor) -> Tensor:
        ctx.save_for_backward(log_p)
        return -log_p.exp().mul_(log_p).sum(dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """d H / d log p_v = -p_v * (1 + log p_v)."""
        (log_p,) = ctx.saved_tensors
        p: Tensor = log_p.exp()
        return p.addcmul_(p, log_p).mul_(-gradient[:, None])


def _reference_mask(selected: Tensor | None) -> Tensor:
    if selected is None:
        raise ObjectiveError(
            "sed_sft with mask 'base' needs TokenBatch.selected, the base model's selection, and got none"
        )
    return selected
