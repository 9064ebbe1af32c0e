"""The name under which transformers takes and returns a model's key-value cache.

It was `past_key_values` up to 5.23; since 5.24 it is `cache`, and 5.40 removes the old name.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE = next(field.name for field in fields(BaseModelOutputWithPast) if field.name in ("cache", "past_key_values"))
"""What the installed transformers calls it, read from one of its own declarations."""


def cache_of(output: Any) -> Any:
    """Return the cache that a forward pass has left in its output."""
    return getattr(output, CACHE)
