"""Evaluates given sequences under a model without gradients: held-out loss, the masses that calibrate SED-SFT, and
which expert of a mixture a sequence is likeliest under (harness.sequence.experts)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from harness.inference.padding import target_batch
from harness.inference.pixels import read_pixels
from harness.objectives.apply import token_nll
from harness.objectives.calibration import top_k_mass
from harness.protocols import Adapter, EncodesImages
from harness.sequence.targets import members, target
from harness.types import IGNORED_LABEL, Example, Projection

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
    """Computes cross-entropy in nats per target token of the canonical targets; None without held-out examples. Of a
    mixture it is that of the whole mixture, every expert being as likely."""
    if not heldout:
        return None
    adapter.model.eval()
    sequences = [target(example, adapter.codec, "canonical") for example in heldout]
    if adapter.codec.experts:
        of_experts = _log_likelihoods_of(adapter, heldout, sequences).double()
        log_p = of_experts.logsumexp(dim=1) - math.log(len(adapter.codec.experts))
        return -float(log_p.sum()) / sum(map(len, sequences))
    total, count = 0.0, 0
    for logits, labels, _ in teacher_forced(adapter, heldout, sequences):
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += len(labels)
    return total / count


# ---- mixtures --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def log_likelihoods(
    adapter: Adapter, examples: Sequence[Example], sequences: Sequence[tuple[int, ...]], pixels: Tensor
) -> Tensor:
    """Computes log P(sequence | image, expert) [S, K] in nats, the sum over the tokens of S sequences: the E-step of a
    mixture of K experts.

    In eval mode, which Shen et al. found to decide over success: what dropout changes is more than what sets experts
    apart at first, so that all of them would learn the same. The model is left in the mode that it was in.

    Args:
        pixels: the image of each sequence [S, 3, H, W], on the device of the model.
    """
    codec, training = adapter.codec, adapter.model.training
    adapter.model.eval()
    try:
        encoded = adapter.encode(pixels) if isinstance(adapter, EncodesImages) else None
        columns = []
        for expert in range(len(codec.experts)):
            prompts = [codec.prompt(replace(example, expert=expert)) for example in examples]
            batch = target_batch(sequences, codec, prompts)
            inputs, labels = batch.inputs.to(pixels.device), batch.labels.to(pixels.device)
            scored = labels != IGNORED_LABEL
            logits: Tensor | Projection
            if encoded is not None and isinstance(adapter, EncodesImages):
                logits = adapter.read(encoded, inputs).take(scored)
            else:
                logits = adapter.logits(pixels, inputs)[scored]
            nll = token_nll(logits, labels[scored])
            columns.append(-nll.new_zeros(len(sequences)).index_add(0, scored.nonzero()[:, 0], nll))
    finally:
        adapter.model.train(training)
    return torch.stack(columns, dim=1)


def likeliest(of_experts: Tensor) -> list[int]:
    """Returns z* = argmax over z of log P(sequence | image, z) of each sequence, from [S, K]; the first of equals."""
    places: list[int] = of_experts.argmax(dim=1).tolist()
    return places


def with_likeliest(
    adapter: Adapter, examples: Sequence[Example], sequences: Sequence[tuple[int, ...]]
) -> Sequence[Example]:
    """Asks each example of the expert that its sequence is likeliest under; of a model without experts, as it is."""
    if not adapter.codec.experts:
        return examples
    chosen = likeliest(_log_likelihoods_of(adapter, examples, sequences))
    return [replace(example, expert=expert) for example, expert in zip(examples, chosen, strict=True)]


def _log_likelihoods_of(adapter: Adapter, examples: Sequence[Example], sequences: Sequence[tuple[int, ...]]) -> Tensor:
    """Computes `log_likelihoods` [S, K] on the CPU, of any number of examples, whose pictures are read here."""
    device = next(adapter.model.parameters()).device
    parts = []
    for start in range(0, len(examples), CHUNK):
        rows = slice(start, start + CHUNK)
        pixels = read_pixels(adapter, examples[rows]).to(device)
        parts.append(log_likelihoods(adapter, examples[rows], sequences[rows], pixels).cpu())
    return torch.cat(parts)
