"""A mixture of experts that share all weights and differ in one token of the prompt: their tokens, and who answers.

P(y | x) = (1/K) * sum over z of P(y | x, z), the prior of the K experts z being uniform. Shen, Ott, Auli & Ranzato,
"Mixture Models for Diverse Machine Translation: Tricks of the Trade", ICML 2019; arXiv 1902.07816: its hard mixture
with a uniform prior and shared parameters (hMup), trained by the objective `mixture`.

What the paper leaves open, and what was chosen here:

- Its experts have an embedding each in place of the begin token. A row more in the vocabulary would change the softmax,
  and so the base that a mixture is compared with; an expert's token is one of the model's location tokens instead,
  evenly spaced, after the prompt. One expert needs no token: it is the model as it is.
- It reads one answer of every expert. Here a sample is drawn from an expert chosen uniformly at random, and the greedy
  answer is that of the expert whose own greedy answer has the highest log-probability, the sum over its tokens (the
  first of equals). Log-probabilities and scores of an answer are given its expert; -ln K is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.errors import ConfigError
from harness.sequence.tokens import Ids
from harness.types import Example, Sample

STREAM = 2**32 - 1
"""Sets the random numbers that choose experts apart from those that choose tokens; no category has this id."""


def expert_tokens(locations: Ids, experts: int) -> Ids:
    """Returns the token of each expert, evenly spaced among the location tokens; none where there is one expert.

    ConfigError where there are fewer location tokens than experts.
    """
    if experts == 1:
        return ()
    if len(locations) < experts:
        raise ConfigError(f"mixture: experts: expected at most the model's {len(locations)} locations, got {experts}")
    return tuple(locations[(2 * expert + 1) * len(locations) // (2 * experts)] for expert in range(experts))


def asked_of(example: Example, sample: Sample) -> Example:
    """Returns the question that a sample answers: the example, asked of the sample's expert."""
    return example if sample.expert is None else replace(example, expert=sample.expert)


@dataclass(frozen=True, slots=True)
class ExpertRows:
    """The rows that a mixture generates for some images, equally many neighbours each.

    sample  which of the samples a row is of, counted over all images: a greedy sample has a row for each expert
    expert  the expert of each row
    """

    sample: list[int]
    expert: list[int]

    @classmethod
    def of(cls, experts: int, examples: Sequence[Example], temperatures: Sequence[float], seed: int) -> ExpertRows:
        """Draws the expert of each sample at a temperature above 0. It depends on (seed, image, sample) only, so that
        the answers to several questions about an image are those of one expert."""
        sample: list[int] = []
        expert: list[int] = []
        for number, example in enumerate(examples):
            for place, temperature in enumerate(temperatures):
                chosen = range(experts)
                if temperature > 0:
                    drawn = int(np.random.default_rng([seed, example.image_id, place, STREAM]).integers(experts))
                    chosen = chosen[drawn : drawn + 1]
                sample += [number * len(temperatures) + place] * len(chosen)
                expert += chosen
        return cls(sample, expert)

    def answers(self, emitted: Sequence[Sample]) -> list[Sample]:
        """Returns one answer for each sample, from what the rows emitted: the likeliest of its rows."""
        best: dict[int, Sample] = {}
        for sample, expert, row in zip(self.sample, self.expert, emitted, strict=True):
            if sample not in best or sum(row.log_probs) > sum(best[sample].log_probs):
                best[sample] = replace(row, expert=expert)
        return list(best.values())
