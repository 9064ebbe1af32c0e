"""What reinforcement learning and preference learning minimise. Pure functions of log-probabilities, in nats.

Shape legend: I images, K samples of each, N target positions of a batch, P pairs of sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.errors import ObjectiveError
from harness.objectives.apply import token_nll
from harness.types import LossOutput, Projection, Term, TokenBatch


def advantages(rewards: Tensor) -> Tensor:
    """(r - mean) / standard deviation (population) of each image's K samples, [I, K] as the rewards.

    0 for a whole group that has no spread: it says nothing about which of its samples is better. Shao et al., 2024;
    arXiv 2402.03300
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    spread = centred.square().mean(dim=1, keepdim=True).sqrt()
    return torch.where(has_spread(rewards)[:, None], centred / spread, 0.0)


def has_spread(rewards: Tensor) -> Tensor:
    """Which of the groups [I] have samples of different rewards [I, K]."""
    return rewards.amax(dim=1) > rewards.amin(dim=1)


def clipped(log_p: Tensor, before: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """- min(ratio * A, clip(ratio, 1 - low, 1 + high) * A) of each position [N], ratio = exp(log_p - before).

    before [N]: log_p when the samples were drawn, without gradient; where it is log_p itself, the ratio is exactly 1
    and the gradient is - A * grad log_p. advantage [N]: that of the position's sequence. Separate bounds (`high`
    above `low` leaves rare tokens room to grow): Schulman et al., 2017, arXiv 1707.06347; Yu et al., 2025, arXiv
    2503.14476
    """
    _require_one_shape(log_p=log_p, before=before, advantage=advantage)
    ratio = (log_p - before.detach()).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def kl(log_p: Tensor, reference: Tensor) -> Tensor:
    """Estimate of KL(model || reference) from sampled tokens, [N]: exp(d) - d - 1, d = reference - log_p.

    Never negative, 0 where both agree; unbiased for tokens that the model itself drew.
    """
    _require_one_shape(log_p=log_p, reference=reference)
    difference = reference.detach() - log_p
    return torch.expm1(difference) - difference


def grpo(
    batch: TokenBatch, logged: bool = True, *, low: float, high: float, kl_weight: float, temperature: float
) -> LossOutput:
    """`clipped` plus kl_weight * `kl`, each a mean over the positions of the batch's sequences.

    Log-probabilities are those at `temperature`, which the sequences were drawn at. Sequences that are `sampled`
    (TokenBatch.members) stand in where a process has none of its own: they count for nothing. Statistics: share of the
    positions where clipping stops the gradient. Without a `before` (TokenBatch.rated) the ratio is 1 throughout.
    ObjectiveError if `rated`, its reference where there is a kl_weight, `group` or `members` are not given.
    """
    rated, group, members = batch.rated, batch.group, batch.members
    if rated is None or group is None or members is None or (kl_weight and rated.reference is None):
        raise ObjectiveError("grpo needs TokenBatch.rated (with a reference for kl), group and members")
    log_p = log_probability(batch.logits, batch.labels, temperature)
    before = log_p.detach() if rated.before is None else rated.before
    own = ~members.sampled[group]
    values = {"policy": clipped(log_p, before, rated.advantage, low, high)}
    if kl_weight and rated.reference is not None:
        values["kl"] = kl(log_p, rated.reference)
    weights = {"policy": 1.0, "kl": kl_weight}
    terms = {name: Term(torch.where(own, v, 0.0).sum(), own.sum(), weights[name]) for name, v in values.items()}
    if not logged:
        return LossOutput(terms)
    stopped = values["policy"].detach() > clipped(log_p.detach(), before, rated.advantage, 1.0, torch.inf)
    stats = {"clipped": ((stopped & own).sum(), own.sum())}
    if "kl" in terms:
        stats["kl"] = terms["kl"].sum.detach(), own.sum()
    return LossOutput(terms, stats)


def log_probability(logits: Tensor | Projection, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) at the labels, [N], in nats; 0 where ignored."""
    if isinstance(logits, Projection):
        return -token_nll(Projection(logits.hidden / temperature, logits.weight), labels)
    return -token_nll(logits / temperature, labels)


def dpo(chosen: Tensor, rejected: Tensor, reference: tuple[Tensor, Tensor], beta: float) -> Tensor:
    """- log sigmoid(beta * ((chosen - its reference) - (rejected - its reference))) of each pair, [P].

    chosen, rejected [P]: log P of whole sequences (or its mean over their tokens); reference: the same two under the
    model that training began with, without gradient. log 2 where the model is the reference. Rafailov et al., NeurIPS
    2023; arXiv 2305.18290
    """
    _require_one_shape(chosen=chosen, rejected=rejected, reference_chosen=reference[0], reference_rejected=reference[1])
    margin = (chosen - reference[0].detach()) - (rejected - reference[1].detach())
    return -F.logsigmoid(beta * margin)


def _require_one_shape(**tensors: Tensor) -> None:
    """ObjectiveError where shapes differ: broadcasting would pair every position with every other."""
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        raise ObjectiveError(f"expected tensors of one shape, got {shapes}")
