"""A timm backbone and a small decoder, after Pix2Seq (Chen et al., ICLR 2022; arXiv 2109.10852): the light baseline.

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
from harness.inference.decoding import Steps, sample_all
from harness.inference.pixels import read_pixels
from harness.sequence import NOISE, Codec, CoordinateSpace, NameVocabulary, TokenFormat, vocabulary_names
from harness.types import Category, Example, Projection, Sample, TokenTrees
from model_zoo import checkpoint, timm_tower
from model_zoo.settings import pix2seq as checks
from model_zoo.settings.sources import find_saved
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
KeysValues = tuple[Tensor, Tensor]
"""Each [R, H, length, D / H]."""


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
        if self.settings["weights"] != "random":
            saved = find_saved(self.settings["weights"])
            source = Path(self.settings["weights"]) if saved is None else saved.file
            tensors, entries = checkpoint.read(source)
            fitted = checkpoint.fit_vocabulary(self.model, tensors, entries, self.tokens.entries, VOCABULARY)
            checkpoint.load(self.model, fitted)
        self.weights_digest = None if source is None else checkpoint.sha256(source)
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
        """[R, L, V]. One image may serve several rows: R must be a multiple of B."""
        projection = self.hidden(pixels, tokens)
        return F.linear(projection.hidden, projection.weight)

    def hidden(self, pixels: Tensor, tokens: Tensor) -> Projection:
        """[R, L, D] and [V, D]: what `logits` multiplies."""
        decoder = self.model.decoder
        image = decoder.look(self.model.memory(pixels), len(tokens) // len(pixels))
        return Projection(decoder(tokens, image)[0], decoder.output.weight)

    @property
    def context_length(self) -> None:
        """Places are sines and cosines: there is no last one."""

    @property
    def reads_trees(self) -> bool:
        return True

    def encode(self, pixels: Tensor) -> Tensor:
        """Memory [B, n, D], which the decoder's cross-attention reads."""
        return self.model.memory(pixels)

    def read(self, encoded: Tensor, tokens: Tensor | TokenTrees) -> Projection:
        decoder, image = self.model.decoder, self.model.decoder.look(encoded, 1)
        if isinstance(tokens, TokenTrees):
            hidden, _ = decoder(tokens.tokens, image, trees=tokens)
        else:
            hidden, _ = decoder(tokens, image)
        return Projection(hidden, decoder.output.weight)

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int,
        max_tokens: int,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        return sample_all(self._begin, self.codec, examples, temperatures, seed, max_tokens, grammar, self.device)

    def _begin(self, examples: Sequence[Example], samples: int) -> Steps:
        decoding = MemoryDecoding(
            self.model.decoder, self._encoded(read_pixels(self, examples).to(self.device)), samples
        )
        return Steps(decoding.step, decoding.keep)

    def _encoded(self, pixels: Tensor) -> Tensor:
        """Memory [B, n, D]. On a CPU one image after the other: several at once are rounded otherwise than one, and
        what is generated must not depend on the batch."""
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


class Decoder(nn.Module):
    """A causal transformer over tokens, with cross-attention to the image in every layer."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary, bias=False)
        for rows in (self.embedding, self.output):  # as in GPT-2; with torch's default it learns more slowly
            nn.init.normal_(rows.weight, std=0.02)

    def look(self, memory: Tensor, samples: int) -> list[KeysValues]:
        """What each layer reads of the image [B, n, D], once per image, for `samples` rows each."""
        keys_values = [layer.cross.keys_values(memory) for layer in self._layers()]
        return [(k.repeat_interleave(samples, dim=0), v.repeat_interleave(samples, dim=0)) for k, v in keys_values]

    def forward(
        self,
        tokens: Tensor,
        image: Sequence[KeysValues],
        past: Sequence[KeysValues] = (),
        trees: TokenTrees | None = None,
    ) -> tuple[Tensor, list[KeysValues]]:
        """States [R, L, D] of tokens [R, L] that follow `past`, and the past of what follows them.

        With a past there is one token at a time. trees: where the tokens stand and what they see, if not in a row.
        """
        before = past[0][0].shape[2] if past else 0
        encoding = sequence_encoding(before, tokens.shape[1], self.embedding.embedding_dim).to(tokens.device)
        x = self.embedding(tokens) + (encoding if trees is None else encoding[trees.places])
        sees = None if trees is None else trees.sees[:, None]  # [R, 1, L, L]: the same for every head
        passed = []
        for index, layer in enumerate(self._layers()):
            x, present = layer(x, image[index], past[index] if past else None, sees)
            passed.append(present)
        return self.norm(x), passed

    def _layers(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]


class Layer(nn.Module):
    """Self-attention, cross-attention and a feed-forward network, each after a normalisation."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.own, self.cross = Attention(width, heads), Attention(width, heads)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, x: Tensor, image: KeysValues, past: KeysValues | None, sees: Tensor | None = None
    ) -> tuple[Tensor, KeysValues]:
        first, second, third = self.norms
        normed = first(x)
        keys, values = self.own.keys_values(normed)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        x = x + self.own(normed, (keys, values), sees, causal=past is None and sees is None)
        x = x + self.cross(second(x), image)
        return x + self.feed_forward(third(x)), (keys, values)


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)

    def keys_values(self, source: Tensor) -> KeysValues:
        """[R, H, length, D / H] each, of source [R, length, D]."""
        keys, values = self.key_value(source).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(self, x: Tensor, keys_values: KeysValues, sees: Tensor | None = None, causal: bool = False) -> Tensor:
        """sees: a mask [R, 1, L, L], True where a token sees another; causal: what is in a row sees what is before."""
        queries = self._split(self.query(x))
        read = F.scaled_dot_product_attention(queries, *keys_values, attn_mask=sees, is_causal=causal)
        joined: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class MemoryDecoding:
    """Token by token over memory [B, n, D], each image serving `samples` rows, with key-value caches."""

    def __init__(self, decoder: Decoder, memory: Tensor, samples: int) -> None:
        self._decoder = decoder
        self._image = decoder.look(memory, samples)
        self._past: list[KeysValues] = []

    def step(self, tokens: Tensor) -> Tensor:
        hidden, self._past = self._decoder(tokens, self._image, self._past)
        logits: Tensor = self._decoder.output(hidden[:, -1])
        return logits

    def keep(self, rows: Tensor) -> None:
        self._image = [(keys[rows], values[rows]) for keys, values in self._image]
        self._past = [(keys[rows], values[rows]) for keys, values in self._past]


def sequence_encoding(start: int, length: int, channels: int) -> Tensor:
    """Sines and cosines of the places start, ..., start + length - 1 of a sequence, [length, channels]; wavelengths
    from 2 pi to 20,000 pi tokens (Vaswani et al., 2017)."""
    place = torch.arange(start, start + length)[:, None]
    angle = place * 10_000 ** (-torch.arange(0, channels, 2) / channels)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def build(settings: Mapping[str, Any], tokens: NameVocabulary) -> Model:
    """From torch's global generator, but for what `backbone_weights` has."""
    names = ("backbone", "image_size", "stride", "backbone_weights")
    tower = TimmTower(*(settings[name] for name in names))
    decoder = Decoder(tokens.size, settings["width"], settings["layers"], settings["heads"])
    return Model(tower, decoder, settings["width"])
