"""Applies an objective to a TokenBatch with logits or a Projection.

The logits of a Projection are computed for a few positions at a time. For token-level objectives each chunk's
gradient is computed together with its value, so that no chunk has to be computed again in backward; sequence-level
ones, whose gradient at a position depends on the whole set, compute each chunk a second time there. Either way the
peak is a few tensors of a chunk's size, whatever the objective.

Shape legend: N positions, V vocabulary, D hidden width, n positions of a chunk, T terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from harness.errors import ObjectiveError
from harness.objectives.calibration import log_probs
from harness.objectives.places import Places
from harness.objectives.sets import Sequences
from harness.objectives.stats import Stat, stats_of
from harness.objectives.token import PerToken, ScoredPositions
from harness.types import IGNORED_LABEL, LossOutput, Projection, Term, TokenBatch

CHUNK_ELEMENTS = 2**20
"""Number of logits of a chunk: 4 MiB in float32; a chunk has three to five tensors of this size."""
GPU_CHUNK_ELEMENTS = 2**25
"""The same on a GPU, which a product of a few positions with the whole embedding would leave idle: 128 MiB."""
LARGEST_SHARE = 80
"""Largest number of chunks of a long batch: 1/8 of its logits at ten tensors a chunk."""

TokenFunction = Callable[[ScoredPositions], PerToken]
SetFunction = Callable[[Sequences], Term]


def token_level(function: TokenFunction, batch: TokenBatch, logged: bool) -> LossOutput:
    """Sums the objective's terms over the target positions, each times its weight; without any positions, sums and
    counts are 0.

    Gradients reach logits, or hidden states and output embedding. With a Projection they are computed for the
    weighted sum of the terms: backward raises for any other combination of them.
    """
    _check(batch)
    places = None if batch.group is None else Places(batch.group, batch.labels != IGNORED_LABEL)
    measure = partial(_measure, function, batch=batch, places=places, logged=logged)
    if isinstance(batch.logits, Projection):
        return _chunked(measure, batch.logits, len(batch.labels))
    return _output(measure(log_probs(batch.logits), rows=slice(None)))


def set_level(function: SetFunction, name: str, batch: TokenBatch, logged: bool) -> LossOutput:
    """Computes cross-entropy over the targets (not over sampled sequences), and the objective's own term over the sets.

    Weights of positions apply only to the cross-entropy: the other term uses probabilities of whole sequences.
    """
    if batch.group is None or batch.members is None:
        raise ObjectiveError(f"{name} needs TokenBatch.group and TokenBatch.members, and got none")
    _check(batch)
    members, group = batch.members, batch.group
    nll = token_nll(batch.logits, batch.labels)
    target = batch.labels != IGNORED_LABEL
    of_targets = target & ~members.sampled[group]
    of = Sequences(
        log_prob=nll.new_zeros(len(members.set)).index_add(0, group, -nll),
        length=nll.new_zeros(len(members.set)).index_add(0, group, target.to(nll.dtype)),
        set=members.set,
        sampled=members.sampled,
        cost=members.cost,
    )
    terms = {"ce": Term(_weighted(nll, of_targets, batch.weight).sum(), of_targets.sum()), name: function(of)}
    stats = stats_of(nll.detach(), None, of_targets, None) if logged else {}
    return LossOutput(terms, stats)


def token_nll(logits: Tensor | Projection, labels: Tensor) -> Tensor:
    """Computes -log p_y [N] with gradient, 0 where ignored; for a Projection without holding its logits."""
    if isinstance(logits, Projection):
        hidden, weight = _operands(logits)
        parts = [
            checkpoint(_nll, hidden[rows], weight, labels[rows], use_reentrant=False)
            for rows in _chunks(len(labels), weight)
        ]
        nll = torch.cat(parts)
    else:
        nll = ScoredPositions(log_probs(logits), _indices(labels)).nll
    return torch.where(labels != IGNORED_LABEL, nll, 0.0)


def _nll(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return ScoredPositions(log_probs(hidden @ weight.T), _indices(labels)).nll


def _indices(labels: Tensor) -> Tensor:
    """Makes labels to gather with, with any token where ignored. Nothing else is changed, so that a wrong label
    raises an error."""
    return torch.where(labels == IGNORED_LABEL, 0, labels)


def _check(batch: TokenBatch) -> None:
    """Raises ObjectiveError unless there is one row for each label: slices and gather would ignore surplus rows."""
    logits, shape = batch.logits, batch.labels.shape
    rows = logits.hidden if isinstance(logits, Projection) else logits
    if len(shape) != 1 or rows.shape[:-1] != shape:
        raise ObjectiveError(
            f"TokenBatch.logits must be [N, V] (or hidden states [N, D]) and labels [N]; "
            f"got {list(rows.shape)} and {list(shape)}"
        )
    if batch.group is not None and batch.group.shape != shape:
        raise ObjectiveError(
            f"TokenBatch.group must be {list(shape)}, one per target position; got {list(batch.group.shape)}"
        )
    if batch.weight is not None and batch.weight.shape != shape:
        raise ObjectiveError(
            f"TokenBatch.weight must be {list(shape)}, one per target position; got {list(batch.weight.shape)}"
        )
    reference = batch.reference.hidden if isinstance(batch.reference, Projection) else batch.reference
    if reference is not None and reference.shape[:-1] != shape:
        raise ObjectiveError(
            f"TokenBatch.reference must have {list(shape)} rows, one per target position; got {list(reference.shape)}"
        )
    selected = batch.selected
    if selected is not None and (selected.shape != shape or selected.dtype != torch.bool):
        raise ObjectiveError(
            f"TokenBatch.selected must be bool {list(shape)}, one per target position; "
            f"got {selected.dtype} {list(selected.shape)}"
        )


# ---- one block of positions ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Block:
    """The contribution of a block of positions: sums [T] with gradient, everything else without."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    sums: Tensor
    count: Tensor
    stats: Mapping[str, Stat]
    selected: Tensor | None


def _measure(
    function: TokenFunction, log_p: Tensor, *, batch: TokenBatch, places: Places | None, rows: slice, logged: bool
) -> _Block:
    """Applies a function to one block of positions; log_p [n, V]: of these rows of the batch."""
    labels = batch.labels[rows]
    selected, weight = (None if column is None else column[rows] for column in (batch.selected, batch.weight))
    target = labels != IGNORED_LABEL
    of_rows = None if places is None else partial(places.of, rows)
    at = ScoredPositions(log_p, _indices(labels), selected, _reference(batch.reference, rows), of_rows)
    made = function(at)
    sums = [_weighted(values, target, weight).sum() for values in made.terms.values()]
    return _Block(
        names=tuple(made.terms),
        weights=tuple(made.weights.get(name, 1.0) for name in made.terms),
        sums=torch.stack(sums),
        count=target.sum(),
        stats=stats_of(at.nll.detach(), log_p.detach(), target, made.selected) if logged else {},
        selected=made.selected,
    )


@torch.no_grad()
def _reference(logits: Tensor | Projection | None, rows: slice) -> Tensor | None:
    """Computes the log-probabilities [n, V] of the frozen model at these rows."""
    if isinstance(logits, Projection):
        hidden, weight = _operands(logits)
        return log_probs(hidden[rows] @ weight.T)
    return None if logits is None else log_probs(logits[rows])


def _weighted(values: Tensor, where: Tensor, weight: Tensor | None) -> Tensor:
    """Multiplies values [N] with their weights; 0 where they do not count."""
    chosen = torch.where(where, values, 0.0)
    return chosen if weight is None else chosen * weight


def _output(block: _Block) -> LossOutput:
    terms = {
        name: Term(block.sums[index], block.count, weight)
        for index, (name, weight) in enumerate(zip(block.names, block.weights, strict=True))
    }
    return LossOutput(terms, block.stats, block.selected)


# ---- chunk by chunk --------------------------------------------------------------------------------------------------


def _chunked(measure: Callable[..., _Block], projection: Projection, positions: int) -> LossOutput:
    hidden, weight = _operands(projection)
    gradients = _Gradients(hidden, weight) if torch.is_grad_enabled() else None
    total = _Total(positions)
    for rows in _chunks(positions, weight):
        with torch.no_grad():
            log_p = log_probs(hidden[rows] @ weight.T)  # [n, V]
        with torch.set_grad_enabled(gradients is not None):
            log_p.requires_grad_(gradients is not None)
            block = measure(log_p, rows=rows)
            if gradients is not None:
                gradients.add(rows, block, log_p)
        total.add(rows, block)
        del log_p, block
    if gradients is None:
        return _output(total.block)
    sums = _Precomputed.apply(hidden, weight, total.block.sums, total.block.weights, gradients)
    return _output(replace(total.block, sums=sums))


def _operands(projection: Projection) -> tuple[Tensor, Tensor]:
    """Casts hidden states and embedding to the type in which autocast would multiply them."""
    hidden, weight = projection.hidden, projection.weight
    device = hidden.device.type
    lowered = torch.is_autocast_enabled(device) and hidden.dtype != torch.float64  # which autocast leaves alone
    dtype = torch.get_autocast_dtype(device) if lowered else hidden.dtype
    return hidden.to(dtype), weight.to(dtype)


def chunk_elements(device: torch.device) -> int:
    """Returns how many logits a chunk has at most, of a batch that is not so long that they are more."""
    return CHUNK_ELEMENTS if device.type == "cpu" else GPU_CHUNK_ELEMENTS


def _chunks(positions: int, weight: Tensor) -> Iterator[slice]:
    """Cuts the positions into chunks: at least one, so that an empty batch has its terms too."""
    size = max(1, chunk_elements(weight.device) // len(weight), -(-positions // LARGEST_SHARE))
    return (slice(start, start + size) for start in range(0, max(positions, 1), size))


class _Total:
    """The sum of the blocks of a batch, without gradient.

    It is added up in place: a small tensor that outlives its chunk would lie in the heap between large ones, and keep
    the C library from reusing their space.
    """

    def __init__(self, positions: int) -> None:
        self._positions = positions
        self._sum: _Block | None = None

    def add(self, rows: slice, block: _Block) -> None:
        if self._sum is None:
            mask = None if block.selected is None else block.selected.new_empty(self._positions)
            self._sum = replace(block, sums=block.sums.detach().clone(), selected=mask)
        else:
            self._sum.sums.add_(block.sums.detach())
            self._sum.count.add_(block.count)
            for name, sums in block.stats.items():
                for total, value in zip(self._sum.stats[name], sums, strict=True):
                    total.add_(value)
        if block.selected is not None and self._sum.selected is not None:
            self._sum.selected[rows] = block.selected

    @property
    def block(self) -> _Block:
        assert self._sum is not None, "there is at least one chunk"
        return self._sum


class _Gradients:
    """Gradients of the weighted sum of the terms, added up chunk by chunk in what the parameters can hold."""

    def __init__(self, hidden: Tensor, weight: Tensor) -> None:
        self._operands = hidden.detach(), weight.detach()
        self.hidden = torch.zeros_like(hidden) if hidden.requires_grad else None
        # Many chunks add up in the embedding's gradient: in float32 at least.
        wide = torch.promote_types(weight.dtype, torch.float32)
        self.weight = torch.zeros_like(weight, dtype=wide) if weight.requires_grad else None

    def add(self, rows: slice, block: _Block, log_p: Tensor) -> None:
        loss = (block.sums * block.sums.new_tensor(block.weights)).sum()
        (gradient,) = torch.autograd.grad(loss, log_p)
        gradient = gradient.contiguous()  # [n, V]; one that ignores the label may be expanded from [n]
        # From log p to the logits z: d/dz_v = g_v - p_v * sum of g. In place: nothing else needs these two.
        p = log_p.detach().exp_()
        gradient.addcmul_(p, gradient.sum(-1, keepdim=True), value=-1.0)
        hidden, weight = self._operands
        gradient = gradient.to(hidden.dtype)
        if self.hidden is not None:
            torch.mm(gradient, weight, out=self.hidden[rows])
        if self.weight is None:
            return
        if self.weight.dtype == gradient.dtype:
            self.weight.addmm_(gradient.T, hidden[rows])
        else:
            self.weight += gradient.T @ hidden[rows]


class _Precomputed(torch.autograd.Function):
    """Returns the sums [T] of the terms, whose gradients with respect to hidden and weight are computed already."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """hidden, weight: the tensors of the gradients; sums [T]; the terms' weights; the gradients."""
        _, weight, sums, ctx.term_weights, ctx.gradients = inputs
        ctx.dtype = weight.dtype
        return sums.clone()  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise ObjectiveError("a loss from a Projection can be differentiated once: its gradients are used up")
        scale = _common_scale(gradient, ctx.term_weights)
        # In place, and released: a second copy of the embedding's gradient would be the largest tensor of the step.
        made = [part if part is None else part.mul_(scale) for part in (ctx.gradients.hidden, ctx.gradients.weight)]
        ctx.gradients = None
        hidden, weight = made
        return hidden, None if weight is None else weight.to(ctx.dtype), None, None, None


def _common_scale(gradient: Tensor, term_weights: tuple[float, ...]) -> Tensor:
    """Returns c of gradient [T] = c * weights; ObjectiveError if there is none, as then another combination was
    differentiated."""
    weights = gradient.new_tensor(term_weights)
    scale = (gradient * weights).sum() / weights.square().sum()  # no product that autocast would round
    if not torch.allclose(gradient, scale * weights, rtol=1e-4, atol=0.0):
        raise ObjectiveError(
            "from a Projection only the weighted sum of the terms can be differentiated, "
            f"weights {list(term_weights)}; got the gradient {gradient.tolist()}. Use logits for anything else"
        )
    return scale
