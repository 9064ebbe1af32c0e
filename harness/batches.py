"""Token sequences -> padded tensors, and which examples make up which step. Pure; shared by training and scoring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.sequence import Codec
from harness.types import IGNORED_LABEL


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """inputs [B, L]: prompt and targets without the last token; labels [B, L]: the token that follows, or
    IGNORED_LABEL; kinds [B, L]: index into sequence.KINDS of each label, -1 where ignored."""

    inputs: Tensor
    labels: Tensor
    kinds: Tensor


def target_batch(sequences: Sequence[Sequence[int]], codec: Codec) -> TargetBatch:
    """Padded on the right: with causal attention padding cannot reach a target."""
    prompt = codec.tokens.prompt
    length = len(prompt) + max(map(len, sequences)) - 1
    inputs = torch.full((len(sequences), length), codec.tokens.pad)
    labels = torch.full((len(sequences), length), IGNORED_LABEL)
    kinds = torch.full((len(sequences), length), -1)
    for row, tokens in enumerate(sequences):
        first, last = len(prompt) - 1, len(prompt) - 1 + len(tokens)
        inputs[row, :last] = torch.tensor([*prompt, *tokens[:-1]])
        labels[row, first:last] = torch.tensor(tokens)
        kinds[row, first:last] = torch.tensor(codec.kinds(tokens))
    return TargetBatch(inputs, labels, kinds)


def batch_indices(examples: int, batch_size: int, steps: int, seed: int) -> Iterator[tuple[int, list[int]]]:
    """(epoch, indices) of each step: every epoch is a permutation that depends on (seed, epoch) alone, and a
    batch may reach from one epoch into the next. The same for every objective of a suite."""
    stream = _endless(examples, seed)
    for _ in range(steps):
        drawn = [next(stream) for _ in range(batch_size)]
        yield drawn[0][0], [index for _, index in drawn]


def _endless(examples: int, seed: int) -> Iterator[tuple[int, int]]:
    epoch = 0
    while True:
        for index in np.random.default_rng([seed, epoch]).permutation(examples):
            yield epoch, int(index)
        epoch += 1
