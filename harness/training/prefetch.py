"""Pixels of the images that training comes to next, prepared by threads while the model trains.

Reading a picture is decoding and resizing, which release the interpreter's lock: threads will do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import groupby, islice

import torch
from torch import Tensor

from harness.types import Example

Pixels = Callable[[Sequence[Example]], Tensor]
"""harness.protocols.Adapter.pixels: model-ready images [B, 3, H, W] on the CPU."""
WORKERS = 2
"""Threads by default. `detmodes speed runner` shows what they save."""


class Loader:
    """A Pixels for images in the order of `coming`; at most `ahead` images are read before they are asked for.

    Neighbours in `coming` that are one image are read once; it may be asked for again until the next one is. Every
    image is read on its own, so that what it becomes does not depend on `pool` (None: the calling thread reads, when it
    is asked) nor on how a batch is split.
    """

    def __init__(self, pixels: Pixels, coming: Iterable[Example], pool: ThreadPoolExecutor | None, ahead: int) -> None:
        self._pixels, self._pool, self._ahead = pixels, pool, ahead
        self._coming = (next(same) for _, same in groupby(coming, key=lambda example: example.image_id))
        self._begun: deque[tuple[int, Callable[[], Tensor]]] = deque()
        self._last = -1, torch.empty(0)
        self._begin()

    def __call__(self, examples: Sequence[Example]) -> Tensor:
        """[B, 3, H, W]. Raises what reading one of these images raised; ValueError for one that is not the next."""
        return torch.cat([self._one(example.image_id) for example in examples])

    def _one(self, image_id: int) -> Tensor:
        if image_id == self._last[0]:
            return self._last[1]
        if not self._begun or image_id != self._begun[0][0]:
            raise ValueError(f"image {image_id} is not the next one that was announced")
        _, read = self._begun.popleft()
        self._begin()
        self._last = image_id, read()
        return self._last[1]

    def _begin(self) -> None:
        """As many as there may be."""
        for example in islice(self._coming, self._ahead - len(self._begun)):
            read = partial(self._pixels, [example])
            self._begun.append((example.image_id, read if self._pool is None else self._pool.submit(read).result))


@contextmanager
def loading(pixels: Pixels, coming: Iterable[Example], workers: int, ahead: int) -> Iterator[Loader]:
    """A Loader with so many threads, which have ended when the block has, however it does."""
    if not workers:
        yield Loader(pixels, coming, None, ahead)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pixels")
    try:
        yield Loader(pixels, coming, pool, ahead)
    finally:
        pool.shutdown(cancel_futures=True)
