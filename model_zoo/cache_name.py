"""transformers' key-value cache: the name under which a model takes and returns it, and one that autocast reaches and
whose rows may have come to different lengths.

It was `past_key_values` up to 5.23; since 5.24 it is `cache`, and 5.40 removes the old name.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE = next(field.name for field in fields(BaseModelOutputWithPast) if field.name in ("cache", "past_key_values"))
"""The name in the installed transformers, read from one of its declarations."""


def cache_of(output: Any) -> Any:
    """Returns the cache from the output of a forward pass."""
    return getattr(output, CACHE)


class AutocastCache(DynamicCache):
    """A cache that stores keys and values in the type of autocast. Rotary embeddings are computed in float32, and
    their results would take twice the memory and be rounded again for every token.

    Rows of several lengths end in the same column: the columns before a shorter row are not to be seen.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        device = key_states.device.type
        if torch.is_autocast_enabled(device):
            kind = torch.get_autocast_dtype(device)
            key_states, value_states = key_states.to(kind), value_states.to(kind)
        return super().update(key_states, value_states, *args, **kwargs)

    def keep_columns(self, count: int) -> None:
        """Forgets all columns but the last ones."""
        for layer in self._filled():
            layer.keys, layer.values = layer.keys[:, :, -count:], layer.values[:, :, -count:]

    def append_rows(self, other: AutocastCache) -> None:
        """Takes the rows of another cache in, after its own."""
        for layer, new in zip(self._filled(), other._filled(), strict=True):
            layer.keys, layer.values = _joined(layer.keys, new.keys), _joined(layer.values, new.values)

    def _filled(self) -> list[Any]:
        """The layers, each with keys and values [R, H, L, D]."""
        layers: Any = self.layers
        return [layer for layer in layers if layer.keys is not None]


def _joined(rows: Tensor, others: Tensor) -> Tensor:
    """[R, H, L, D] and [R', H, L', D] as one; nothing stands before what is shorter."""
    length = max(rows.shape[2], others.shape[2])
    joined = rows.new_zeros(len(rows) + len(others), rows.shape[1], length, rows.shape[3])
    joined[: len(rows), :, length - rows.shape[2] :] = rows
    joined[len(rows) :, :, length - others.shape[2] :] = others
    return joined
