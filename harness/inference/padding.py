"""Pads token sequences to tensors, for training and scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def target_batch(
    sequences: Sequence[Sequence[int]], codec: Codec, prompts: Sequence[Sequence[int]] | None = None
) -> TargetBatch:
    """Makes a batch padded on the right, where causal attention keeps padding from affecting a target. prompts:
    tokens before each sequence that are read without loss; the codec's prompt by default."""
    prompts = [codec.tokens.prompt] * len(sequences) if prompts is None else prompts
    length = max(len(prompt) + len(tokens) - 1 for prompt, tokens in zip(prompts, sequences, strict=True))
    inputs = torch.full((len(sequences), length), codec.tokens.pad)
    labels = torch.full((len(sequences), length), IGNORED_LABEL)
    kinds = torch.full((len(sequences), length), -1)
    for row, (prompt, tokens) in enumerate(zip(prompts, sequences, strict=True)):
        first, last = len(prompt) - 1, len(prompt) - 1 + len(tokens)
        inputs[row, :last] = torch.tensor([*prompt, *tokens[:-1]])
        labels[row, first:last] = torch.tensor(tokens)
        kinds[row, first:last] = torch.tensor(codec.kinds(tokens))
    return TargetBatch(inputs, labels, kinds)
