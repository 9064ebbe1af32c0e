"""OpenFlamingo (Awadalla et al., 2023; arXiv 2308.01390), built from its parts.

Upstream's factory is not used: it passes `trust_remote_code=True`. Three repairs make open_flamingo 2.0.1
work here: the language mixin's forward is replaced (see there), images are encoded once and
their latents expanded to all samples (its `generate` does not expand), and the vision tower runs with
gradient where it trains (upstream always runs it under `no_grad`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from open_clip.transformer import VisionTransformer
from open_flamingo.src.flamingo import Flamingo
from open_flamingo.src.flamingo_lm import FlamingoLMMixin
from open_flamingo.src.helpers import MaskedCrossAttention, PerceiverResampler
from open_flamingo.src.utils import extend_instance
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpoint_call
from transformers import LlamaConfig, LlamaForCausalLM

from harness import images
from harness.decoding import sample, uniforms
from harness.errors import ConfigError, DataError, unknown
from harness.sequence import Codec, CoordinateSpace, NameVocabulary, vocabulary_names
from harness.types import Category, Example, Projection, Sample
from model_zoo import checkpoint

CARDS: list[dict[str, object]] = [
    {
        "settings": {},
        "parameters": 2_080_000,
        "coordinates": "65 bins, y x y x",
        "licence": "MIT (OpenFlamingo), Apache-2.0 (weights)",
        "weights": "shipped, pretrained on plain shapes",
    },
]
WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes of the parts. Heads x width per head is given where upstream's stock sizes are replaced."""

    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    language_width: int
    language_layers: int
    language_heads: int
    language_ffn: int
    perceiver_depth: int
    perceiver_latents: int
    attention_heads: int
    attention_width: int
    gate: float
    """Start value of the tanh gates; upstream starts at 0 to protect a pretrained language model."""
    bins: int
    weights: str | None
    """File in `weights/`, or None for random initialisation."""


CONFIGS: dict[str, Config] = {
    "tiny": Config(
        image_size=64,
        patch_size=16,
        vision_width=128,
        vision_layers=2,
        vision_heads=4,
        language_width=128,
        language_layers=3,
        language_heads=4,
        language_ffn=384,
        perceiver_depth=1,
        perceiver_latents=16,
        attention_heads=4,
        attention_width=32,
        gate=1.0,
        bins=65,
        weights="open_flamingo-tiny.safetensors",
    ),
}

CHOICES = {"config": tuple(CONFIGS), "trains": ("all", "flamingo"), "weights": ("shipped", "random")}
MAX_BINS = 10_000


class OpenFlamingo:
    """The Adapter protocol over open_flamingo's Flamingo.

    Settings: `config` (a name in CONFIGS), `bins` (locations; default the configuration's), `trains`:
    "all", or "flamingo" as upstream does it (perceiver, gated cross-attention, input embeddings), `weights`:
    "shipped" or "random".
    """

    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        if problems := self.problems(settings):
            raise ConfigError(*problems)
        self.settings = _with_defaults(settings)
        self.config = CONFIGS[self.settings["config"]]
        tokens = NameVocabulary(vocabulary_names(categories), self.settings["bins"])
        self.tokens = tokens
        self.codec = Codec(categories, tokens, CoordinateSpace(self.settings["bins"]))
        self.model = build(self.config, tokens)
        self.weights_digest: str | None = None
        if self.settings["weights"] == "shipped" and self.config.weights is not None:
            tensors, entries, self.weights_digest = checkpoint.read_shipped(WEIGHTS / self.config.weights)
            checkpoint.load(self.model, checkpoint.fit_vocabulary(self.model, tensors, entries, tokens.entries))
        _freeze(self.model, self.settings["trains"])

    @staticmethod
    def problems(settings: Mapping[str, Any]) -> list[str]:
        known = (*CHOICES, "bins")
        found = [unknown("setting of open_flamingo", key, known) for key in settings if key not in known]
        full = _with_defaults(settings)
        for key, allowed in CHOICES.items():
            if full[key] not in allowed:
                found.append(unknown(f"open_flamingo.{key}", str(full[key]), allowed))
        bins = full["bins"]
        if not isinstance(bins, int) or isinstance(bins, bool) or not 2 <= bins <= MAX_BINS:
            found.append(f"open_flamingo.bins: expected an integer from 2 to {MAX_BINS}, got {bins!r}")
        return found

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        """[B, 3, S, S] in [-1, 1]; the image is squeezed to a square, coordinates being normalised."""
        side = self.config.image_size
        squares = [images.read(example).resize((side, side), Image.Resampling.BILINEAR) for example in examples]
        return to_pixels(np.stack([np.asarray(square) for square in squares]))

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """[B, L, V]. One image may serve several rows: B of tokens must be a multiple of B of pixels."""
        return self.model.read(self._latents(pixels, tokens), tokens)

    def hidden(self, pixels: Tensor, tokens: Tensor) -> Projection:
        """[B, L, D] and [V, D]: what `logits` multiplies."""
        hidden = self.model.read_hidden(self._latents(pixels, tokens), tokens)
        return Projection(hidden, self.model.lang_encoder.get_output_embeddings().weight)

    def _latents(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        return self.model.latents(pixels[:, None, None]).repeat_interleave(len(tokens) // len(pixels), dim=0)

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int,
        max_tokens: int,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        samples = len(temperatures)
        with torch.inference_mode():
            pixels = self.pixels(examples).to(self.device)
            heat = torch.tensor(list(temperatures) * len(examples), device=self.device)
            noise = uniforms(examples, samples, max_tokens, seed).to(self.device)
            decoding = Decoding(self.model, self._encoded(pixels), samples)
            try:
                flat = sample(decoding.step, self.codec, heat, noise, grammar, decoding.keep)
            finally:
                decoding.close()
        return [flat[start : start + samples] for start in range(0, len(flat), samples)]

    def _encoded(self, pixels: Tensor) -> Tensor:
        """Latents [B, 1, n, D] of images [B, 3, S, S]. On a CPU one image after the other: several at once are rounded
        otherwise than one, and what is generated must not depend on the batch, to the last bit."""
        parts = pixels[:, None] if pixels.device.type == "cpu" else pixels[None]
        return torch.cat([self.model.latents(part[:, None, None]) for part in parts])

    def checkpoint_gradients(self) -> None:
        for block in self.model.blocks():
            block.forward = _computed_twice(block.forward)

    def describe(self) -> dict[str, object]:
        sizes = {**asdict(self.config), "parameters": sum(p.numel() for p in self.model.parameters())}
        return {
            "name": "open_flamingo",
            **self.settings,
            "sizes": sizes,
            "weights_digest": self.weights_digest,
        }

    def save(self, path: Path) -> None:
        checkpoint.save(self.model, self.tokens.entries, path)

    def load(self, path: Path) -> None:
        tensors, entries = checkpoint.read(path)
        if entries != self.tokens.entries:
            raise DataError(f"{path}: made for another vocabulary ({len(entries)} entries, not {self.tokens.size})")
        checkpoint.load(self.model, tensors)


def _computed_twice(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but with gradient only the arguments are kept for the backward pass, which computes it again."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint_call(forward, *args, use_reentrant=False, **kwargs)

    return run


def to_pixels(images: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def _with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    full = {"config": "tiny", "trains": "all", "weights": "shipped", **settings}
    config = CONFIGS.get(str(full["config"]), CONFIGS["tiny"])
    return {"bins": config.bins, **full}


# ---- the parts -----------------------------------------------------------------------------------------------


class _LanguageMixin(FlamingoLMMixin):  # type: ignore[misc]  # open_flamingo has no type information
    """Upstream's mixin with a default for `attention_mask`, which transformers 5 omits, and with the image where
    the prompt has it and nowhere else. Upstream looks for image tokens in whatever it is given: one row that
    emits one would then take the image away from every other row of its batch."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **rest: Any) -> Any:
        self._condition(input_ids, prefill=rest.get("past_key_values") is None)
        language: Any = super(FlamingoLMMixin, self)  # the language model that this is mixed into
        return language.forward(input_ids=input_ids, attention_mask=attention_mask, **rest)

    def hidden(self, input_ids: Tensor) -> Tensor:
        """States [B, L, D] of whole sequences, which `forward` multiplies with the output embedding."""
        self._condition(input_ids, prefill=True)
        hidden: Tensor = self.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        return hidden

    def _condition(self, input_ids: Tensor, prefill: bool) -> None:
        image = input_ids == self.media_token_id
        for layer in self._get_decoder_layers():
            if prefill:
                layer.condition_media_locations(image & (image.cumsum(1) == 1))
            layer.condition_use_cached_media(not prefill)


class TrainableFlamingo(Flamingo):  # type: ignore[misc]
    """Flamingo whose vision tower has a gradient, and whose latents can be reused."""

    def latents(self, vision_x: Tensor) -> Tensor:
        """Images [B, T_img, 1, C, H, W] -> perceiver latents [B, T_img, n, D]."""
        batch, media = vision_x.shape[:2]
        features = self.vision_encoder(vision_x.flatten(0, 2))[1]
        latents: Tensor = self.perceiver(features.view(batch, media, 1, *features.shape[1:]))
        return latents

    def read(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Logits [B, L, V] of tokens that refer to these latents."""
        with self._seeing(latents):
            logits: Tensor = self.lang_encoder(input_ids=tokens, use_cache=False).logits
        return logits

    def read_hidden(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Hidden states [B, L, D] of the same."""
        with self._seeing(latents):
            hidden: Tensor = self.lang_encoder.hidden(tokens)
        return hidden

    def blocks(self) -> Iterator[Any]:
        """The modules that hidden states pass one after the other. Not whole Flamingo layers: what those see is taken
        from them at the end of a forward pass."""
        yield from self.vision_encoder.transformer.resblocks
        for layer in self.perceiver.layers:
            yield from layer
        for layer in self.lang_encoder._get_decoder_layers():
            yield from (layer.gated_cross_attn_layer, layer.decoder_layer)

    @contextmanager
    def _seeing(self, latents: Tensor) -> Iterator[None]:
        for layer in self.lang_encoder._get_decoder_layers():
            layer.condition_vis_x(latents)
        yield
        self.lang_encoder.clear_conditioned_layers()


class Decoding:
    """Token by token over latents [B, T_img, n, D], each serving `samples` rows, with key-value caches.

    The keys and values of the image are computed once per image, not once per row and token.
    """

    def __init__(self, model: TrainableFlamingo, latents: Tensor, samples: int) -> None:
        self._language: Any = model.lang_encoder
        self._layers: Any = model.lang_encoder._get_decoder_layers()
        self._cache: Any = None
        for layer in self._layers:
            projection = layer.gated_cross_attn_layer.attn.to_kv
            projection.memo = projection(latents.flatten(1, 2)).repeat_interleave(samples, dim=0)
            layer.condition_vis_x(latents.repeat_interleave(samples, dim=0))

    def step(self, tokens: Tensor) -> Tensor:
        output = self._language(input_ids=tokens, use_cache=True, past_key_values=self._cache)
        self._cache = output.past_key_values
        logits: Tensor = output.logits
        return logits[:, -1]

    def keep(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        for layer in self._layers:
            projection = layer.gated_cross_attn_layer.attn.to_kv
            projection.memo = projection.memo[rows]
            layer.condition_vis_x(layer.vis_x[rows])
            layer.condition_media_locations(layer.media_locations[rows])

    def close(self) -> None:
        """Leaves no state of this decoding in the model."""
        for layer in self._layers:
            layer.gated_cross_attn_layer.attn.to_kv.memo = None
        self._language.clear_conditioned_layers()


class MemoLinear(nn.Linear):
    """A linear map that returns `memo` in place of its result while that is set."""

    memo: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.memo is None else self.memo


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
    """A randomly initialised Flamingo, from torch's global generator."""
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
    model = TrainableFlamingo(
        vision_encoder=SimpleNamespace(visual=vision),
        lang_encoder=_language_model(config, tokens),
        eoc_token_id=tokens.end,
        media_token_id=tokens.image,
        vis_dim=config.vision_width,
        cross_attn_every_n_layers=1,
    )
    _resize_attention(model, config)
    return model


def _language_model(config: Config, tokens: NameVocabulary) -> nn.Module:
    language = LlamaForCausalLM(
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
    extend_instance(language, _LanguageMixin)
    flamingo: Any = language  # extend_instance has changed its class
    flamingo.set_decoder_layers_attr_name("model.layers")
    return language


def _resize_attention(model: TrainableFlamingo, config: Config) -> None:
    """Upstream's constructor has no arguments for these sizes: the modules are made again."""
    model.perceiver = PerceiverResampler(
        dim=config.vision_width,
        depth=config.perceiver_depth,
        dim_head=config.attention_width,
        heads=config.attention_heads,
        num_latents=config.perceiver_latents,
    )
    blocks: Any = model.lang_encoder.gated_cross_attn_layers
    for block in blocks:
        block.attn = MaskedCrossAttention(
            dim=config.language_width,
            dim_visual=config.vision_width,
            dim_head=config.attention_width,
            heads=config.attention_heads,
        )
        block.attn.to_kv.__class__ = MemoLinear  # same weights: drawing new ones would shift the random stream
        nn.init.constant_(block.attn_gate, config.gate)
        nn.init.constant_(block.ff_gate, config.gate)


def _freeze(model: TrainableFlamingo, trains: Literal["all", "flamingo"]) -> None:
    model.requires_grad_(trains == "all")
    if trains == "flamingo":
        for part in (
            model.perceiver,
            model.lang_encoder.gated_cross_attn_layers,
            model.lang_encoder.get_input_embeddings(),
        ):
            part.requires_grad_(True)
