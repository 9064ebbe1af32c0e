"""Idefics (Laurençon et al., 2023; arXiv 2306.16527), the open Flamingo. It was not trained to detect: location
tokens are added, and the answer has this project's format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import IdeficsConfig, PreTrainedConfig

from harness.sequence import CoordinateSpace, TokenizerTokens
from model_zoo.location_rows import location_curve
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
)


def _idefics_sees(tokens: Tensor) -> Tensor:
    """Returns [R, L, 1]: every token attends to the one image."""
    return torch.ones(*tokens.shape, 1, dtype=torch.long, device=tokens.device)


def _idefics_first(model: Any, prompt: ImagePrompt, pixels: Tensor, tokens: Tensor) -> Inputs:
    del model, prompt
    return {"pixel_values": pixels[:, None], "input_ids": tokens, "image_attention_mask": _idefics_sees(tokens)}


def _idefics_next(model: Any, prompt: ImagePrompt, image_states: ImageStates, tokens: Tensor, past: int) -> Inputs:
    del prompt, past
    name = "perceiver_embeddings" if model.config.use_resampler else "image_encoder_embeddings"
    return {name: image_states["image"], "input_ids": tokens, "image_attention_mask": _idefics_sees(tokens)}


def _idefics_states(model: Any, output: Any) -> ImageStates:
    """What the cross-attention reads, whose resampler need not run for every token."""
    outputs = getattr(output, "image_outputs", None)
    if outputs is None:  # transformers before 5.24
        return {"image": output.image_hidden_states}
    states = outputs.last_hidden_state
    return {"image": model.model.perceiver_resampler(states) if model.config.use_resampler else states}


def _idefics_toy(tokens: TokenizerTokens, id_of: Callable[[str], int]) -> PreTrainedConfig:
    del id_of
    vision = {"embed_dim": WIDTH, "image_size": TOY_SIDE, "patch_size": 16, "intermediate_size": 2 * WIDTH}
    heads = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    resampler = {"resampler_n_latents": 16, "resampler_depth": 1, "resampler_n_heads": HEADS, "resampler_head_dim": 32}
    return IdeficsConfig(
        vocab_size=tokens.size,
        pad_token_id=tokens.pad,
        eos_token_id=tokens.end,
        use_resampler=True,
        alpha_initializer="ones",  # with closed gates, as for a pretrained language model, nothing small learns to look
        qk_layer_norms=True,
        tie_word_embeddings=True,
        vision_config=vision | heads,
        perceiver_config=resampler | {"use_resampler": True},
        **SIZES,
    )


def _idefics_grow(model: Any, entries: int) -> None:
    """Extends the embeddings. Idefics has its added tokens in a separate table: both become one, and new rows, nearly
    all of which are locations, start on a curve around the mean."""
    pairs = ((model.model.embed_tokens, "additional_embedding"), (model.lm_head, "additional_fc"))
    for table, added in pairs:
        rows = [table.weight.detach()]
        if hasattr(table, added):
            rows.append(getattr(table, added).weight.detach())
            delattr(table, added)
        missing = entries - sum(map(len, rows))
        table.weight = torch.nn.Parameter(torch.cat([*rows, location_curve(rows[0], missing)]))
    model.model.embed_tokens.num_embeddings = model.lm_head.out_features = entries
    model.model.embed_tokens.num_additional_embeddings = model.lm_head.out_additional_features = 0


IDEFICS = Family(
    model_type="idefics",
    prompt="<s>User:<fake_token_around_image>{image}<fake_token_around_image>{question}\nAssistant:",
    question="Name every object and where it is.",
    asking="Name every one of these objects and where it is: {names}.",
    image="<image>",
    tokens=("<s>", "<fake_token_around_image>"),
    end="</s>",
    mean=CLIP_MEAN,
    std=CLIP_STD,
    image_tokens=lambda config, side: 1,
    vision=("model.vision_model.",),
    toy=_idefics_toy,
    space=lambda side: CoordinateSpace(1000),
    locations=tuple(f"<loc_{bin}>" for bin in range(1000)),
    before=" ",
    first=_idefics_first,
    next=_idefics_next,
    image_states=_idefics_states,
    native=False,
    grow=_idefics_grow,
)
