"""Tells a floor by capacity from one by training: at every point where a category's names part, the divergence of the
model from a uniform choice, and the least that its output layer allows.

In: an adapter that offers hidden states (harness.protocols.HiddenStates), and examples. Out: one line for each branch
point that the examples' canonical targets pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness.errors import ConfigError
from harness.inference.padding import target_batch
from harness.inference.pixels import read_pixels
from harness.inference.teacher_forcing import with_likeliest
from harness.metrics.diagnosis.bottleneck import Branch, branches, divergence_from_uniform, least_divergence
from harness.protocols import Adapter, HiddenStates
from harness.sequence.targets import target
from harness.types import IGNORED_LABEL, Example


@dataclass(frozen=True, slots=True)
class BranchFloor:
    """floor: the least KL(uniform || model) in nats over hidden states no longer than the model's own; mean: what the
    model has, over the `passed` times that the targets pass this point. Where the two are close, the output layer is
    what keeps the names apart; where they are far, training is."""

    branch: Branch
    floor: float
    mean: float
    passed: int


@torch.no_grad()
def bottleneck(adapter: Adapter, examples: Sequence[Example]) -> list[BranchFloor]:
    """Computes the floor of each branch point that the targets of these examples pass, teacher-forced, in eval mode.

    Only the next token after the beginning of a name is looked at: a name that begins another one counts for its own
    tokens. ConfigError for an adapter without hidden states. The model is left in the mode that it was in.
    """
    if not isinstance(adapter, HiddenStates):
        raise ConfigError(f"{type(adapter).__name__}: expected an adapter with hidden states, got none")
    codec, training = adapter.codec, adapter.model.training
    by_place = {(b.category_id, b.before): b for b in branches(codec.names_of, codec.name_ids)}
    divergences: dict[Branch, list[float]] = {}
    longest, weight = 0.0, np.zeros((0, 0))
    device = next(adapter.model.parameters()).device
    adapter.model.eval()
    sequences = [target(example, codec, "canonical") for example in examples]
    for example, tokens in zip(with_likeliest(adapter, examples, sequences), sequences, strict=True):
        batch = target_batch([tokens], codec, [codec.prompt(example)])
        projection = adapter.hidden(read_pixels(adapter, [example]).to(device), batch.inputs.to(device))
        targets = (batch.labels[0] != IGNORED_LABEL).to(device)
        states = projection.hidden[0][targets].double().cpu().numpy()  # [tokens, D]
        if not weight.size:  # the same for every example, and large
            weight = projection.weight.double().cpu().numpy()
        longest = max(longest, float(np.linalg.norm(states, axis=1).max(initial=0.0)))
        for mention in codec.decode(tokens, example.width, example.height).mentions:
            for place in range(mention.name_start, mention.name_end):
                branch = by_place.get((mention.category_id or 0, tokens[mention.name_start : place]))
                if mention.category_id is not None and branch is not None:
                    divergence = divergence_from_uniform(weight @ states[place], branch.valid)
                    divergences.setdefault(branch, []).append(divergence)
    adapter.model.train(training)
    return [
        BranchFloor(branch, least_divergence(weight, branch.valid, longest), float(np.mean(values)), len(values))
        for branch, values in divergences.items()
    ]
