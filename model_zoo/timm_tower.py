"""Makes a vision tower of any timm backbone: an image in, its features as a row of tokens out.

Nothing in it depends on the rest of the batch, nor on whether it trains: batch normalisation is replaced by group
normalisation where weights are random, and its statistics are fixed where they come from a file (as in DETR).

Shape legend: B images   S image side   C channels   h, w feature map   n = h * w tokens   D width
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.norm_act import BatchNormAct2d, freeze_batch_norm_2d
from torch import Tensor, nn

from harness import images
from harness.errors import ConfigError, DataError
from harness.inference.outline import makes_outlines
from harness.types import Example
from model_zoo.settings.sources import HUB

WEIGHTS_FILE = "model.safetensors"
"""File name of the weights in timm's repositories; files of other kinds are not read, as they would be unpickled."""
GROUPS = 16
"""Groups of a group normalisation that replaces a batch normalisation, if they divide its channels."""


class TimmTower(nn.Module):
    """Images [B, 3, S, S] -> tokens [B, n, C], row by row: the last feature map whose stride is at most `stride`.

    `weights`: "random", a safetensors file, or "hub:OWNER/NAME@REVISION". Layers after that feature map are left out.
    `grid` is (h, w), `width` is C, `file` the weights on this machine or None. Raises ConfigError where backbone,
    image size and stride do not match, DataError where the weights do not fit.
    """

    def __init__(self, backbone: str, image_size: int, stride: int, weights: str) -> None:
        super().__init__()
        self.image_size, self.file = image_size, None if makes_outlines() else weights_file(weights)
        config: Any = timm.get_pretrained_cfg(backbone)
        sized: dict[str, Any] = {"img_size": image_size} if config.fixed_input_size else {}
        outline = _Outline(backbone, image_size, stride, sized)
        self.width, self.grid = outline.width, outline.grid
        features = timm.create_model(backbone, **outline.features, **_pretrained(self.file, backbone, outline.shapes))
        self.body: nn.Module = _with_group_norm(features) if self.file is None else freeze_batch_norm_2d(features)  # type: ignore[no-untyped-call]
        self._mean, self._std = torch.tensor(config.mean), torch.tensor(config.std)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.body(pixels)[-1]  # [B, C, h, w]
        return features.flatten(2).transpose(1, 2)

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        """Returns [B, 3, S, S] float32 on the CPU, normalised for the backbone's weights; the image is squeezed to a
        square, as coordinates are normalised."""
        sides = (self.image_size, self.image_size)
        squares = [images.read(example).resize(sides, Image.Resampling.BILINEAR) for example in examples]
        raw = torch.from_numpy(np.stack([np.asarray(square) for square in squares]))  # [B, S, S, 3] uint8
        return ((raw.float() / 255 - self._mean) / self._std).permute(0, 3, 1, 2).contiguous()


def problems(backbone: object) -> list[str]:
    """Says what is wrong with the name of a backbone, read from timm's list of names alone."""
    lines = []
    if not isinstance(backbone, str) or not timm.is_model(backbone):
        close = difflib.get_close_matches(str(backbone), timm.list_models(), n=1)
        hint = f", did you mean {close[0]!r}?" if close else ";"
        lines.append(f"unknown timm model {backbone!r}{hint} timm.list_models() names all of them")
    return lines


def weights_file(weights: str, file: str = WEIGHTS_FILE) -> Path | None:
    """Returns the file of the weights on this machine, after downloading it if necessary; None for random ones. file:
    its name in the repository."""
    if weights == "random":
        return None
    if not weights.startswith(HUB):
        return Path(weights)
    name, _, revision = weights.removeprefix(HUB).partition("@")
    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(f"{weights}: cannot be downloaded ({_first_line(error)}); give a file instead") from None


@lru_cache(maxsize=8)
def position_encoding(height: int, width: int, channels: int) -> Tensor:
    """Returns sines and cosines of each token's place, [height * width, channels]: the first half of the channels is
    for y, the second for x. Wavelengths go from four times the image down to two tokens.

    channels: a multiple of 4.
    """
    sides = []
    for side, count in ((0, height), (1, width)):
        place = (torch.arange(count) + 0.5) / count
        frequency = 2 * math.pi * torch.logspace(-2, math.log2(max(count / 2, 1)), channels // 4, base=2)
        angle = place[:, None] * frequency
        waves = torch.cat([angle.sin(), angle.cos()], dim=1)  # [count, channels / 2]
        shape = (height, width, channels // 2)
        sides.append((waves[:, None] if side == 0 else waves[None]).expand(shape))
    return torch.cat(sides, dim=-1).flatten(0, 1)


# ---- building ------------------------------------------------------------------------------------------------------


class _Outline:
    """A backbone without storage: its tensors, and the shape of its output.

    features  arguments that make timm build it up to the chosen feature map
    width     C of that map
    grid      its (h, w)
    shapes    of all tensors of the whole backbone, by name
    """

    def __init__(self, backbone: str, image_size: int, stride: int, sized: Mapping[str, Any]) -> None:
        size = f"image_size {image_size}, stride {stride}"
        try:
            with torch.device("meta"):
                whole: Any = timm.create_model(backbone, num_classes=0, **sized)
                strides = [stage["reduction"] for stage in whole.feature_info]
                fitting = [index for index, stride_of_map in enumerate(strides) if stride_of_map <= stride]
                if not fitting:
                    raise ConfigError(f"stride: expected at least {min(strides)} for {backbone}, got {stride}")
                self.features: dict[str, Any] = dict(
                    sized, features_only=True, feature_cls="getter", out_indices=fitting[-1:]
                )
                shown = timm.create_model(backbone, **self.features)(torch.empty(1, 3, image_size, image_size))[-1]
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(f"timm's {backbone} gives no features at {size} ({_first_line(error)})") from None
        self.shapes = {name: tuple(tensor.shape) for name, tensor in whole.state_dict().items()}
        self.width: int = shown.shape[1]
        self.grid: tuple[int, int] = tuple(shown.shape[2:])
        if min(self.grid) * strides[fitting[-1]] < image_size:
            expected = f"a multiple of {strides[fitting[-1]]}, so that the edges are seen"
            raise ConfigError(f"image_size: {backbone} expects {expected}, got {image_size}")


def _pretrained(file: Path | None, backbone: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Returns arguments that make timm load this file. timm ignores missing tensors; here they raise an error."""
    if file is None:
        return {}
    try:
        state = load_file(file)
    except FileNotFoundError:
        raise DataError(f"{file}: no such weights file") from None
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file}: expected a safetensors file, got: {_first_line(error)}") from None
    missing = [f"{name} missing" for name in shapes if name not in state]
    # Position embeddings may come from another image size: timm resamples them.
    other = [
        f"{name}: expected {shape}, got {tuple(state[name].shape)}"
        for name, shape in shapes.items()
        if name in state and state[name].shape != shape and "pos" not in name
    ]
    if missing or other:
        raise DataError(f"{file}: does not fit timm's {backbone}: {'; '.join((missing + other)[:10])}")
    return {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}


def _with_group_norm(module: nn.Module) -> nn.Module:
    """Replaces every batch normalisation by a group normalisation of the same scale and shift."""
    for name, child in module.named_children():
        module.add_module(name, _group_norm(child) if isinstance(child, nn.BatchNorm2d) else _with_group_norm(child))
    return module


def _group_norm(norm: nn.BatchNorm2d) -> nn.Module:
    made = nn.GroupNorm(math.gcd(GROUPS, norm.num_features), norm.num_features, norm.eps)
    made.load_state_dict({"weight": norm.weight, "bias": norm.bias})  # timm initialises some with 0
    return nn.Sequential(made, norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else made


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
