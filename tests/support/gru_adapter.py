"""A detector for small pictures: a convolutional encoder, and a GRU that sees the picture beside every token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from harness import images
from harness import settings as checks
from harness.errors import ConfigError, DataError
from harness.inference.decoding import Steps, sample_all
from harness.sequence import Codec, CoordinateSpace, NameVocabulary, vocabulary_names
from harness.types import Category, Example, Sample
from model_zoo import checkpoint

CARDS: list[dict[str, object]] = [
    {
        "settings": {},
        "parameters": 380_000,
        "coordinates": "65 bins, y x y x",
        "licence": "Apache-2.0",
        "weights": "random",
    },
]
SETTINGS = {"bins": checks.whole(2, default=65), "width": checks.whole(2, default=128)}
SIDE = 64
"""Pictures are squeezed to a square of this many pixels; coordinates are relative, so boxes need no change."""


class Network(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for before, after in ((3, 16), (16, 32), (32, 64), (64, 64)):
            stages += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*stages, nn.Flatten(), nn.Linear(64 * (SIDE // 16) ** 2, width))
        self.embedding = nn.Embedding(vocabulary, width)
        self.decoder = nn.GRU(2 * width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, features: Tensor, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features [B, D] and tokens [B, L] -> logits [B, L, V], and the state to go on from."""
        beside = features[:, None].expand(-1, tokens.shape[1], -1)
        hidden, state = self.decoder(torch.cat([self.embedding(tokens), beside], dim=-1), state)
        logits: Tensor = self.head(hidden)
        return logits, state


class GruDetector:
    """Settings: `bins` of the locations, `width` of the decoder."""

    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        if problems := self.problems(settings):
            raise ConfigError(*problems)
        self.settings = {**checks.defaults(SETTINGS), **settings}
        bins = self.settings["bins"]
        self.tokens = NameVocabulary(vocabulary_names(categories), bins)
        self.codec = Codec(categories, self.tokens, CoordinateSpace(bins))
        self.model = Network(self.tokens.size, self.settings["width"])

    @staticmethod
    def problems(settings: Mapping[str, Any]) -> list[str]:
        return checks.problems("gru_detector", settings, SETTINGS)

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        squares = [images.read(example).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for example in examples]
        return torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(0, 3, 1, 2) / 255.0

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        features = self.model.encoder(pixels).repeat_interleave(len(tokens) // len(pixels), dim=0)
        return self.model.forward(features, tokens)[0]

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int,
        max_tokens: int,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        device = self.model.head.weight.device

        def begin(pictures: Sequence[Example], samples: int) -> Steps:  # one picture, many rows
            features = self.model.encoder(self.pixels(pictures).to(device)).repeat_interleave(samples, dim=0)
            state: Tensor | None = None

            def step(tokens: Tensor) -> Tensor:  # the prompt first, then one token at a time: the state holds the rest
                nonlocal state
                logits, state = self.model.forward(features, tokens, state)
                return logits[:, -1]

            return Steps(step)

        return sample_all(begin, self.codec, examples, temperatures, seed, max_tokens, grammar, device)

    def describe(self) -> dict[str, object]:
        return {"name": "gru_detector", **self.settings, "weights_digest": None}

    def save(self, path: Path) -> None:
        checkpoint.save(self.model, self.tokens.entries, path)

    def load(self, path: Path) -> None:
        tensors, entries = checkpoint.read(path)
        if entries != self.tokens.entries:
            raise DataError(f"{path}: made for another vocabulary ({len(entries)} entries, not {self.tokens.size})")
        checkpoint.load(self.model, tensors)
