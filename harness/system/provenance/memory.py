"""Measures the largest memory use of a cell, where that is possible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.system.timing import peak_rss, reset_peak_rss

if TYPE_CHECKING:
    import torch


class PeakMemory:
    """Measures the largest memory use of a cell, from the moment this is made.

    It can be measured only for the first cell that a process computes, and only if the process computes all of it:
    earlier work leaves memory behind that cannot be separated from that of the cell. The same cell took 1,210 MiB or
    1,375, depending on the cells before it.
    """

    _taken = False
    """Whether this process has begun to compute a cell."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._alone = not PeakMemory._taken
        PeakMemory._taken = True
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            reset_peak_rss()

    def read(self, from_the_start: bool) -> float | None:
        """Returns MiB: the memory allocated on a GPU, elsewhere that of the process; None where it would include
        other work. from_the_start: whether this process has computed all of the cell."""
        if not (self._alone and from_the_start):
            return None
        if self._device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() / 2**20
        return peak_rss()
