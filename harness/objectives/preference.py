"""What preference learning minimises: some sequences of an image are to become likelier than others.

Pure functions of log-probabilities, in nats; how they become losses of a batch.

Shape legend: P pairs of sequences, S sequences, G groups of an image's sequences, N target positions of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.errors import ObjectiveError
from harness.objectives.policy import log_probability, require_one_shape
from harness.types import LossOutput, Members, Term, TokenBatch

# ---- of pairs ------------------------------------------------------------------------------------------------------


def dpo(chosen: Tensor, rejected: Tensor, reference: tuple[Tensor, Tensor], beta: float) -> Tensor:
    """- log sigmoid(beta * ((chosen - its reference) - (rejected - its reference))) of each pair, [P].

    chosen, rejected [P]: log P of whole sequences (or its mean over their tokens); reference: the same two under the
    model that training began with, without gradient. log 2 where the model is the reference. Rafailov et al., NeurIPS
    2023; arXiv 2305.18290
    """
    return spl(chosen, rejected, reference, beta, beta)


def spl(chosen: Tensor, rejected: Tensor, reference: tuple[Tensor, Tensor], alpha: float, beta: float) -> Tensor:
    """- log sigmoid(alpha * (chosen - rejected) - beta * (its reference - the other's)) of each pair, [P].

    Soft preference learning weights the two parts of DPO's divergence from the reference apart: `alpha` the entropy of
    the model, `beta` its cross-entropy to the reference. With alpha = beta it is `dpo`. Where preferences follow
    rewards as Bradley and Terry have it, the best model is P ~ reference^(beta/alpha) * exp(reward/alpha) (normalised):
    that of DPO, flattened over whole sequences by the temperature alpha/beta. Slocum, Parker-Sartori and
    Hadfield-Menell, ICLR 2025; arXiv 2511.08594. Shapes and meaning of the arguments: see `dpo`.
    """
    require_one_shape(chosen=chosen, rejected=rejected, reference_chosen=reference[0], reference_rejected=reference[1])
    margin = (chosen - reference[0].detach()) - (rejected - reference[1].detach())
    return -F.logsigmoid(beta * margin + (alpha - beta) * (chosen - rejected))  # so that DPO is exact to the last bit


def pair_preference(
    batch: TokenBatch, logged: bool = True, *, alpha: float, beta: float, normalise: bool, sft_weight: float
) -> LossOutput:
    """`spl` of each pair plus sft_weight * cross-entropy of its chosen sequence (a mean over its tokens), each a mean
    over the pairs. With alpha = beta it is DPO.

    A pair is a set (TokenBatch.members) of two sequences; the chosen one has a positive advantage, the rejected one a
    negative one (TokenBatch.rated, with its reference). normalise: log P of a sequence is the mean over its tokens, not
    their sum. Statistics: `margin`, how much more reward the model gives the chosen sequence than the rejected one, the
    reward of a sequence being alpha * log P - beta * its reference, in nats; `accuracy`, the share of pairs whose
    chosen sequence has the larger log P. ObjectiveError if `rated` with a reference, `group` or `members` are not
    given, or the sets are no such pairs.
    """
    rated = _rated("preference", batch)
    chosen, rejected, members = rated.chosen, rated.rejected, rated.members
    if not torch.equal(members.set[chosen], members.set[rejected]) or not (chosen | rejected).all():
        raise ObjectiveError("preference needs sets of two: a chosen and a rejected sequence")
    now, before = rated.now, rated.before
    per_token = now / rated.lengths
    if normalise:
        now, before = per_token, before / rated.lengths
    loss = spl(now[chosen], now[rejected], (before[chosen], before[rejected]), alpha, beta)
    pairs = chosen.sum()
    terms = {"dpo": Term(loss.sum(), pairs, unit="sets")}
    if sft_weight:
        terms["sft"] = Term(-per_token[chosen].sum(), pairs, sft_weight, "sets")
    if not logged:
        return LossOutput(terms)
    reward = (beta * (now - before) + (alpha - beta) * now).detach()
    likelier = now[chosen] > now[rejected]
    margin = (reward[chosen] - reward[rejected]).sum()
    return LossOutput(terms, {"margin": (margin, pairs), "accuracy": (likelier.sum(), pairs)})


# ---- of groups -----------------------------------------------------------------------------------------------------


def gepo(ratio: Tensor, group: Tensor, winner: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The two parts of the loss of group equivalent preference optimisation, [G] each:

        - log sigmoid(beta * (mean of r over the winners - mean of r over the losers))
        variance of r over the winners

    ratio [S]: r = log P - log P under the reference, of whole sequences; group [S] int64 in [0, G); winner [S] bool,
    the others are losers. With one winner and one loser the first is `dpo` and the second 0; the second is 0 exactly
    where the reference's odds between the winners are kept. Undefined (nan) for a group without winners or losers.
    Wu et al., NeurIPS 2025; arXiv 2505.12723

    The paper writes the variance without saying over how many: here it is divided by the number of winners, as in
    `harness.objectives.sets.eco`. It is that of the log-probability ratios themselves, not times beta.
    """
    groups = int(group.max()) + 1

    def mean(values: Tensor, of: Tensor) -> Tensor:
        total = values.new_zeros(groups).index_add(0, group, torch.where(of, values, 0.0))
        return total / values.new_zeros(groups).index_add(0, group, of.to(values.dtype))

    won = mean(ratio, winner)
    preference = -F.logsigmoid(beta * (won - mean(ratio, ~winner)))
    return preference, mean((ratio - won[group]).square(), winner)


def group_preference(batch: TokenBatch, logged: bool = True, *, beta: float, weight: float) -> LossOutput:
    """The first part of `gepo` plus `weight` times the second, each a mean over the groups.

    A group is a set (TokenBatch.members); winners have a positive advantage, losers a negative one (TokenBatch.rated,
    with its reference). Statistics: `margin`, beta * (mean r of the winners - mean r of the losers); `variance`, the
    second part. ObjectiveError if `rated` with a reference, `group` or `members` are not given, or a set lacks winners
    or losers.
    """
    rated = _rated("gepo", batch)
    of = rated.members.set
    sets = int(of.max()) + 1
    ratio, winner = rated.now - rated.before, rated.chosen
    if not (rated.chosen | rated.rejected).all() or {*of[winner].tolist()} != {*of[~winner].tolist()}:
        raise ObjectiveError("gepo needs sets with winners and losers")
    preference, variance = gepo(ratio, of, winner, beta)
    count = torch.tensor(sets, device=ratio.device)
    terms = {
        "gepo": Term(preference.sum(), count, unit="sets"),
        "variance": Term(variance.sum(), count, weight, "sets"),
    }
    if not logged:
        return LossOutput(terms)
    margin = torch.special.logit((-preference.detach()).exp()).sum()
    return LossOutput(terms, {"margin": (margin, count), "variance": (variance.detach().sum(), count)})


# ---- what is known of the sequences --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RatedSequences:
    """now [S]: log P of each sequence, the sum over its tokens, with gradient; before [S]: under the reference;
    lengths [S]; chosen, rejected [S] bool: by the sign of its advantage."""

    now: Tensor
    before: Tensor
    lengths: Tensor
    chosen: Tensor
    rejected: Tensor
    members: Members


def _rated(name: str, batch: TokenBatch) -> RatedSequences:
    """ObjectiveError where the batch does not say what preferences are about."""
    rated, group, members = batch.rated, batch.group, batch.members
    if rated is None or rated.reference is None or group is None or members is None:
        raise ObjectiveError(f"{name} needs TokenBatch.rated with a reference, group and members")
    sign = rated.advantage.new_zeros(len(members.set)).scatter(0, group, rated.advantage)
    log_p = log_probability(batch.logits, batch.labels)
    now, before = (_sums(column, group, len(sign)) for column in (log_p, rated.reference.to(log_p)))
    return RatedSequences(now, before, torch.bincount(group, minlength=len(sign)), sign > 0, sign < 0, members)


def _sums(values: Tensor, group: Tensor, sequences: int) -> Tensor:
    """Sums the values [N] of each sequence's positions, [sequences]."""
    return values.new_zeros(sequences).index_add(0, group, values)
