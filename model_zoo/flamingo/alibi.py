"""MPT's attention over trees of tokens. Its places are no embedding but a bias by the distance of two tokens (ALiBi:
Press et al., ICLR 2022), which transformers takes from where keys stand in the row: in a tree they stand elsewhere.

Shape legend: R rows   L tokens   H heads   D width
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.models.mpt.modeling_mpt import MptAttention


class AlibiAttention(MptAttention):
    """transformers' own attention, but where `places` [R, L] of the tokens are set."""

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
        # A bias that all keys of a query share changes nothing: the key's own place will do for the distance.
        bias = slopes * (self.places - self.places.amax(1, keepdim=True))[:, None, None]  # [R, H, 1, L]
        scores = queries @ keys.transpose(-1, -2) * self.softmax_scale + bias
        scores = scores.float().masked_fill(rest["attention_mask"], float("-inf"))
        weights = scores.softmax(-1).to(values.dtype)
        read = (weights @ values).transpose(1, 2).flatten(2)
        return self.out_proj(read), weights


def take_places(language: nn.Module) -> None:
    """Makes every attention of MPT one whose places can be set; the weights stay."""
    for module in language.modules():
        if type(module) is MptAttention:
            module.__class__ = AlibiAttention


@contextmanager
def reading_trees(layers: Sequence[AlibiAttention], places: Tensor) -> Iterator[None]:
    """In the block, these layers' tokens stand at these places [R, L]."""
    for layer in layers:
        layer.places = places
    try:
        yield
    finally:
        for layer in layers:
            layer.places = None
