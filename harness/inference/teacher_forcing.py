"""What a model says of given sequences, without a gradient: held-out loss, and the masses that calibrate SED-SFT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harness.inference.padding import target_batch
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
    adapter: Adapter, examples: Sequence[Example], sequences: Sequence[tuple[int, ...]]
) -> Iterator[Forced]:
    """Chunk by chunk of the examples."""
    device = next(adapter.model.parameters()).device
    for start in range(0, len(examples), CHUNK):
        rows = slice(start, start + CHUNK)
        prompts = [adapter.codec.prompt(example) for example in examples[rows]]
        batch = target_batch(sequences[rows], adapter.codec, prompts)
        kept = batch.labels != IGNORED_LABEL
        logits = adapter.logits(adapter.pixels(examples[rows]).to(device), batch.inputs.to(device))
        yield Forced(logits[kept.to(device)].float(), batch.labels[kept].to(device), batch.kinds[kept].to(device))


def top_k_masses(base: Adapter, heldout: Sequence[Example], targets: str, seed: int, top_k: int) -> Tensor:
    """Top-k mass at every target position of one target of each held-out example, [N]."""
    sequences = [members(example, base.codec, targets, seed, epoch=0, count=1)[0] for example in heldout]
    parts = [top_k_mass(logits, top_k) for logits, *_ in teacher_forced(base, heldout, sequences)]
    return torch.cat(parts).cpu()


def heldout_nll(adapter: Adapter, heldout: Sequence[Example]) -> float | None:
    """Cross-entropy in nats per target token of the canonical targets; None without held-out examples."""
    if not heldout:
        return None
    adapter.model.eval()
    sequences = [target(example, adapter.codec, "canonical") for example in heldout]
    total, count = 0.0, 0
    for logits, labels, _ in teacher_forced(adapter, heldout, sequences):
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += len(labels)
    return total / count
