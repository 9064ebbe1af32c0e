"""Builds vision towers for OpenFlamingo: those of open_clip, and any timm backbone."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.model import _build_vision_tower
from open_clip.transformer import VisionTransformer
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from harness import images
from harness.errors import DataError
from harness.inference.outline import makes_outlines
from harness.types import Example
from model_zoo import checkpoint, timm_tower
from model_zoo.settings.open_flamingo_hf import TIMM
from model_zoo.settings.open_flamingo_hf import TOY_VISION as TOY
from model_zoo.timm_tower import TimmTower

STRIDE = 16
"""Pixels between neighbouring tokens of a timm backbone."""
CLIP_FILE = "open_clip_model.safetensors"
"""File name of the weights in open_clip's repositories."""
MEAN, STD = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)


class Tower(nn.Module):
    """A vision tower in upstream's form: it returns a pair whose second part are the tokens [B, n, C]."""

    def __init__(self, body: TimmTower) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: Tensor) -> tuple[None, Tensor]:
        return None, self.body(pixels)


@dataclass(frozen=True, slots=True)
class Vision:
    """A vision tower. width: of its tokens. side: of the square images that it reads. file: its weights, or None."""

    tower: nn.Module
    width: int
    side: int
    file: Path | None

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        """Returns [B, 3, S, S] in the form of the tower's weights; the image is squeezed to a square instead of
        cropped as upstream does, so that everything is visible; coordinates are normalised."""
        if isinstance(self.tower, Tower):
            return self.tower.body.pixels(examples)
        side = (self.side, self.side)
        squares = [images.read(example).resize(side, Image.Resampling.BICUBIC) for example in examples]
        raw = torch.from_numpy(np.stack([np.asarray(square) for square in squares]))  # [B, S, S, 3] uint8
        return ((raw.float() / 255 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()


def problems(name: object) -> list[str]:
    """Says what is wrong with the name of a vision tower, read from the lists of open_clip and timm alone."""
    if not isinstance(name, str) or name == TOY or _is_transformer(name):
        return []
    if name.startswith(TIMM):
        return timm_tower.problems(name.removeprefix(TIMM))
    close = difflib.get_close_matches(name, filter(_is_transformer, open_clip.list_models()), n=1)
    hint = f", did you mean {close[0]!r}?" if close else ";"
    return [f"unknown vision {name!r}{hint} expected {TOY!r}, a ViT of open_clip.list_models() or {TIMM}NAME"]


def build(name: str, weights: str, image_size: int) -> Vision:
    """Builds the tower with its weights: "random", a safetensors file, or hub:OWNER/NAME@REVISION."""
    if name.startswith(TIMM):
        body = TimmTower(name.removeprefix(TIMM), image_size, STRIDE, weights)
        return Vision(Tower(body), body.width, image_size, body.file)
    if name == TOY:
        return Vision(_toy(), 64, 64, None)
    config = open_clip.get_model_config(name)
    options = {**config["vision_cfg"], "output_tokens": True}
    tower: Any = _build_vision_tower(config["embed_dim"], options, config.get("quick_gelu", False))
    file = None if makes_outlines() else timm_tower.weights_file(weights, CLIP_FILE)
    if file is not None:
        checkpoint.load(tower, _clip_weights(file))
    return Vision(tower, options["width"], options["image_size"], file)


def _is_transformer(name: str) -> bool:
    config = open_clip.get_model_config(name)
    return config is not None and isinstance(config["vision_cfg"].get("layers"), int)


def _toy() -> nn.Module:
    tower: nn.Module = VisionTransformer(
        image_size=64, patch_size=8, width=64, layers=2, heads=4, mlp_ratio=2.0, output_dim=64, output_tokens=True
    )
    return tower


def _clip_weights(file: Path) -> dict[str, Tensor]:
    """Returns the image half of a CLIP model: tensors whose names begin with `visual.`, or all if none does."""
    try:
        tensors = load_file(file)
    except FileNotFoundError:
        raise DataError(f"{file}: no such weights file") from None
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file}: expected a safetensors file, got: {error}") from None
    return {name[len("visual.") :]: t for name, t in tensors.items() if name.startswith("visual.")} or tensors
