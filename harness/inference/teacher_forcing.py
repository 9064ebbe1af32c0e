"""Evaluates given sequences under a model without gradients: held-out loss, and the masses that calibrate SED-SFT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harness.inference.padding import target_batch
from harness.inference.pixels import read_pixels
from harness.objectives.calibration import top_k_mass
from harness.protocols import Adapter
from harness.sequence.targets import members, target
from harness.types import IGNORED_LABEL, Example

CHUNK = 64
"""Sequences per forward pass."""


class Forced(NamedTuple):
    """Target positions only: logits [N, V] in float32, labels [N], kinds [N] (index into sequence.KINDS)."""

    logits: Tensor
    labels: Tensor
    kinds: Tensor


@torch.no_grad()
def teacher_forced(
    adapter: Adapter, examples: Sequence[Example], sequences: Sequence[tuple[int, ...]], with_prompts: bool = False
) -> Iterator[Forced]:
    """Yields the model's logits for the sequences, chunk by chunk of the examples.

    Args:
        with_prompts: also at the positions before a token of the prompt, with the label and kind of a position that
        is no target.
    """
    device = next(adapter.model.parameters()).device
    for start in range(0, len(examples), CHUNK):
        rows = slice(start, start + CHUNK)
        prompts = [adapter.codec.prompt(example) for example in examples[rows]]
        batch = target_batch(sequences[rows], adapter.codec, prompts)
        scored = batch.labels != IGNORED_LABEL
        if with_prompts:
            positions = torch.arange(scored.shape[1])
            scored |= positions < torch.tensor([len(prompt) - 1 for prompt in prompts])[:, None]
        logits = adapter.logits(read_pixels(adapter, examples[rows]).to(device), batch.inputs.to(device))
        yield Forced(logits[scored.to(device)].float(), batch.labels[scored].to(device), batch.kinds[scored].to(device))


def top_k_masses(
    base: Adapter, heldout: Sequence[Example], targets: str, seed: int, top_k: int, prompts: bool = False
) -> Tensor:
    """Returns the top-k mass [N] wherever the base model predicts a token of one target of each held-out example.

    Args:
        prompts: also include positions that predict a token of the prompt.
    """
    sequences = [members(example, base.codec, targets, seed, epoch=0, count=1)[0] for example in heldout]
    parts = [top_k_mass(logits, top_k) for logits, *_ in teacher_forced(base, heldout, sequences, prompts)]
    return torch.cat(parts).cpu()


def heldout_nll(adapter: Adapter, heldout: Sequence[Example]) -> float | None:
    """Computes cross-entropy in nats per target token of the canonical targets; None without held-out examples."""
    if not heldout:
        return None
    adapter.model.eval()
    sequences = [target(example, adapter.codec, "canonical") for example in heldout]
    total, count = 0.0, 0
    for logits, labels, _ in teacher_forced(adapter, heldout, sequences):
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += len(labels)
    return total / count
