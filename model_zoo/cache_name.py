"""transformers' key-value cache: the name under which a model takes and returns it, and one that autocast reaches.

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
"""What the installed transformers calls it, read from one of its own declarations."""


def cache_of(output: Any) -> Any:
    """Return the cache that a forward pass has left in its output."""
    return getattr(output, CACHE)


class AutocastCache(DynamicCache):
    """A cache that holds keys and values as autocast computes with them. Rotations by place are computed in float32,
    and what they leave would fill twice the memory and be rounded again for every token."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        device = key_states.device.type
        if torch.is_autocast_enabled(device):
            kind = torch.get_autocast_dtype(device)
            key_states, value_states = key_states.to(kind), value_states.to(kind)
        return super().update(key_states, value_states, *args, **kwargs)
