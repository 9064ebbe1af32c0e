"""Initialises the embeddings of new location tokens as points on a smooth curve, so that neighbours start alike and
distant locations do not. A model could not distinguish equal rows until training had separated them.

Shape legend: N rows of tokens that were there   M new rows, one for each location in order   D width
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WAVES = 8
"""Number of frequencies of the curve: the fastest has four periods from the first location to the last."""


def location_curve(rows: Tensor, count: int) -> Tensor:
    """Returns M = `count` rows [M, D] on a curve around the mean of `rows` [N, D].

    The curve is a sum of cosines and sines of the place in fixed random directions; its distance from the mean is, in
    each dimension, about that of an existing row. It is always the same, and does not use torch's random generator.
    """
    generator = torch.Generator().manual_seed(0)
    place = torch.linspace(0, math.pi, count)[:, None] * torch.arange(1, WAVES + 1)
    waves = torch.cat([place.cos(), place.sin()], dim=1) / math.sqrt(WAVES)  # [M, 2 * WAVES], rows of length 1
    directions = torch.randn(2 * WAVES, rows.shape[1], generator=generator)
    spread = rows.float().std(0, correction=0).cpu()
    curve: Tensor = rows.float().mean(0) + (waves @ (directions * spread)).to(rows.device)
    return curve.to(rows.dtype)
