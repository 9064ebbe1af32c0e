"""Computes the losses of reinforcement learning and of fine-tuning on corrections. Pure functions of
log-probabilities, in nats.

Shape legend: I images, K samples of each, N target positions of a batch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from harness.errors import ObjectiveError
from harness.objectives.apply import token_level, token_nll
from harness.objectives.token import ce_kl
from harness.types import LossOutput, Projection, Term, TokenBatch


def advantages(rewards: Tensor) -> Tensor:
    """Computes (r - mean) / standard deviation over each image's K >= 2 samples, [I, K] as the rewards.

    The deviation is that of a sample (over K - 1), as in TRL and verl. 0 for a whole group without spread, in which
    no sample is better. Shao et al., 2024; arXiv 2402.03300
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    spread = rewards.std(dim=1, keepdim=True, correction=1)
    return torch.where(has_spread(rewards)[:, None], centred / spread, 0.0)


def has_spread(rewards: Tensor) -> Tensor:
    """Flags the groups [I] whose samples have different rewards [I, K]."""
    return rewards.amax(dim=1) > rewards.amin(dim=1)


def clipped(log_p: Tensor, before: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """- min(ratio * A, clip(ratio, 1 - low, 1 + high) * A) of each position [N], ratio = exp(log_p - before).

    before [N]: log_p when the samples were drawn, without gradient; where it is log_p itself, the ratio is exactly 1
    and the gradient is - A * grad log_p. advantage [N]: that of the position's sequence. Separate bounds (`high`
    above `low` leaves rare tokens room to grow): Schulman et al., 2017, arXiv 1707.06347; Yu et al., 2025, arXiv
    2503.14476
    """
    require_one_shape(log_p=log_p, before=before, advantage=advantage)
    ratio = (log_p - before.detach()).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def kl(log_p: Tensor, reference: Tensor) -> Tensor:
    """Estimates KL(model || reference) from sampled tokens, [N]: exp(d) - d - 1, d = reference - log_p.

    Never negative, 0 where both agree; unbiased for tokens that the model itself drew.
    """
    require_one_shape(log_p=log_p, reference=reference)
    difference = reference.detach() - log_p
    return torch.expm1(difference) - difference


def grpo(
    batch: TokenBatch, logged: bool = True, *, low: float, high: float, kl_weight: float, temperature: float
) -> LossOutput:
    """`clipped` plus kl_weight * `kl`, each a mean over the positions of the batch's sequences.

    Log-probabilities are those at `temperature`, which the sequences were drawn at. Sequences that are `sampled`
    (TokenBatch.members) are placeholders on a process without others, and do not count. Statistics: share of the
    positions where clipping stops the gradient, and the mean ratio. Without a `before` (TokenBatch.rated) the ratio
    is 1 throughout. ObjectiveError if `rated`, its reference where there is a kl_weight, `group` or `members` are not
    given.
    """
    rated, group, members = batch.rated, batch.group, batch.members
    if rated is None or group is None or members is None or (kl_weight and rated.reference is None):
        raise ObjectiveError("grpo needs TokenBatch.rated (with a reference for kl), group and members")
    log_p = log_probability(batch.logits, batch.labels, temperature)
    before = log_p.detach() if rated.before is None else rated.before
    real = ~members.sampled[group]
    values = {"policy": clipped(log_p, before, rated.advantage, low, high)}
    if kl_weight and rated.reference is not None:
        values["kl"] = kl(log_p, rated.reference)
    weights = {"policy": 1.0, "kl": kl_weight}
    terms = {name: Term(torch.where(real, v, 0.0).sum(), real.sum(), weights[name]) for name, v in values.items()}
    if not logged:
        return LossOutput(terms)
    stopped = values["policy"].detach() > clipped(log_p.detach(), before, rated.advantage, 1.0, torch.inf)
    ratio = torch.where(real, (log_p.detach() - before).exp(), 0.0)
    stats = {"clipped": ((stopped & real).sum(), real.sum()), "ratio": (ratio.sum(), real.sum())}
    if "kl" in terms:
        stats["kl"] = terms["kl"].sum.detach(), real.sum()
    return LossOutput(terms, stats)


def nsft(batch: TokenBatch, logged: bool = True, *, negative: float, kl: float) -> LossOutput:
    """Supervised fine-tuning on targets and on corrections of the model's own errors (nSFT; Zhu et al., CVPR 2025).

    Two parts, each a mean over its own positions of -log p_y + kl * KL(model || reference): that of the targets, and
    `negative` times that of the sequences that are a correction (TokenBatch.members). There are statistics of each
    part. ObjectiveError if `group`, `members` with `correction`, or with a `kl` the reference are not given.
    """
    group, members = batch.group, batch.members
    if group is None or members is None or members.correction is None:
        raise ObjectiveError("nsft needs TokenBatch.group and members that say which of them are corrections")
    corrects = members.correction[group]
    function = partial(ce_kl, weight=kl)
    chosen = token_level(function, _at(batch, ~corrects), logged)
    corrected = token_level(function, _at(batch, corrects), logged)
    terms = dict(chosen.terms)
    for name, term in corrected.terms.items():
        terms[f"correction_{name}"] = replace(term, weight=negative * term.weight, unit="corrections")
    stats = {**chosen.stats, **{f"correction_{name}": sums for name, sums in corrected.stats.items()}}
    if logged and kl:
        stats |= {name: (term.sum.detach(), term.count) for name, term in terms.items() if name.endswith("kl")}
    return LossOutput(terms, stats)


def _at(batch: TokenBatch, rows: Tensor) -> TokenBatch:
    """Takes the positions [N] that a mask selects, for an objective of positions alone."""
    reference = None if batch.reference is None else _taken(batch.reference, rows)
    weight = None if batch.weight is None else batch.weight[rows]
    return TokenBatch(_taken(batch.logits, rows), batch.labels[rows], weight=weight, reference=reference)


def _taken(logits: Tensor | Projection, rows: Tensor) -> Tensor | Projection:
    return logits.take(rows) if isinstance(logits, Projection) else logits[rows]


def log_probability(logits: Tensor | Projection, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Computes log softmax(logits / temperature) at the labels, [N], in nats; 0 where ignored."""
    if isinstance(logits, Projection):
        return -token_nll(Projection(logits.hidden / temperature, logits.weight), labels)
    return -token_nll(logits / temperature, labels)


def require_one_shape(**tensors: Tensor) -> None:
    """Raises ObjectiveError where shapes differ: broadcasting would pair every position with every other."""
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        raise ObjectiveError(f"expected tensors of one shape, got {shapes}")
