"""Where target positions stand in their sequences: for objectives whose weights depend on it.

Shape legend: N positions, S sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Counted when the first objective asks, once for a batch: most never do.

    group   [N]  int64 in [0, S): the sequence of each position; the positions of a sequence stand in its order
    target  [N]  bool: positions that are not targets are not counted
    """

    group: Tensor
    target: Tensor

    def of(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Returns `before` and `length` of these positions."""
        return self.before[rows], self.length[rows]

    @cached_property
    def before(self) -> Tensor:
        """How many targets of its sequence stand before each position, [N] int64."""
        order = torch.argsort(self.group, stable=True)
        counted = self.target[order].long()
        passed = counted.cumsum(0) - counted
        lengths = self._lengths
        of_sequence = passed - (lengths.cumsum(0) - lengths)[self.group[order]]
        return torch.empty_like(of_sequence).scatter_(0, order, of_sequence)

    @cached_property
    def length(self) -> Tensor:
        """How many targets the sequence of each position has, [N] int64, at least 1."""
        return self._lengths[self.group].clamp(min=1)

    @cached_property
    def _lengths(self) -> Tensor:
        sequences = int(self.group.max()) + 1 if len(self.group) else 0
        return torch.zeros(sequences, dtype=torch.int64, device=self.group.device).index_add(
            0, self.group, self.target.long()
        )
