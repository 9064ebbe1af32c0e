"""Caches pictures in a model's form: an evaluation reads the same ones to generate and to score.

In: an adapter and examples. Out: the result of the adapter's `pixels`, computed once as long as the cache has room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from threading import Lock
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from harness.types import Example

ROOM = 256 * 2**20
"""Bytes of pixels that are cached for an adapter; the least recently used pictures are dropped first."""


class ReadsPictures(Protocol):
    """The part of an adapter that is needed here."""

    def pixels(self, examples: Sequence[Example]) -> Tensor: ...


class _PictureCache:
    """Pixels [3, H, W] by picture, the latest last."""

    def __init__(self) -> None:
        self.pictures: OrderedDict[Hashable, Tensor] = OrderedDict()
        self.size = 0
        self.lock = Lock()  # several threads may ask at once

    def add(self, key: Hashable, pixels: Tensor) -> None:
        if key not in self.pictures:
            self.pictures[key] = pixels
            self.size += pixels.nbytes
        while self.size > ROOM:
            _, oldest = self.pictures.popitem(last=False)
            self.size -= oldest.nbytes

    def get(self, key: Hashable) -> Tensor | None:
        if key in self.pictures:
            self.pictures.move_to_end(key)
        return self.pictures.get(key)


_caches: WeakKeyDictionary[ReadsPictures, _PictureCache] = WeakKeyDictionary()


def read_pixels(adapter: ReadsPictures, examples: Sequence[Example]) -> Tensor:
    """Returns `adapter.pixels(examples)`, [B, 3, H, W] on the CPU: do not change it. A cached picture is not read
    again."""
    cache = _caches.setdefault(adapter, _PictureCache())
    keys = [(example.image_id, example.path, example.width, example.height) for example in examples]
    with cache.lock:
        cached = {key: cache.get(key) for key in keys}
        missing = {key: example for key, example in zip(keys, examples, strict=True) if cached[key] is None}
        if missing:
            for key, pixels in zip(missing, adapter.pixels(list(missing.values())), strict=True):
                cached[key] = pixels
                cache.add(key, pixels.clone())  # no view, which would keep its whole batch in memory
    return torch.stack([pixels for pixels in map(cached.get, keys) if pixels is not None])
