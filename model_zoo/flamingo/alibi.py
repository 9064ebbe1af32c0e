"""Extends MPT's attention to trees of tokens. Its positions are a bias by the distance of two tokens (ALiBi: Press et
al., ICLR 2022), which transformers derives from the places of keys in the row; in a tree these differ from their
positions.

Shape legend: R rows   L tokens   H heads   D width
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.models.mpt.modeling_mpt import MptAttention


class AlibiAttention(MptAttention):
    """transformers' attention, with another bias where `places` [R, L] of the tokens are set."""

    places: Tensor | None = None

    def forward(self, hidden_states: Tensor, position_bias: Tensor, **rest: Any) -> Any:
        """position_bias [H, 1, positions]: each head's slope times a place, counted from the last one."""
        if self.places is None:
            return super().forward(hidden_states, position_bias, **rest)
        projected = self.Wqkv(hidden_states)
        if self.clip_qkv:
            projected = projected.clamp(min=-self.clip_qkv, max=self.clip_qkv)
        queries, keys, values = (
            part.unflatten(2, (self.n_heads, self.head_dim)).transpose(1, 2) for part in projected.chunk(3, dim=2)
        )
        slopes = position_bias[:, :, -1:] - position_bias[:, :, -2:-1]  # [H, 1, 1]
        # A bias that all keys of a query share changes nothing, so the key's place replaces the distance.
        bias = slopes * (self.places - self.places.amax(1, keepdim=True))[:, None, None]  # [R, H, 1, L]
        scores = queries @ keys.transpose(-1, -2) * self.softmax_scale + bias
        scores = scores.float().masked_fill(rest["attention_mask"], float("-inf"))
        weights = scores.softmax(-1).to(values.dtype)
        read = (weights @ values).transpose(1, 2).flatten(2)
        return self.out_proj(read), weights


def take_places(language: nn.Module) -> None:
    """Replaces every attention of MPT by one whose places can be set; the weights are unchanged."""
    for module in language.modules():
        if type(module) is MptAttention:
            module.__class__ = AlibiAttention


@contextmanager
def reading_trees(layers: Sequence[AlibiAttention], places: Tensor) -> Iterator[None]:
    """Sets the places [R, L] of these layers' tokens while the block runs."""
    for layer in layers:
        layer.places = places
    try:
        yield
    finally:
        for layer in layers:
            layer.places = None
