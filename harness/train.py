"""One linear fine-tuning loop, and what has to happen before it: calibration and the reference's selection."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from harness import objectives
from harness.batches import TargetBatch, batch_indices, target_batch
from harness.errors import ConfigError, DetmodesError, ObjectiveError
from harness.protocols import Adapter
from harness.sequence import KINDS
from harness.suite import Train
from harness.targets import target
from harness.types import IGNORED_LABEL, Example, LossOutput, TokenBatch

CHUNK = 64
"""Sequences per forward pass where no gradient is needed."""

Evaluate = Callable[[int], None]
Progress = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective ready to train with: the callable, and whatever it needs from the base model."""

    name: str
    settings: Mapping[str, Any]
    loss: objectives.Objective
    reference: Adapter | None = None
    """The frozen base, where TokenBatch.selected has to come from it."""
    _cache: dict[tuple[int, tuple[int, ...]], Tensor] = field(default_factory=dict)

    @property
    def threshold(self) -> float | None:
        return self.settings.get("threshold")


def prepare(
    name: str, settings: Mapping[str, Any], base: Adapter, heldout: Sequence[Example], plan: Train, seed: int
) -> Objective:
    """Resolves a quantile on the held-out examples and keeps the base as the reference, as far as needed.

    `base` must be a copy that is not trained: it is put into eval mode here.
    """
    needs = objectives.OBJECTIVES[name].needs(objectives.complete(name, settings))
    base.model.eval()
    if "calibration" in needs:
        if not heldout:
            raise ConfigError(
                f"{name}: quantile needs a calibration split, and the benchmark has none; "
                "give the benchmark calibration_images, or the objective a threshold"
            )
        settings = objectives.resolve(name, settings, top_k_masses(base, heldout, plan, seed, settings["top_k"]))
    known = {"reference", "calibration"}
    if needs - known:
        raise ObjectiveError(f"{name} needs {sorted(needs - known)}, which this training loop does not supply")
    full = objectives.complete(name, settings)
    return Objective(name, full, objectives.build(name, **full), base if "reference" in needs else None)


def train(
    adapter: Adapter,
    examples: Sequence[Example],
    objective: Objective,
    plan: Train,
    seed: int,
    accelerator: Accelerator,
    evaluate: Evaluate,
    progress: Progress = lambda step, loss: None,
) -> list[dict[str, Any]]:
    """Fine-tunes in place and returns the curve: one row per logged step.

    Sums and counts of each loss term are accumulated over the micro-batches and divided once, so the result
    does not depend on how a batch is split. `evaluate(step)` is called at the steps of `plan.evaluations`.
    """
    parameters = [p for p in adapter.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan.lr, weight_decay=plan.weight_decay, fused=True)
    curve = []
    adapter.model.train()
    started = time.perf_counter()
    for step, (epoch, indices) in enumerate(batch_indices(len(examples), plan.batch_size, plan.steps, seed), 1):
        chosen = [examples[index] for index in indices]
        sequences = targets_of(adapter, chosen, plan, seed, epoch)
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * min(1.0, step / max(1, plan.warm_up))
        logged = step == 1 or step % plan.log_every == 0 or step == plan.steps
        micro_batch = plan.micro_batch or plan.batch_size
        output = accumulate(adapter, chosen, sequences, objective, micro_batch, accelerator, logged)
        loss = float(output.mean())
        if not math.isfinite(loss):
            ids = [example.image_id for example in chosen]
            raise DetmodesError(f"loss is {loss} at step {step} (images {ids}); lower train.lr")
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, plan.clip))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress(step, loss)
        if logged:
            curve.append({"step": step, "loss": loss, "grad_norm": norm, **means(output)})
            curve[-1]["seconds"] = time.perf_counter() - started
        if step in plan.evaluations:
            paused = time.perf_counter()
            evaluate(step)
            adapter.model.train()
            started += time.perf_counter() - paused
    return curve


def accumulate(
    adapter: Adapter,
    examples: Sequence[Example],
    sequences: Sequence[tuple[int, ...]],
    objective: Objective,
    micro_batch: int,
    accelerator: Accelerator,
    logged: bool = True,
) -> LossOutput:
    """Gradients of the whole batch's mean loss, accumulated over micro-batches; returns the detached total.
    Statistics by token kind are computed only where they are `logged`: they need the mask a second time.

    A term's count is known only after all micro-batches have run, and must not depend on the model. It is the
    number of target positions for token-level objectives, which is what this loop can honour: any other
    count raises.
    """
    positions = sum(map(len, sequences))
    total: LossOutput | None = None
    for start in range(0, len(examples), micro_batch):
        rows = slice(start, start + micro_batch)
        output = _forward(adapter, examples[rows], sequences[rows], objective, accelerator, logged)
        parts = [term.weight * term.sum / positions for term in output.terms.values()]
        accelerator.backward(torch.stack(parts).sum())
        total = _add(total, output)
    assert total is not None
    for name, term in total.terms.items():
        if int(term.count) != positions:
            raise ObjectiveError(
                f"objective {objective.name}: term {name} counts {int(term.count)}, expected the batch's "
                f"{positions} target positions; this training loop cannot honour it"
            )
    return total


def _forward(
    adapter: Adapter,
    examples: Sequence[Example],
    sequences: Sequence[tuple[int, ...]],
    objective: Objective,
    accelerator: Accelerator,
    logged: bool,
) -> LossOutput:
    batch = target_batch(sequences, adapter.codec)
    device = accelerator.device
    pixels = adapter.pixels(examples).to(device)
    labels = batch.labels.flatten().to(device)
    kept = labels != IGNORED_LABEL
    with accelerator.autocast():
        logits = adapter.logits(pixels, batch.inputs.to(device)).flatten(0, 1)[kept]
    selected = None
    if objective.reference is not None:
        selected = reference_selection(objective, examples, sequences, pixels)
    output = objective.loss(TokenBatch(logits, labels[kept], selected=selected))
    if not logged:
        return output
    kinds = batch.kinds.flatten().to(device)[kept]
    return LossOutput(output.terms, {**output.stats, **_selected_by_kind(objective, logits, kinds, selected)})


def _selected_by_kind(
    objective: Objective, logits: Tensor, kinds: Tensor, selected: Tensor | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """SED-SFT's selected share by token kind."""
    if objective.name != "sed_sft":
        return {}
    mask = objectives.selection(logits, objective.settings, selected)
    sums, counts = objectives.by_kind(mask.float(), kinds, len(KINDS))
    return {f"selected/{kind}": (sums[index], counts[index]) for index, kind in enumerate(KINDS)}


def _add(total: LossOutput | None, output: LossOutput) -> LossOutput:
    """Sums and counts, detached: nothing of a micro-batch's graph is kept."""
    terms = {name: replace(term, sum=term.sum.detach()) for name, term in output.terms.items()}
    if total is None:
        return LossOutput(terms, output.stats)
    for name, term in total.terms.items():
        terms[name] = replace(term, sum=term.sum + terms[name].sum, count=term.count + terms[name].count)
    stats = {
        name: (total.stats[name][0] + sums, total.stats[name][1] + counts)
        for name, (sums, counts) in output.stats.items()
    }
    return LossOutput(terms, stats)


def means(output: LossOutput) -> dict[str, float | None]:
    """Every logged statistic as a number; None where nothing was counted."""
    return {name: float(sums / counts) if counts > 0 else None for name, (sums, counts) in output.stats.items()}


def targets_of(
    adapter: Adapter, examples: Sequence[Example], plan: Train, seed: int, epoch: int
) -> list[tuple[int, ...]]:
    """One target sequence per example; a random one depends on (seed, epoch, image) alone."""
    return [
        target(example, adapter.codec, plan.targets, np.random.default_rng([seed, epoch, example.image_id]))
        for example in examples
    ]


# ---- the base model's view ---------------------------------------------------------------------------------------


@torch.no_grad()
def teacher_forced(
    adapter: Adapter, examples: Sequence[Example], sequences: Sequence[tuple[int, ...]]
) -> Iterator[tuple[Tensor, Tensor, TargetBatch]]:
    """(logits [N, V] in float32, labels [N], batch) over target positions only, chunk by chunk."""
    device = next(adapter.model.parameters()).device
    for start in range(0, len(examples), CHUNK):
        rows = slice(start, start + CHUNK)
        batch = target_batch(sequences[rows], adapter.codec)
        kept = batch.labels != IGNORED_LABEL
        logits = adapter.logits(adapter.pixels(examples[rows]).to(device), batch.inputs.to(device))
        yield logits[kept.to(device)].float(), batch.labels[kept].to(device), batch


def top_k_masses(base: Adapter, heldout: Sequence[Example], plan: Train, seed: int, top_k: int) -> Tensor:
    """Top-k mass at every target position of the held-out examples under the suite's targets, [N]."""
    sequences = targets_of(base, heldout, plan, seed, epoch=0)
    parts = [objectives.top_k_mass(logits, top_k) for logits, _, _ in teacher_forced(base, heldout, sequences)]
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


@torch.no_grad()
def reference_selection(
    objective: Objective, examples: Sequence[Example], sequences: Sequence[tuple[int, ...]], pixels: Tensor
) -> Tensor:
    """What the frozen base selects at the batch's target positions, bool [N].

    Kept per (image, sequence): with canonical targets the base runs once per image, with random ones in
    nearly every step.
    """
    reference = objective.reference
    assert reference is not None
    keys = [(example.image_id, tokens) for example, tokens in zip(examples, sequences, strict=True)]
    missing = [row for row, key in enumerate(keys) if key not in objective._cache]
    if missing:
        batch = target_batch([sequences[row] for row in missing], reference.codec)
        logits = reference.logits(pixels[missing], batch.inputs.to(pixels.device))
        for position, row in enumerate(missing):
            kept = (batch.labels[position] != IGNORED_LABEL).to(pixels.device)
            own = objectives.reference_selection(logits[position, kept], objective.settings)
            objective._cache[keys[row]] = own
    return torch.cat([objective._cache[key] for key in keys])
