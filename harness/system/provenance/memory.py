"""The largest memory use of a cell, where it can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.system.timing import peak_rss, reset_peak_rss

if TYPE_CHECKING:
    import torch


class PeakMemory:
    """Measures the largest memory use of a cell, from the moment this is made.

    It can be told only of the first cell that a process computes, and of all of that cell: what was computed before
    leaves memory behind that nobody can tell from the cell's own. The same cell took 1,210 MiB or 1,375, depending on
    the cells before it.
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
        """Returns MiB: what was allocated on a GPU, elsewhere what the process had in memory; None where that would not
        be the cell's own. from_the_start: whether this process has computed all of the cell."""
        if not (self._alone and from_the_start):
            return None
        if self._device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() / 2**20
        return peak_rss()
