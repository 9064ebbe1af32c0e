"""Defines rows, which are the sequences of a step, and converts them to tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from harness.inference.padding import TargetBatch, target_batch
from harness.protocols import Adapter
from harness.sequence import KINDS, Codec
from harness.training.prefetch import Pixels
from harness.types import Example, Members, Rated, Unit


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence to train on. `sampled`: drawn from the model, no target; `cost`: 1 - F-score, where needed.
    `context`: tokens between the prompt and the sequence, read without loss. `correction`: it corrects an error of
    the model (harness.training.stages.corrections) and is no target. `pair`: neighbours of one image with different
    numbers belong to different sets.

    In reinforcement and preference learning all rows of a batch are rated, with an advantage, and the log-probability
    of each token [L] before the step's updates and under a reference (harness.types.Rated)."""

    example: Example
    tokens: tuple[int, ...]
    sampled: bool = False
    cost: float = 0.0
    context: tuple[int, ...] = ()
    correction: bool = False
    pair: int = 0
    advantage: float | None = None
    before: Tensor | None = None
    reference: Tensor | None = None


def counts_of(rows: Sequence[Row]) -> dict[Unit, int]:
    """Counts target positions, sets of at least two targets, and positions of corrections."""
    targets = [row for row in rows if not row.sampled and not row.correction]
    return {
        "tokens": sum(len(row.tokens) for row in targets),
        "sets": sum(len(members) >= 2 for members in sets_of(targets)),
        "corrections": sum(len(row.tokens) for row in rows if row.correction),
    }


def sets_of(rows: Sequence[Row]) -> list[list[Row]]:
    """Groups neighbours of one image, of one question about it, or of one pair."""
    return [list(group) for _, group in groupby(rows, key=lambda row: (row.example.key, row.pair))]


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """The size of a micro-batch: positions of its padded tensor, prompts included."""

    positions: int


def micro_batches(rows: Sequence[Row], size: int | TokenBudget, whole_sets: bool, codec: Codec) -> Iterator[list[Row]]:
    """Splits the rows, in their order, into as few parts as `size` allows: a number of rows, or of padded positions.
    A part exceeds it only for a single row, or a set that must stay whole."""
    part: list[Row] = []
    for unit in sets_of(rows) if whole_sets else ([row] for row in rows):
        if part and not _fits([*part, *unit], size, codec):
            yield part
            part = []
        part = part + unit
    if part:
        yield part


def _fits(rows: Sequence[Row], size: int | TokenBudget, codec: Codec) -> bool:
    if isinstance(size, int):
        return len(rows) <= size
    return len(rows) * max(length_of(row, codec) for row in rows) <= size.positions


def length_of(row: Row, codec: Codec) -> int:
    """Returns the positions of a row in a forward pass: all its tokens except the last, which is only predicted."""
    return len(codec.prompt(row.example)) + len(row.context) + len(row.tokens) - 1


def by_length(rows: Sequence[Row], codec: Codec) -> list[Row]:
    """Sorts rows by length, the longest first (so that a lack of memory shows at once); neighbouring rows of one
    image stay neighbours. Every sum over a batch stays the same, except for rounding."""
    return [
        row
        for unit in sorted(sets_of(rows), key=lambda unit: -max(length_of(row, codec) for row in unit))
        for row in unit
    ]


def padding_of(batch: TargetBatch, rows: Sequence[Row], codec: Codec) -> tuple[int, int]:
    """Returns how many positions of a batch are padding, and the number of all positions."""
    used = sum(length_of(row, codec) for row in rows)
    return batch.inputs.numel() - used, batch.inputs.numel()


def images_of(rows: Sequence[Row], pixels: Pixels) -> Tensor:
    """Returns one image for each row, or one for each image where the rows are rated and each image has equally many;
    neighbouring rows of one image read it once."""
    sets = sets_of(rows)
    if rows[0].advantage is not None and len({len(group) for group in sets}) == 1:
        return pixels([group[0].example for group in sets])
    sizes = torch.tensor([len(group) for group in sets])
    return pixels([group[0].example for group in sets]).repeat_interleave(sizes, dim=0)


def batch_of(rows: Sequence[Row], adapter: Adapter) -> TargetBatch:
    prompts = [(*adapter.codec.prompt(row.example), *row.context) for row in rows]
    return target_batch([row.tokens for row in rows], adapter.codec, prompts)


def members_of(rows: Sequence[Row], device: torch.device) -> Members:
    sets = [index for index, group in enumerate(sets_of(rows)) for _ in group]
    return Members(
        set=torch.tensor(sets, device=device),
        sampled=torch.tensor([row.sampled for row in rows], device=device),
        cost=torch.tensor([row.cost for row in rows], device=device),
        correction=torch.tensor([row.correction for row in rows], device=device),
    )


def rated_of(rows: Sequence[Row], device: torch.device) -> Rated | None:
    """Returns the ratings at the target positions."""
    if rows[0].advantage is None:
        return None
    advantage = torch.cat([torch.full((len(row.tokens),), row.advantage or 0.0) for row in rows])
    before, reference = _joined([row.before for row in rows]), _joined([row.reference for row in rows])
    return Rated(advantage.to(device), before, reference)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def weights_of(
    by_kind: Mapping[str, float], kinds: Tensor, counted: Tensor | None, device: torch.device
) -> Tensor | None:
    """Returns the weight of each target position [N]: that of its kind, but 0 where it is not counted; None where all
    are 1."""
    if not by_kind and counted is None:
        return None
    weights = torch.tensor([by_kind.get(kind, 1.0) for kind in KINDS])[kinds]
    return (weights if counted is None else weights * counted).to(device)


def counted(rows: Sequence[Row], codec: Codec) -> Tensor | None:
    """Flags the target positions [N] that count; None where all do."""
    if not codec.noise_objects:
        return None
    return torch.tensor([counts for row in rows for counts in codec.counted(row.tokens)])
