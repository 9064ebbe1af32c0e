"""Adapts OpenFlamingo at toy size, with a vocabulary of names or of their pieces. Small weights are shipped.

With a tokenizer, as it was published, it is model_zoo.flamingo.published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from harness import images
from harness.errors import ConfigError
from harness.inference.outline import makes_outlines
from harness.sequence import Codec, CoordinateSpace, NameVocabulary, PieceVocabulary, vocabulary_names
from harness.types import Category, Example
from model_zoo import checkpoint
from model_zoo.flamingo.adapter import FlamingoAdapter
from model_zoo.flamingo.network import ReaderSizes, TrainableFlamingo, assemble, resize
from model_zoo.settings import open_flamingo as checks
from model_zoo.settings.open_flamingo import CONFIGS, Config, with_defaults
from model_zoo.settings.sources import find_saved

CARDS: list[dict[str, object]] = [
    {
        "settings": {},
        "parameters": 2_080_000,
        "coordinates": "65 bins, y x y x",
        "licence": "MIT (OpenFlamingo), Apache-2.0 (weights)",
        "weights": "shipped, pretrained on plain shapes",
    },
]
WEIGHTS = Path(__file__).parents[1] / "weights"


class OpenFlamingo(FlamingoAdapter):
    """The Adapter protocol over open_flamingo's Flamingo.

    Settings: `config` (a name in CONFIGS), `bins` (locations; default the configuration's), `trains`:
    "all", or "flamingo" as upstream does it (perceiver, gated cross-attention, input embeddings), `weights`:
    "shipped", "random", or what fine-tuning saved (the folder of a finished cell, or a safetensors file), whatever its
    names and bins.
    """

    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        if wrong := self.problems(settings):
            raise ConfigError(*wrong)
        self.settings = with_defaults(settings)
        self.config = CONFIGS[self.settings["config"]]
        vocabulary = PieceVocabulary if self.config.pieces else NameVocabulary
        tokens = vocabulary(vocabulary_names(categories), self.settings["bins"])
        self.tokens = tokens
        codec = Codec(categories, tokens, CoordinateSpace(self.settings["bins"]))
        super().__init__(build(self.config, tokens), codec, tokens.entries)
        self.weights_digest: str | None = None
        if not makes_outlines():
            self._read_weights(tokens)
        _freeze(self.model, self.settings["trains"])

    def _read_weights(self, tokens: NameVocabulary) -> None:
        saved = find_saved(self.settings["weights"])
        if saved is not None:
            tensors, entries = checkpoint.read(saved.file)
            self.weights_digest = checkpoint.sha256(saved.file)
        elif self.settings["weights"] == "shipped" and self.config.weights is not None:
            tensors, entries, self.weights_digest = checkpoint.read_shipped(WEIGHTS / self.config.weights)
        if self.weights_digest is not None:
            checkpoint.load(self.model, checkpoint.fit_vocabulary(self.model, tensors, entries, tokens.entries))

    problems = staticmethod(checks.problems)
    places = staticmethod(checks.places)

    @property
    def image_side(self) -> int:
        return self.config.image_size

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        """Returns [B, 3, S, S] in [-1, 1]; the image is squeezed to a square, as coordinates are normalised."""
        side = self.config.image_size
        squares = [images.read(example).resize((side, side), Image.Resampling.BILINEAR) for example in examples]
        return to_pixels(np.stack([np.asarray(square) for square in squares]))

    def describe(self) -> dict[str, object]:
        sizes = {**self.config.sizes, "parameters": sum(p.numel() for p in self.model.parameters())}
        return {
            "name": "open_flamingo",
            **self.settings,
            "sizes": sizes,
            "weights_digest": self.weights_digest,
        }


def to_pixels(images: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """Converts uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


# ---- the parts -----------------------------------------------------------------------------------------------


class ConvStem(nn.Sequential):
    """Replaces the patch embedding: four 3x3 convolutions of stride 2. A single 16-pixel patch projection
    localises poorly when trained from scratch on so little."""

    def __init__(self, width: int) -> None:
        channels = (3, width // 4, width // 2, width, width)
        stages: list[nn.Module] = []
        for before, after in pairwise(channels):
            stages += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
        super().__init__(*stages, nn.Conv2d(width, width, 1))


def build(config: Config, tokens: NameVocabulary) -> TrainableFlamingo:
    """Builds a randomly initialised Flamingo, from torch's global generator."""
    vision = VisionTransformer(
        image_size=config.image_size,
        patch_size=config.patch_size,
        width=config.vision_width,
        layers=config.vision_layers,
        heads=config.vision_heads,
        mlp_ratio=3.0,
        output_dim=config.vision_width,
        output_tokens=True,
    )
    vision.conv1 = ConvStem(config.vision_width)
    language = _language_model(config, tokens)
    model = assemble(vision, config.vision_width, language, "model.layers", 1, tokens.image, tokens.end)
    reading = (config.perceiver_depth, config.perceiver_latents, config.attention_heads, config.attention_width)
    resize(model, ReaderSizes(*reading, config.gate))
    return model


def _language_model(config: Config, tokens: NameVocabulary) -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokens.size,
            hidden_size=config.language_width,
            intermediate_size=config.language_ffn,
            num_hidden_layers=config.language_layers,
            num_attention_heads=config.language_heads,
            max_position_embeddings=512,
            pad_token_id=tokens.pad,
            bos_token_id=None,
            eos_token_id=tokens.end,
            tie_word_embeddings=False,
        )
    )


def _freeze(model: TrainableFlamingo, trains: Literal["all", "flamingo"]) -> None:
    model.requires_grad_(trains == "all")
    if trains == "flamingo":
        for part in (
            model.perceiver,
            model.lang_encoder.gated_cross_attn_layers,
            model.lang_encoder.get_input_embeddings(),
        ):
            part.requires_grad_(True)
