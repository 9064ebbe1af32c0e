"""Applies the grammar of a format to many rows at once: it masks the tokens that may not follow in each row.

The mask of a state is made once and stored as a row of a table on the device; states with the same continuations
share it. For every row and token only the state must be found.

Shape legend: R rows   V vocabulary   M masks that are known
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from harness.sequence import Codec, Grammar, State


class GrammarMasks:
    """Masks of a codec's grammar for rows that all begin at the start; they are made when they are first needed."""

    def __init__(self, codec: Codec, rows: int) -> None:
        self._grammar = Grammar(codec)
        self._states = [Grammar.START] * rows
        self._keys: list[Hashable] = [Grammar.START] * rows
        self._table_rows: dict[Hashable, int] = {}
        self._table: Tensor | None = None  # [M, V]

    def apply(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        """Masks the logits [R, V] of the tokens that may not follow in these rows."""
        for row in rows:
            if self._keys[row] not in self._table_rows:
                self._add(self._keys[row], self._grammar.allowed(self._states[row]), logits)
        assert self._table is not None
        chosen = torch.tensor([self._table_rows[self._keys[row]] for row in rows], device=logits.device)
        return logits.masked_fill(~self._table[chosen], -torch.inf)

    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Advances each of these rows by an allowed token."""
        for row, token in zip(rows, tokens, strict=True):
            state: State = self._grammar.advance(self._states[row], token)
            self._states[row], self._keys[row] = self._grammar.simplify(state)

    def _add(self, key: Hashable, allowed: frozenset[int], like: Tensor) -> None:
        """Adds a row to the table, which grows by half when it is full."""
        count = len(self._table_rows)
        if self._table is None or count == len(self._table):
            larger = torch.zeros(max(16, count + count // 2), like.shape[1], dtype=torch.bool, device=like.device)
            if self._table is not None:
                larger[:count] = self._table
            self._table = larger
        self._table[count, torch.tensor(sorted(allowed), device=like.device)] = True
        self._table_rows[key] = count
