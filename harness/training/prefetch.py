"""Prepares the pixels of the next images in threads while the model trains.

Reading a picture is decoding and resizing, which release the interpreter's lock, so threads suffice.
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
"""Default number of threads. `detmodes speed runner` shows what they save."""


class Loader:
    """A Pixels for images in the order of `coming`; at most `ahead` images are read before they are requested.

    An image that is repeated in `coming` is read once; it may be requested again until the next one is. Images are
    read one by one, so that their pixels depend neither on `pool` (None: the calling thread reads on request) nor on
    how a batch is split.
    """

    def __init__(self, pixels: Pixels, coming: Iterable[Example], pool: ThreadPoolExecutor | None, ahead: int) -> None:
        self._pixels, self._pool, self._ahead = pixels, pool, ahead
        self._coming = (next(same) for _, same in groupby(coming, key=lambda example: example.image_id))
        self._begun: deque[tuple[int, Callable[[], Tensor]]] = deque()
        self._last = -1, torch.empty(0)
        self._begin()

    def __call__(self, examples: Sequence[Example]) -> Tensor:
        """Returns [B, 3, H, W]. Raises the error of reading one of these images; ValueError for an image that is not
        the next."""
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
        """Starts reading as many images as allowed."""
        for example in islice(self._coming, self._ahead - len(self._begun)):
            read = partial(self._pixels, [example])
            self._begun.append((example.image_id, read if self._pool is None else self._pool.submit(read).result))


@contextmanager
def loading(pixels: Pixels, coming: Iterable[Example], workers: int, ahead: int) -> Iterator[Loader]:
    """Yields a Loader with this many threads, which end with the block in any case."""
    if not workers:
        yield Loader(pixels, coming, None, ahead)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pixels")
    try:
        yield Loader(pixels, coming, pool, ahead)
    finally:
        pool.shutdown(cancel_futures=True)
