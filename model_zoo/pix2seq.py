"""Adapts a timm backbone with a small decoder, after Pix2Seq (Chen et al., ICLR 2022; arXiv 2109.10852): the light
baseline.

The decoder is a pre-norm transformer that reads the image's features by cross-attention, trained from scratch over
the closed vocabulary of names. Differences from the paper: no transformer encoder between backbone and decoder,
and a sequence gives each object's name before its box, as everywhere here, but where there are noise objects. These
have a name of their own in the input too (in the paper a random category's), and reading an answer drops them (the
paper takes the likeliest category instead). As nothing is learnt about where they are, not even that a box is made of
locations, set `sample.grammar: true` with them, or much of an answer is malformed.

Shape legend: B images   R rows (B times samples)   L tokens   n image tokens   D width   H heads   V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import ConfigError, DataError
from harness.inference.decoding import Steps, sample_all, sample_queue
from harness.inference.outline import NetworkShape, makes_outlines
from harness.inference.pixels import read_pixels
from harness.protocols import DrawSettings
from harness.sequence import NOISE, Codec, CoordinateSpace, NameVocabulary, TokenFormat, vocabulary_names
from harness.types import Category, Example, Projection, Sample, TokenTrees
from model_zoo import checkpoint, timm_tower
from model_zoo.pix2seq_decoder import Decoder, MemoryDecoding
from model_zoo.settings import pix2seq as checks
from model_zoo.settings.sources import find_saved
from model_zoo.shapes import pix2seq as pix2seq_shape
from model_zoo.timm_tower import TimmTower, position_encoding

VOCABULARY = ("decoder.embedding.weight", "decoder.output.weight")
CARDS = [
    {
        "settings": {},
        "parameters": 1_180_000,
        "coordinates": "65 bins, y x y x",
        "licence": "Apache-2.0 (timm)",
        "weights": "random; backbones from timm's hub or a file",
    },
]


class Pix2Seq:
    """The Adapter protocol over a timm backbone and a decoder of its own.

    Settings: `backbone` (a timm model), `backbone_weights` ("random", a safetensors file of timm's, or
    hub:OWNER/NAME@REVISION), `image_size`, `stride` (of the feature map that is read, in pixels), `width`, `layers` and
    `heads` of the decoder, `bins`, `weights` ("random", or what fine-tuning saved: the
    folder of a finished cell or a safetensors file, whatever its names and bins),
    `trains`: "all", or "decoder" (everything but the backbone), `noise_objects`: entries that training extends every
    target to, the last of them noise (see harness.sequence.noise_objects; boxes then stand before names). An answer has
    so many entries too, so `sample.max_tokens` must leave room for six tokens each; set `sample.grammar: true`.
    """

    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        if problems := self.problems(settings):
            raise ConfigError(*problems)
        self.settings = {**checks.DEFAULTS, **settings}
        bins, noise = self.settings["bins"], self.settings["noise_objects"]
        self.tokens = NameVocabulary([*vocabulary_names(categories), *([NOISE] if noise else [])], bins)
        form = TokenFormat(self.tokens, name_first=not noise)
        self.codec = Codec(categories, self.tokens, CoordinateSpace(bins), form, noise)
        self.model = build(self.settings, self.tokens)
        source = self.model.tower.file
        if self.settings["weights"] != "random" and not makes_outlines():
            saved = find_saved(self.settings["weights"])
            source = Path(self.settings["weights"]) if saved is None else saved.file
            tensors, entries = checkpoint.read(source)
            fitted = checkpoint.fit_vocabulary(self.model, tensors, entries, self.tokens.entries, VOCABULARY)
            checkpoint.load(self.model, fitted)
        self.weights_digest = None if source is None or makes_outlines() else checkpoint.sha256(source)
        self.model.tower.requires_grad_(self.settings["trains"] == "all")

    @staticmethod
    def problems(settings: Mapping[str, Any]) -> list[str]:
        return [*checks.problems(settings), *timm_tower.problems(settings.get("backbone", checks.DEFAULTS["backbone"]))]

    places = staticmethod(checks.places)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        return self.model.tower.pixels(examples)

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Returns logits [R, L, V]. One image may serve several rows: R must be a multiple of B."""
        projection = self.hidden(pixels, tokens)
        return F.linear(projection.hidden, projection.weight)

    def hidden(self, pixels: Tensor, tokens: Tensor) -> Projection:
        """Returns hidden states [R, L, D] and output embedding [V, D], whose product is `logits`."""
        decoder = self.model.decoder
        image = decoder.look(self.model.memory(pixels), len(tokens) // len(pixels))
        return Projection(decoder(tokens, image)[0], decoder.output.weight)

    @property
    def context_length(self) -> None:
        """Returns None: positions are sines and cosines, without a limit."""

    @property
    def reads_trees(self) -> bool:
        return True

    def encode(self, pixels: Tensor) -> Tensor:
        """Returns memory [B, n, D], which the decoder's cross-attention reads."""
        return self.model.memory(pixels)

    def read(self, encoded: Tensor, tokens: Tensor | TokenTrees) -> Projection:
        decoder, image = self.model.decoder, self.model.decoder.look(encoded, 1)
        if isinstance(tokens, TokenTrees):
            hidden, _ = decoder(tokens.tokens, image, places=tokens.places, sees=tokens.sees)
        else:
            hidden, _ = decoder(tokens, image)
        return Projection(hidden, decoder.output.weight)

    def network_shape(self) -> NetworkShape:
        return pix2seq_shape.network_shape(self.model)

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int,
        max_tokens: int,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        return sample_all(self._begin, self.codec, examples, temperatures, seed, max_tokens, grammar, self.device)

    @property
    def refills(self) -> bool:
        return True

    def generate_queue(
        self, examples: Sequence[Example], temperatures: Sequence[float], settings: DrawSettings, images: int
    ) -> list[list[Sample]]:
        return sample_queue(self._begin, self.codec, examples, temperatures, settings, images, self.device)

    def _begin(self, examples: Sequence[Example], samples: int) -> Steps:
        decoding = MemoryDecoding(self.model.decoder, self._encoded(examples), samples)

        def add(more: Sequence[Example], prompts: Tensor) -> Tensor:
            return decoding.add(self._encoded(more), prompts)

        return Steps(decoding.step, decoding.keep, add=add)

    def _encoded(self, examples: Sequence[Example]) -> Tensor:
        """Returns memory [B, n, D]. On a CPU images are encoded one by one: a batch is rounded differently, and
        generated answers must not depend on the batch."""
        pixels = read_pixels(self, examples).to(self.device)
        parts = pixels[:, None] if pixels.device.type == "cpu" else pixels[None]
        return torch.cat([self.encode(part) for part in parts])

    def describe(self) -> dict[str, object]:
        sizes = {"grid": list(self.model.tower.grid), "parameters": sum(p.numel() for p in self.model.parameters())}
        settings = {key: value for key, value in self.settings.items() if value or key != "noise_objects"}
        return {"name": "pix2seq", **settings, "sizes": sizes, "weights_digest": self.weights_digest}

    def save(self, path: Path) -> None:
        checkpoint.save(self.model, self.tokens.entries, path)

    def load(self, path: Path) -> None:
        tensors, entries = checkpoint.read(path)
        if entries != self.tokens.entries:
            raise DataError(f"{path}: made for another vocabulary ({len(entries)} entries, not {self.tokens.size})")
        checkpoint.load(self.model, tensors)


# ---- the parts -----------------------------------------------------------------------------------------------------


class Model(nn.Module):
    """Backbone, its features with their places, and the decoder that reads them."""

    def __init__(self, tower: TimmTower, decoder: Decoder, width: int) -> None:
        super().__init__()
        self.tower, self.decoder = tower, decoder
        self.project = nn.Linear(tower.width, width)
        self.norm = nn.LayerNorm(width)

    def memory(self, pixels: Tensor) -> Tensor:
        """[B, n, D] of images [B, 3, S, S]."""
        features = self.norm(self.project(self.tower(pixels)))
        places = position_encoding(*self.tower.grid, self.project.out_features)
        memory: Tensor = features + places.to(features)
        return memory


def build(settings: Mapping[str, Any], tokens: NameVocabulary) -> Model:
    """From torch's global generator, but for what `backbone_weights` has."""
    names = ("backbone", "image_size", "stride", "backbone_weights")
    tower = TimmTower(*(settings[name] for name in names))
    decoder = Decoder(tokens.size, settings["width"], settings["layers"], settings["heads"])
    return Model(tower, decoder, settings["width"])
