"""Qwen2.5-VL (Bai et al., 2025; arXiv 2502.13923) and Qwen3-VL: JSON,
`[{"bbox_2d": [x0, y0, x1, y1], "label": "sofa"}]` in pixels of the resized image (2.5) or thousandths
of its sides (3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, Qwen2_5_VLConfig, Qwen3VLConfig

from harness.sequence import CoordinateSpace, JsonFormat, PixelSpace, TokenizerTokens
from model_zoo.vlm.family import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    HEADS,
    LAYERS,
    SIZES,
    WIDTH,
    Family,
    ImagePrompt,
    ImageStates,
    Inputs,
)


def patches(pixels: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """Converts images [B, 3, S, S] to rows of pixels, [B * (S / patch)^2, 3 * frames * patch^2]: patches that are
    merged are neighbours, and a still picture is `frames` equal frames."""
    down, across = (side // (merge * patch) for side in pixels.shape[2:])
    pieces = pixels.reshape(len(pixels), 3, down, merge, patch, across, merge, patch)
    pieces = pieces.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [B, down, across, merge, merge, 3, patch, patch]
    return pieces.flatten(0, 4)[:, :, None].expand(-1, -1, frames, -1, -1).flatten(1)


def rope_places(prompt: ImagePrompt, length: int, device: torch.device) -> Tensor:
    """Returns positions [3, length] in time, down and across. The image is a square at one time; the text after it
    continues from its far corner."""
    side = math.isqrt(prompt.images)
    places = torch.arange(length, device=device)
    piece = places - prompt.start
    square = torch.stack([torch.zeros_like(piece), piece // side, piece % side]) + prompt.start
    after = torch.where(piece < 0, places, places - prompt.images + side)
    return torch.where(prompt.is_image(length, device), square, after)


def _qwen_first(model: Any, prompt: ImagePrompt, pixels: Tensor, tokens: Tensor) -> Inputs:
    vision = model.config.vision_config
    rows = patches(pixels, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
    grid = [1, *(side // vision.patch_size for side in pixels.shape[2:])]
    return {
        "pixel_values": rows,
        "image_grid_thw": torch.tensor([grid] * len(pixels), device=tokens.device),
        "input_ids": tokens,
        "position_ids": rope_places(prompt, tokens.shape[1], tokens.device)[:, None].expand(-1, len(tokens), -1),
    }


def _qwen_next(model: Any, prompt: ImagePrompt, image_states: ImageStates, tokens: Tensor, past: int) -> Inputs:
    del model, image_states
    first = past - prompt.images + math.isqrt(prompt.images)
    places = torch.arange(first, first + tokens.shape[1], device=tokens.device)
    return {"input_ids": tokens, "position_ids": places.expand(3, *tokens.shape)}


def _qwen_tree(prompt: ImagePrompt, places: Tensor, sees: Tensor) -> Inputs:
    after = places - prompt.images + math.isqrt(prompt.images)
    return {"position_ids": after.expand(3, -1, -1), "attention_mask": sees}


def _qwen_toy(
    make: Callable[..., PreTrainedConfig], vision: Mapping[str, Any], rope: Mapping[str, Any], **text: Any
) -> Callable[..., PreTrainedConfig]:
    shared = {"depth": LAYERS, "hidden_size": WIDTH, "num_heads": HEADS, "intermediate_size": 2 * WIDTH}
    grid = {"patch_size": 8, "spatial_merge_size": 2, "out_hidden_size": WIDTH}

    def toy(tokens: TokenizerTokens, id_of: Callable[[str], int]) -> PreTrainedConfig:
        sections = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10_000.0, **rope}
        language = {"vocab_size": tokens.size, "num_key_value_heads": 2, "rope_parameters": sections, **SIZES, **text}
        language |= {"bos_token_id": None, "eos_token_id": tokens.end}
        marks = {f"{name}_token_id": id_of(f"<|{name}|>") for name in ("vision_start", "vision_end")}
        marks |= {f"{name}_token_id": id_of(f"<|{name}_pad|>") for name in ("image", "video")}
        return make(text_config=language, vision_config={**shared, **grid, **vision}, tie_word_embeddings=True, **marks)

    return toy


QWEN_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
ASKED = "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"

QWEN2_5_VL = Family(
    model_type="qwen2_5_vl",
    prompt="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + ASKED,
    question='Locate every object, report bbox coordinates and labels ("bbox_2d", "label") in JSON format.',
    asking='Locate every instance that belongs to the following categories: "{names}". '
    'Report bbox coordinates and labels ("bbox_2d", "label") in JSON format.',
    between=", ",
    image="<|image_pad|>",
    tokens=QWEN_TOKENS,
    end="<|im_end|>",
    mean=CLIP_MEAN,
    std=CLIP_STD,
    image_tokens=lambda config, side: (side // _merged(config)) ** 2,
    vision=("model.visual.",),
    toy=_qwen_toy(Qwen2_5_VLConfig, {"window_size": 32, "fullatt_block_indexes": (1,)}, {}),
    space=lambda side: PixelSpace(lambda width, height: (side, side)),
    form=JsonFormat,
    step=lambda config: _merged(config),
    first=_qwen_first,
    next=_qwen_next,
    tree=_qwen_tree,
)


def _merged(config: Any) -> int:
    """Returns the side in pixels of the patch that becomes one token."""
    return int(config.vision_config.patch_size * config.vision_config.spatial_merge_size)


QWEN3_VL = replace(
    QWEN2_5_VL,
    model_type="qwen3_vl",
    prompt=ASKED,
    mean=HALF,
    std=HALF,
    toy=_qwen_toy(
        Qwen3VLConfig,
        {"num_position_embeddings": 64, "deepstack_visual_indexes": (0,)},
        {"mrope_interleaved": True},
        head_dim=WIDTH // HEADS,
    ),
    space=lambda side: CoordinateSpace(1001, "xyxy"),
)
