"""Adds rows for new tokens to a vocabulary as separate parameters, so that they can be trained alone.

Masking the gradient would not suffice, as weight decay moves rows without a gradient too.

Shape legend: N rows that were there   M new rows   D width
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import ConfigError
from model_zoo.location_rows import location_curve


class Rows(nn.Module):
    """`kept` [N, D] and, below them, `added` [M, D], which start as the mean of the kept ones; the last `locations` of
    them as points on a curve around it (see `model_zoo.location_rows`)."""

    def __init__(self, weight: Tensor, added: int, locations: int = 0) -> None:
        super().__init__()
        self.kept = nn.Parameter(weight.detach().clone())
        self.added = nn.Parameter(torch.empty(added, weight.shape[1]))
        self._locations = locations
        if not weight.is_meta:  # an outline has nothing to start from
            self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Initialises the added rows again, from the present `kept` rows."""
        old, first = self.kept.detach(), len(self.added) - self._locations
        self.added[:first] = old.mean(0)
        self.added[first:] = location_curve(old, self._locations)

    @property
    def weight(self) -> Tensor:
        """Returns [N + M, D], a differentiable copy."""
        return torch.cat([self.kept, self.added])


class GrownEmbedding(nn.Module):
    """An input embedding of these rows, which copies nothing of the size of the vocabulary."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self.rows = rows

    @property
    def weight(self) -> Tensor:
        return self.rows.weight

    def forward(self, ids: Tensor) -> Tensor:
        count = len(self.rows.kept)
        old = F.embedding(ids.clamp(max=count - 1), self.rows.kept)
        new = F.embedding((ids - count).clamp(min=0), self.rows.added)
        return torch.where((ids < count)[..., None], old, new)


class GrownHead(nn.Module):
    """An output embedding of these rows."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self.rows = rows

    @property
    def weight(self) -> Tensor:
        return self.rows.weight

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([F.linear(hidden, self.rows.kept), F.linear(hidden, self.rows.added)], dim=-1)


def grow(language: Any, count: int, size: int, locations: int = 0) -> None:
    """Extends a language model to `size` rows: the first `count` are its present ones, the others are new, the last
    `locations` of them for locations in their order. Tied embeddings stay tied. ConfigError where it has fewer than
    `count` rows, or a bias on its output."""
    source, target = language.get_input_embeddings(), language.get_output_embeddings()
    if len(source.weight) < count:
        raise ConfigError(f"tokenizer: it has {count} entries, the language model only {len(source.weight)} rows")
    if target.bias is not None:
        raise ConfigError(f"language: expected an output embedding without bias, {type(language).__name__} has one")
    rows = Rows(source.weight[:count], size - count, locations)
    tied = target.weight is source.weight
    language.set_input_embeddings(GrownEmbedding(rows))
    language.set_output_embeddings(GrownHead(rows if tied else Rows(target.weight[:count], size - count, locations)))
