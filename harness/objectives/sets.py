"""What sequence-level objectives add to cross-entropy: sums over the equivalence sets of a batch.

Each is a pure function `(of, **settings) -> Term` with one contribution per set, in nats. A set is what a batch
holds of one image's equivalence set: its targets (members), and sequences that the model sampled itself, where an
objective needs them. Sets with fewer than two members say nothing about how probability is spread over them: they
add to no sum and no count. The same sequence twice counts as two members.

Shape legend: S sequences of the batch, M sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.types import Term

Reduction = Literal["sum", "mean"]


@dataclass(frozen=True, slots=True)
class Sequences:
    """log_prob [S]: log P(sequence given the image) in nats, the sum over its tokens, with gradient; length [S]: its
    number of tokens; set [S] int64 in [0, M), sampled [S] bool, cost [S]: see harness.types.Members."""

    log_prob: Tensor
    length: Tensor
    set: Tensor
    sampled: Tensor
    cost: Tensor

    @property
    def n_sets(self) -> int:
        return int(self.set.max()) + 1 if len(self.set) else 0

    def per_set(self, values: Tensor) -> Tensor:
        """Sums the values [S] of each set's sequences, [M]."""
        return values.new_zeros(self.n_sets).index_add(0, self.set, values)

    @property
    def sizes(self) -> Tensor:
        """How many members each set has, [M]; samples are no members."""
        return self.per_set((~self.sampled).to(self.log_prob.dtype))

    def term(self, values: Tensor, weight: float) -> Term:
        """Makes a term of values [M], over the sets with at least two members."""
        counted = self.sizes >= 2
        return Term(torch.where(counted, values, 0.0).sum(), counted.sum(), weight, "sets")


def eco(of: Sequences, *, weight: float, log_prob: Reduction) -> Term:
    """Equivalence consistency: weight * population variance of log P over a set's members, mean over sets.

    `log_prob`: the sum over a sequence's tokens, or their mean (which does not punish a set for containing long and
    short names).
    """
    value = of.log_prob if log_prob == "sum" else of.log_prob / of.length.clamp(min=1)
    member = (~of.sampled).to(value.dtype)
    mean = of.per_set(member * value) / of.sizes.clamp(min=1)
    variance = of.per_set(member * (value - mean[of.set]).square()) / of.sizes.clamp(min=1)
    return of.term(variance, weight)


def kl_uniform(of: Sequences, *, weight: float) -> Term:
    """weight * KL(u || q): u uniform over a set's n members, q their probabilities normalised within the set.

    KL = -ln n - (1/n) * sum over members of log q_i, at least 0, and 0 where all members are equally likely.
    """
    member = ~of.sampled
    log_q = _normalised(of, member)
    sizes = of.sizes.clamp(min=1)
    return of.term(-sizes.log() - of.per_set(torch.where(member, log_q, 0.0)) / sizes, weight)


def mrt(of: Sequences, *, weight: float) -> Term:
    """Minimum-risk training: weight * sum over a set's sequences of q_i * cost_i.

    q: probabilities normalised over the set's members and the samples among them. cost in [0, 1]: 1 - F-score of the
    matched mentions. Shen et al., ACL 2016; arXiv 1512.02433
    """
    q = _normalised(of, torch.ones_like(of.sampled)).exp()
    return of.term(of.per_set(q * of.cost.to(q.dtype)), weight)


def _normalised(of: Sequences, included: Tensor) -> Tensor:
    """log of P normalised within each set over the sequences that are included, [S]; means nothing at the others."""
    lowest = torch.finfo(of.log_prob.dtype).min
    values = torch.where(included, of.log_prob, lowest)
    highest = values.detach().new_full((of.n_sets,), lowest).scatter_reduce(0, of.set, values.detach(), "amax")
    shifted = torch.where(included, of.log_prob - highest[of.set], 0.0)
    total = of.per_set(torch.where(included, shifted.exp(), 0.0))
    return shifted - total.clamp(min=torch.finfo(total.dtype).tiny).log()[of.set]
