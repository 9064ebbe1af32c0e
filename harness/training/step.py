"""Computes the gradient of one optimisation step for any objective: forward, loss, backward, split over micro-batches
and ranks.

Sums and counts of each loss term are kept apart until every micro-batch of every process has been counted, so the
gradient does not depend on how a batch is split. An objective that is not supported raises an error; there is no
fallback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor

from harness.errors import ObjectiveError
from harness.inference.teacher_forcing import likeliest, log_likelihoods
from harness.metrics.samples.matching import f_score
from harness.objectives.policy import log_probability
from harness.objectives.stats import sums_by_kind
from harness.protocols import Adapter, HiddenStates
from harness.sequence import KINDS
from harness.system import ranks
from harness.system.profiler import phase
from harness.training.engines.data_parallel import DataParallel, Logits
from harness.training.objective import Objective
from harness.training.prefetch import Pixels
from harness.training.rows import (
    Row,
    TokenBudget,
    batch_of,
    counted,
    counts_of,
    images_of,
    members_of,
    micro_batches,
    padding_of,
    rated_of,
    sets_of,
    weights_of,
)
from harness.training.transfer import copied_to, packed_to
from harness.types import IGNORED_LABEL, LossOutput, TokenBatch, Unit


def accumulate(
    adapter: Adapter,
    rows: Sequence[Row],
    objective: Objective,
    micro_batch: int | TokenBudget,
    accelerator: Accelerator,
    logged: bool = True,
    pixels: Pixels | None = None,
    engine: DataParallel | None = None,
) -> LossOutput:
    """Adds the gradient of the whole batch's mean loss to the parameters; returns the detached total.

    rows: this process's share; rows of one image are neighbours, and for an objective over sets all of them are in
    one micro-batch. micro_batch: the size of a forward pass. Statistics are computed only where they are `logged`,
    the share of padding among them. A term's count must be known before the model is asked: target positions, or
    sets. Any other count raises. pixels: called once for neighbouring rows of one image, micro-batch by micro-batch;
    those of the adapter by default. engine: that of the adapter's model; DataParallel by default.
    """
    engine = engine or DataParallel(adapter.model, accelerator)
    counts = counts_of(rows)
    with phase("reduction"):
        totals = _reduced(accelerator, counts)
    total: LossOutput | None = None
    parts = list(micro_batches(rows, micro_batch, "sets" in objective.needs, adapter.codec))
    rounds = engine.rounds(len(parts))
    for number in range(1, rounds + 1):
        idle = number > len(parts)  # other ranks have more: the last part is repeated, without counting
        if not idle:
            part = parts[number - 1]
            images = copied_to(accelerator.device, images_of(part, pixels or adapter.pixels))
        with phase("forward"):
            output = _forward(adapter, part, images, objective, engine, logged)
        terms = [term.weight * term.sum / max(totals[term.unit], 1) for term in output.terms.values()]
        with phase("backward"):
            engine.backward(torch.stack(terms).sum() * (0.0 if idle else 1.0), last=number == rounds)
        if not idle:
            total = added(total, output)
    assert total is not None
    for name, term in total.terms.items():
        if int(term.count) != counts[term.unit]:
            raise ObjectiveError(
                f"objective {objective.name}: term {name} counts {int(term.count)} {term.unit}, expected the batch's "
                f"{counts[term.unit]}; this training loop cannot honour it"
            )
    with phase("reduction"):
        return _across_processes(engine, total, accelerator)


def _forward(
    adapter: Adapter,
    rows: Sequence[Row],
    pixels: Tensor,
    objective: Objective,
    engine: DataParallel,
    logged: bool,
) -> LossOutput:
    device = pixels.device
    if "experts" in objective.needs:
        with engine.autocast():
            rows = with_experts(adapter, rows, pixels, objective.settings["experts"])
    batch = batch_of(rows, adapter)
    scored = batch.labels != IGNORED_LABEL
    ties = "reference_logits" in objective.needs
    selected, reference = None, None
    groups = torch.arange(len(rows))[:, None].expand_as(scored)[scored]
    inputs, where, labels, group, kinds = packed_to(
        device, batch.inputs, scored, batch.labels[scored], groups, batch.kinds[scored]
    )
    with engine.autocast():
        if objective.reference is not None and not ties:
            selected = reference_selection(objective, rows, pixels)
        if ties:
            reference = _reference_logits(objective, pixels, inputs, where)
        logits = engine.forward(lambda: _logits(adapter, pixels, inputs, where))
        weight = weights_of(objective.loss_weights, batch.kinds[scored], counted(rows, adapter.codec), device)
        members, rated = members_of(rows, device), rated_of(rows, device)
        batch_of_tokens = TokenBatch(logits, labels, group, members, selected, weight, rated, reference)
        output = objective.loss(batch_of_tokens, logged)
    if not logged:
        return output
    padding, positions = (torch.tensor(count, device=device) for count in padding_of(batch, rows, adapter.codec))
    shares = _shares(rows, objective, device)
    output = replace(output, stats={**output.stats, "padding": (padding, positions), **shares})
    if output.selected is None:
        return output
    return replace(output, stats={**output.stats, **_by_kind(output.selected, kinds)})


def _logits(adapter: Adapter, pixels: Tensor, tokens: Tensor, scored: Tensor) -> Logits:
    """Returns logits at the target positions; as hidden states where the adapter has them."""
    if isinstance(adapter, HiddenStates):
        return adapter.hidden(pixels, tokens).take(scored)
    return adapter.logits(pixels, tokens)[scored]


@torch.no_grad()
def _reference_logits(objective: Objective, pixels: Tensor, tokens: Tensor, scored: Tensor) -> Logits:
    assert objective.reference is not None
    return _logits(objective.reference, pixels, tokens, scored)


def _by_kind(selected: Tensor, kinds: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Computes the selected share by token kind."""
    sums, counts = sums_by_kind(selected.float(), kinds, len(KINDS))
    return {f"selected/{kind}": (sums[index], counts[index]) for index, kind in enumerate(KINDS)}


def added(total: LossOutput | None, output: LossOutput) -> LossOutput:
    """Adds sums and counts, detached, so that the graph of a micro-batch is released."""
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
    """Returns every logged statistic as a number; None where nothing was counted."""
    return {name: float(sums / counts) if counts > 0 else None for name, (sums, counts) in output.stats.items()}


# ---- several processes ---------------------------------------------------------------------------------------------


def _reduced(accelerator: Accelerator, counts: Mapping[Unit, int]) -> dict[Unit, int]:
    """Sums counts over all processes."""
    if accelerator.num_processes == 1:
        return dict(counts)
    ranks.meet(accelerator)
    totals = accelerator.reduce(torch.tensor(list(counts.values()), device=accelerator.device), "sum")
    return dict(zip(counts, totals.tolist(), strict=True))


def _across_processes(engine: DataParallel, output: LossOutput, accelerator: Accelerator) -> LossOutput:
    """Sums gradients, sums and counts over the processes: each was already divided by the global count."""
    if accelerator.num_processes == 1:
        return output
    ranks.meet(accelerator)
    engine.reduce()
    terms = {
        name: replace(term, sum=accelerator.reduce(term.sum, "sum"), count=accelerator.reduce(term.count, "sum"))
        for name, term in output.terms.items()
    }
    stats = {
        name: (accelerator.reduce(sums, "sum"), accelerator.reduce(counts, "sum"))
        for name, (sums, counts) in output.stats.items()
    }
    return LossOutput(terms, stats)


# ---- what some objectives need --------------------------------------------------------------------------------------


def with_samples(adapter: Adapter, rows: Sequence[Row], samples: int, max_tokens: int, seed: int) -> list[Row]:
    """Adds up to `samples` sequences per image that the model draws at temperature 1, and the cost of every row. A
    sequence that is drawn twice, or is also a target, occurs once."""
    sets = sets_of(rows)
    training = adapter.model.training
    adapter.model.eval()
    drawn = adapter.generate([members[0].example for members in sets], [1.0] * samples, seed, max_tokens)
    adapter.model.train(training)
    result = []
    for members, sequences in zip(sets, drawn, strict=True):
        tokens_of_set = {row.tokens for row in members}
        new = [tokens for tokens in dict.fromkeys(sample.tokens for sample in sequences) if tokens not in tokens_of_set]
        members = members + [Row(members[0].example, tokens, sampled=True) for tokens in new]
        result += [replace(row, cost=_cost(adapter, row)) for row in members]
    return result


def _cost(adapter: Adapter, row: Row) -> float:
    return 1.0 - f_score(row.example, adapter.codec.decode(row.tokens, row.example.width, row.example.height))


def with_experts(adapter: Adapter, rows: Sequence[Row], pixels: Tensor, experts: int) -> list[Row]:
    """Gives each target to the expert of a mixture that it is likeliest under (harness.sequence.experts)."""
    if len(adapter.codec.experts) != experts:
        raise ObjectiveError(f"mixture needs a model with {experts} experts, got {len(adapter.codec.experts)}")
    of_experts = log_likelihoods(adapter, [row.example for row in rows], [row.tokens for row in rows], pixels)
    chosen = likeliest(of_experts)
    return [replace(row, example=replace(row.example, expert=expert)) for row, expert in zip(rows, chosen, strict=True)]


def _shares(rows: Sequence[Row], objective: Objective, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
    """Counts the targets of each expert, among all: collapse is where one has them all."""
    if "experts" not in objective.needs:
        return {}
    chosen = torch.tensor([row.example.expert for row in rows], device=device)
    count = torch.tensor(len(rows), device=device)
    return {f"expert/{place}": ((chosen == place).sum(), count) for place in range(objective.settings["experts"])}


@torch.no_grad()
def log_probabilities(
    adapter: Adapter,
    rows: Sequence[Row],
    size: int | TokenBudget,
    accelerator: Accelerator,
    engine: DataParallel,
    temperature: float,
) -> list[Tensor]:
    """Computes the log-probability of each token of each (rated) row, [L], by a forward pass as in training:
    micro-batches of up to `size` rows."""
    log_probs: list[Tensor] = []
    device = accelerator.device
    for part in micro_batches(rows, size, whole_sets=True, codec=adapter.codec):
        batch = batch_of(part, adapter)
        scored = batch.labels != IGNORED_LABEL
        with engine.autocast():
            images = copied_to(device, images_of(part, adapter.pixels))
            inputs, where, labels = packed_to(device, batch.inputs, scored, batch.labels[scored])
            flat = log_probability(_logits(adapter, images, inputs, where), labels, temperature)
        log_probs += torch.split(flat, [len(row.tokens) for row in part])
    return log_probs


@torch.no_grad()
def reference_selection(objective: Objective, rows: Sequence[Row], pixels: Tensor) -> Tensor:
    """Returns the selection of the frozen base at the batch's target positions, bool [N].

    It is cached per (image, sequence and preceding tokens): with canonical targets the base runs once per image, with
    random ones in nearly every step.
    """
    reference, selection = objective.reference, objective.selection
    assert reference is not None
    assert selection is not None
    keys = [_selection_key(row) for row in rows]
    missing = [index for index, key in enumerate(keys) if key not in objective.selections]
    if missing:
        batch = batch_of([rows[index] for index in missing], reference)
        logits = reference.logits(pixels[missing], batch.inputs.to(pixels.device))
        for position, index in enumerate(missing):
            scored = (batch.labels[position] != IGNORED_LABEL).to(pixels.device)
            objective.selections[keys[index]] = selection(logits[position, scored])
    return torch.cat([objective.selections[key] for key in keys])


def _selection_key(row: Row) -> tuple[int, tuple[int, ...]]:
    """Returns a key of image, asked categories, context and sequence, with -1 after each."""
    asked = () if row.example.asked is None else (*row.example.asked, -1)
    context = (*row.context, -1) if row.context else ()
    return row.example.image_id, (*asked, *context, *row.tokens)
