"""Kosmos-2 (Peng et al., 2023; arXiv 2306.14824):
`<phrase>sofa</phrase><object><patch_index_0044><patch_index_0863></object>...`, two patches of a grid
a box. A phrase that several boxes follow is read as an object for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import Kosmos2Config, PreTrainedConfig

from harness.sequence import Format, PatchSpace, TokenFormat, TokenizerTokens
from model_zoo.vlm.family import (
    CLIP_MEAN,
    CLIP_STD,
    HEADS,
    LAYERS,
    SIZES,
    TOY_SIDE,
    WIDTH,
    Family,
    ImagePrompt,
    ImageStates,
    Inputs,
    plain_first,
)

BETWEEN_BOXES = "</delimiter_of_multi_objects/>"
"""Stands between two boxes of one phrase."""


def _kosmos_places(model: Any, tokens: Tensor, past: int) -> Tensor:
    """Returns positions [R, L]; by default the model would not count a padding token that it emits itself."""
    before = int(model.config.text_config.pad_token_id) + 1 + past
    return (torch.arange(tokens.shape[1], device=tokens.device) + before).repeat(len(tokens), 1)


def _kosmos_first(model: Any, prompt: ImagePrompt, pixels: Tensor, tokens: Tensor) -> Inputs:
    return {
        **plain_first(model, prompt, pixels, tokens),
        "image_embeds_position_mask": prompt.is_image(tokens.shape[1], tokens.device).expand_as(tokens),
        "position_ids": _kosmos_places(model, tokens, 0),
    }


def _kosmos_next(model: Any, prompt: ImagePrompt, image_states: ImageStates, tokens: Tensor, past: int) -> Inputs:
    """Returns the arguments with the image, which the model requires although it is in the cache."""
    del prompt
    return {"input_ids": tokens, **image_states, "position_ids": _kosmos_places(model, tokens, past)}


def _kosmos_toy(tokens: TokenizerTokens, id_of: Callable[[str], int]) -> PreTrainedConfig:
    del id_of
    text = {
        "vocab_size": tokens.size,
        "embed_dim": WIDTH,
        "layers": LAYERS,
        "ffn_dim": 2 * WIDTH,
        "attention_heads": HEADS,
        "pad_token_id": tokens.pad,
        "eos_token_id": tokens.end,
        "init_std": 0.1,  # an image is normalised to length 1 before the decoder reads it
    }
    still = {"dropout": 0.0, "attention_dropout": 0.0}
    vision = {"image_size": TOY_SIDE, "patch_size": 16, "initializer_factor": 5.0, **SIZES}
    return Kosmos2Config(text_config=text | still, vision_config=vision, latent_query_num=16)


def _phrases(tokens: TokenizerTokens) -> Format:
    write = tokens.encode_text
    middle, separator = write("</phrase><object>"), write("</object><phrase>")
    return TokenFormat(
        tokens,
        opening=write("<phrase>"),
        middle=middle,
        separator=separator,
        closing=write("</object>"),
        again=write(BETWEEN_BOXES),
    )


KOSMOS2 = Family(
    model_type="kosmos-2",
    prompt="<s><image>{image}</image>{question}",
    question="<grounding>",
    asking="<grounding>{names}:",
    # Its own processor writes other ids there; whatever stands there is replaced by the image.
    image="<image>",
    tokens=("<s>", "</image>", "<grounding>", "<phrase>", "</phrase>", "<object>", "</object>", BETWEEN_BOXES),
    end="</s>",
    mean=CLIP_MEAN,
    std=CLIP_STD,
    image_tokens=lambda config, side: int(config.latent_query_num),
    vision=("vision_model.",),
    toy=_kosmos_toy,
    space=lambda side: PatchSpace(32),
    form=_phrases,
    locations=tuple(f"<patch_index_{patch:04d}>" for patch in range(32**2)),
    first=_kosmos_first,
    next=_kosmos_next,
    image_states=lambda model, output: {"image_embeds": output.image_embeds},
)
