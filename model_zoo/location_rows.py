"""Where the embeddings of new location tokens start: as points on a smooth curve, so that neighbours begin alike and
places that are far apart do not. Equal rows could not be told apart by a model until training had parted them.

Shape legend: N rows of tokens that were there   M new rows, one for each location in order   D width
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WAVES = 8
"""Frequencies of the curve: the fastest goes back and forth four times from the first location to the last."""


def location_curve(rows: Tensor, count: int) -> Tensor:
    """Returns M = `count` rows [M, D] on a curve around the mean of `rows` [N, D].

    A sum of cosines and sines of the place in fixed random directions; its distance from the mean is, in each
    dimension, about that of a row that was there. The same each time, and no random number of torch's is used up.
    """
    generator = torch.Generator().manual_seed(0)
    place = torch.linspace(0, math.pi, count)[:, None] * torch.arange(1, WAVES + 1)
    waves = torch.cat([place.cos(), place.sin()], dim=1) / math.sqrt(WAVES)  # [M, 2 * WAVES], rows of length 1
    directions = torch.randn(2 * WAVES, rows.shape[1], generator=generator)
    spread = rows.float().std(0, correction=0).cpu()
    curve: Tensor = rows.float().mean(0) + (waves @ (directions * spread)).to(rows.device)
    return curve.to(rows.dtype)
