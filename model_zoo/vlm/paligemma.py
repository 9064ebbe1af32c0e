"""PaliGemma (Beyer et al., 2024; arXiv 2407.07726) and PaliGemma 2: `<loc0003><loc0010><loc0020><loc0031> sofa ; ...`,
y x y x. Zero-shot detection asks for names: `detect sofa ; lamp`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import Gemma2Config, GemmaConfig, PaliGemmaConfig, PreTrainedConfig

from harness.sequence import CoordinateSpace, Format, TokenFormat, TokenizerTokens
from model_zoo.vlm.family import HALF, HEADS, SIZES, TOY_SIDE, WIDTH, Family, ImagePrompt, Inputs, plain_first


def _paligemma_first(model: Any, prompt: ImagePrompt, pixels: Tensor, tokens: Tensor) -> Inputs:
    """Returns the arguments of a pass: all prompt tokens attend to the whole prompt, answer tokens to earlier ones.
    Every prompt ends with a line break."""
    last = tokens == prompt.ids[-1]
    answer = last.cumsum(-1) - last.long() >= prompt.ids.count(prompt.ids[-1])
    return {**plain_first(model, prompt, pixels, tokens), "token_type_ids": answer.long()}


def _paligemma_tree(prompt: ImagePrompt, places: Tensor, sees: Tensor) -> Inputs:
    """Places are counted from 1."""
    del prompt
    return {"position_ids": places + 1, "attention_mask": sees}


def _boxes_first(tokens: TokenizerTokens) -> Format:
    return TokenFormat(tokens, separator=tokens.encode_text(" ; "), name_first=False)


def _paligemma_toy(text: Callable[..., PreTrainedConfig]) -> Callable[..., PreTrainedConfig]:
    def toy(tokens: TokenizerTokens, id_of: Callable[[str], int]) -> PreTrainedConfig:
        language = text(vocab_size=tokens.size, num_key_value_heads=1, head_dim=WIDTH // HEADS, **SIZES)
        vision = {"model_type": "siglip_vision_model", "image_size": TOY_SIDE, "patch_size": 16, **SIZES}
        return PaliGemmaConfig(
            vision_config=vision | {"vision_use_head": False},
            text_config=language,
            image_token_index=id_of("<image>"),
            projection_dim=WIDTH,
            hidden_size=WIDTH,
        )

    return toy


PALIGEMMA = Family(
    model_type="paligemma",
    prompt="{image}<bos>{question}\n",
    question="detect all",
    asking="detect {names}",
    between=" ; ",
    image="<image>",
    tokens=("<bos>",),
    end="<eos>",
    mean=HALF,
    std=HALF,
    image_tokens=lambda config, side: (side // config.vision_config.patch_size) ** 2,
    vision=("model.vision_tower.",),
    toy=_paligemma_toy(GemmaConfig),
    space=lambda side: CoordinateSpace(1024),
    form=_boxes_first,
    locations=tuple(f"<loc{bin:04d}>" for bin in range(1024)),
    before=" ",
    first=_paligemma_first,
    tree=_paligemma_tree,
)


PALIGEMMA2 = replace(PALIGEMMA, toy=_paligemma_toy(Gemma2Config), tree=None)  # half of its layers have a window
