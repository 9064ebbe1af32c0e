"""Florence-2 (Xiao et al., CVPR 2024; arXiv 2311.06242): `sofa<loc_3><loc_10><loc_20><loc_31>...`, x y x y. An encoder
reads image and prompt, a decoder answers. A name that several boxes follow is read as an object for each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BartConfig, Florence2Config, PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from harness.sequence import TokenFormat, TokenizerTokens
from harness.types import Box
from model_zoo.vlm.family import (
    HEADS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    LAYERS,
    WIDTH,
    Family,
    ImagePrompt,
    ImageStates,
    Inputs,
)


@dataclass(frozen=True, slots=True)
class CentreSpace:
    """A space of bins of equal size, `x0, y0, x1, y1`: an edge is in bin floor(coordinate / side * bins), and is
    restored as the middle of the bin."""

    bins: int

    @property
    def count(self) -> int:
        return 4

    def quantise(self, box: Box, width: int, height: int) -> tuple[int, ...]:
        sides = (width, height, width, height)
        places = [math.floor(value / side * self.bins) for value, side in zip(box.corners, sides, strict=True)]
        return tuple(min(max(place, 0), self.bins - 1) for place in places)

    def restore(self, numbers: Sequence[int], width: int, height: int) -> Box | None:
        """Returns the box; None where its edges meet or are inverted."""
        x0, y0, x1, y1 = numbers
        if x1 <= x0 or y1 <= y0:
            return None
        across, down = self.steps(width, height)
        return Box((x0 + 0.5) * across, (y0 + 0.5) * down, (x1 - x0) * across, (y1 - y0) * down)

    def steps(self, width: int, height: int) -> tuple[float, float]:
        return width / self.bins, height / self.bins

    def following(self, numbers: Sequence[int]) -> range:
        """Returns the bins that may follow: a far edge starts one bin after its near edge, which leaves room for it."""
        return range(numbers[-2] + 1, self.bins) if len(numbers) >= 2 else range(self.bins - 1)


def _florence_first(model: Any, prompt: ImagePrompt, pixels: Tensor, tokens: Tensor) -> Inputs:
    del model
    read = torch.tensor(prompt.ids, device=tokens.device).expand(len(tokens), -1)
    return {"pixel_values": pixels, "input_ids": read, "decoder_input_ids": tokens}


def _florence_next(model: Any, prompt: ImagePrompt, image_states: ImageStates, tokens: Tensor, past: int) -> Inputs:
    del model, prompt, past
    return {"encoder_outputs": BaseModelOutput(last_hidden_state=image_states["encoded"]), "decoder_input_ids": tokens}


def _florence_toy(tokens: TokenizerTokens, id_of: Callable[[str], int]) -> PreTrainedConfig:
    still: dict[str, Any] = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0)
    halves: dict[str, Any] = {
        f"{half}_{name}": value
        for half in ("encoder", "decoder")
        for name, value in (("layers", LAYERS), ("ffn_dim", 2 * WIDTH), ("attention_heads", HEADS))
    }
    text = BartConfig(
        vocab_size=tokens.size,
        d_model=WIDTH,
        pad_token_id=tokens.pad,
        bos_token_id=id_of("<s>"),
        eos_token_id=tokens.end,
        decoder_start_token_id=tokens.end,
        init_std=0.1,
        **halves,
        **still,
    )
    vision = {
        "depths": (1, 1),
        "patch_size": (7, 3),
        "patch_stride": (4, 2),
        "patch_padding": (3, 1),
        "patch_prenorm": (False, True),
        "embed_dim": (64, 128),
        "num_heads": (2, 4),
        "num_groups": (2, 4),
        "window_size": 8,
        "drop_path_rate": 0.0,
        "initializer_range": 0.1,
        "projection_dim": WIDTH,
    }
    return Florence2Config(text_config=text, vision_config=vision, image_token_id=id_of("<image>"))


FLORENCE2 = Family(
    model_type="florence2",
    prompt="{image}<s>{question}</s>",
    question="Locate the objects with category name in the image.",
    image="<image>",
    tokens=("<s>",),
    end="</s>",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    image_tokens=lambda config, side: (side // math.prod(config.vision_config.patch_stride)) ** 2 + 1,
    vision=("model.vision_tower.",),
    toy=_florence_toy,
    space=lambda side: CentreSpace(1000),
    form=lambda tokens: TokenFormat(tokens, separator=(), again=()),
    locations=tuple(f"<loc_{bin}>" for bin in range(1000)),
    answer="</s><s>",
    side=768,
    step=lambda config: math.prod(config.vision_config.patch_stride),
    first=_florence_first,
    next=_florence_next,
    image_states=lambda model, output: {"encoded": output.encoder_last_hidden_state},
)
