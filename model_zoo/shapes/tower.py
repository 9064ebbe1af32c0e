"""What a timm backbone is made of, for what it costs (harness.inference.outline)."""

from __future__ import annotations

from torch import nn

from harness.inference.outline import NetworkPart, convolution_parts, leaves, part_of
from model_zoo.timm_tower import TimmTower


def timm_parts(tower: TimmTower) -> tuple[int, list[NetworkPart]]:
    """How many tokens it makes of an image, and its parts: convolutions by the positions that each puts out, and the
    rest at its tokens (the attention of a transformer is left out: it is small beside its matrices)."""
    places = tower.grid[0] * tower.grid[1]
    rest = [item for item in leaves(tower.body) if not isinstance(item, nn.Conv2d)]
    return places, [
        *convolution_parts("backbone", tower.body, tower.image_size),
        part_of("backbone", "image", places, rest),
    ]
