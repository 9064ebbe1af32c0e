"""Declares what differs between vision-language families of transformers: prompt, pixels, coordinates, answer.

Every picture is squeezed to a square of the family's size (coordinates are of the whole picture, so boxes need no
change), and all prompts are the same up to the end of the image: what depends on it is known beforehand.

Shape legend: B images   R rows   L tokens   S image side in pixels   n image tokens
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from harness.sequence import Format, Space, TokenFormat, TokenizerTokens

Inputs = dict[str, Any]
"""Keyword arguments of a model's forward pass."""
ImageStates = Mapping[str, Tensor]
"""The results of the first forward pass for the images that later passes need, a row each."""
Colours = tuple[float, float, float]

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """The tokens that contain the image: before every answer, or in the input of an encoder. `[start, start +
    images)` belong to the image. A prompt that names categories follows them."""

    ids: tuple[int, ...]
    start: int
    images: int

    def is_image(self, length: int, device: torch.device) -> Tensor:
        """Flags the tokens of the image, [length] bool."""
        places = torch.arange(length, device=device)
        return (places >= self.start) & (places < self.start + self.images)


def plain_first(model: Any, prompt: ImagePrompt, pixels: Tensor, tokens: Tensor) -> Inputs:
    del model, prompt
    return {"pixel_values": pixels, "input_ids": tokens}


def plain_next(model: Any, prompt: ImagePrompt, image_states: ImageStates, tokens: Tensor, past: int) -> Inputs:
    del model, prompt, image_states, past
    return {"input_ids": tokens}


def no_image_states(model: Any, output: Any) -> ImageStates:
    del model, output
    return {}


def grow_plainly(model: Any, entries: int) -> None:
    model.resize_token_embeddings(entries)


@dataclass(frozen=True)
class Family:
    """The declaration of one family.

    model_type    as its configuration calls it
    prompt        with {image} (all its tokens) and {question}
    question      the default one
    asking        the default one about categories, with {names}; a model whose encoder reads the prompt has none
    between       stands between two of these names
    image         the token that stands for a piece of the image
    tokens        other tokens that prompt and answer are made of
    end           the token that ends an answer
    mean, std     of the normalised pixels, by colour
    side          pixels of an image side, where the model leaves that open
    step          what that must be a multiple of
    image_tokens  their number for an image side
    vision        beginnings of the names of the image encoder's parameters
    space, form   of the answer
    locations     its location tokens, in order
    before        what stands before every name (see TokenizerTokens)
    answer        an encoder reads the prompt, and the decoder begins with this text; None where there is one decoder
    first, next   arguments of a pass over whole rows, and of one over tokens that follow `past` others
    tree          arguments of a pass over trees that follow `past` tokens: where they stand, [R, L], and what they see,
                  [R, 1, L, past + L]; None where the model takes no such mask
    image_states  from the output of `first`, for later passes
    native        whether its pretrained models know the format: no token is new to them
    grow          makes room for so many vocabulary entries, where tokens were added to a pretrained model's
    toy           a configuration of a size for tests, for these tokens
    """

    model_type: str
    prompt: str
    question: str
    image: str
    end: str
    mean: Colours
    std: Colours
    image_tokens: Callable[[Any, int], int]
    vision: tuple[str, ...]
    toy: Callable[[TokenizerTokens, Callable[[str], int]], PreTrainedConfig]
    space: Callable[[int], Space]
    form: Callable[[TokenizerTokens], Format] = TokenFormat
    tokens: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()
    before: str = ""
    asking: str = ""
    between: str = "; "
    answer: str | None = None
    side: int = 448
    step: Callable[[Any], int] = lambda config: 1
    first: Callable[[Any, ImagePrompt, Tensor, Tensor], Inputs] = plain_first
    next: Callable[[Any, ImagePrompt, ImageStates, Tensor, int], Inputs] = plain_next
    tree: Callable[[ImagePrompt, Tensor, Tensor], Inputs] | None = None
    image_states: Callable[[Any, Any], ImageStates] = no_image_states
    native: bool = True
    grow: Callable[[Any, int], None] = grow_plainly


TOY_SIDE = 64
WIDTH, LAYERS, HEADS = 128, 2, 4
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}
"""Sizes of both halves of a toy model."""
