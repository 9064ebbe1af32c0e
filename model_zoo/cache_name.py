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
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE = next(field.name for field in fields(BaseModelOutputWithPast) if field.name in ("cache", "past_key_values"))
"""The name in the installed transformers, read from one of its declarations."""


ROOM = 64
"""Tokens that a cache has room for when it is copied."""


def cache_of(output: Any) -> Any:
    """Returns the cache from the output of a forward pass."""
    return getattr(output, CACHE)


class AutocastCache(DynamicCache):
    """A cache that stores keys and values in the type of autocast. Rotary embeddings are computed in float32, and
    their results would take twice the memory and be rounded again for every token.

    Rows of several lengths end in the same column: the columns before a shorter row are not to be seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer_class_to_replicate = RoomyLayer

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


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # its parent has a hook for subclasses
    """Keys and values with room for the tokens that come next: transformers' own copies all of them for each token."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        # Both with the room; `keys` and `values` are their beginning.
        self._whole: tuple[Tensor, Tensor] | None = None
        self._filled: Tensor | None = None  # `keys` as they were left here: others have no room

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        before = self.get_seq_length()
        if not before:
            return super().update(key_states, value_states, *args, **kwargs)
        after = before + key_states.shape[-2]
        assert self.keys is not None
        assert self.values is not None
        if self._whole is None or self._filled is not self.keys or after > self._whole[0].shape[-2]:
            self._whole = _with_room(self.keys, after + ROOM), _with_room(self.values, after + ROOM)
        keys, values = self._whole
        keys[:, :, before:after], values[:, :, before:after] = key_states, value_states
        self.keys, self.values = keys[:, :, :after], values[:, :, :after]
        self._filled = self.keys
        return self.keys, self.values


def _with_room(tensor: Tensor, columns: int) -> Tensor:
    """[R, H, L, D] as the beginning of [R, H, columns, D]."""
    whole = tensor.new_empty(*tensor.shape[:2], columns, tensor.shape[3])
    whole[:, :, : tensor.shape[2]] = tensor
    return whole


def _joined(rows: Tensor, others: Tensor) -> Tensor:
    """[R, H, L, D] and [R', H, L', D] as one; nothing stands before what is shorter."""
    length = max(rows.shape[2], others.shape[2])
    joined = rows.new_zeros(len(rows) + len(others), rows.shape[1], length, rows.shape[3])
    joined[: len(rows), :, length - rows.shape[2] :] = rows
    joined[len(rows) :, :, length - others.shape[2] :] = others
    return joined
