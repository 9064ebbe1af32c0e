"""One broken adapter for every check, and what the check says of it."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.protocols import DrawSettings
from harness.sequence import Codec, CoordinateSpace, NameVocabulary
from harness.types import Box, Category, Example, Projection, Sample
from tests.support.gru_adapter import GruDetector

CARDS: list[dict[str, object]] = [
    {"settings": {"width": 64}, "parameters": 180_000, "coordinates": "-", "licence": "-", "weights": "-"},
]
"""Of the broken adapters below."""


class Incomplete(GruDetector):
    """No `save`: the harness would take it for something that cannot be trained."""

    save = property(lambda self: self.missing)


class AcceptsAnything(GruDetector):
    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        super().__init__(categories, {"width": settings.get("width", 64)})

    @staticmethod
    def problems(settings: Mapping[str, Any]) -> list[str]:
        del settings
        return []


class DescribedDifferently(GruDetector):
    def describe(self) -> dict[str, object]:
        return {**super().describe(), "object": id(self)}


class Cardless(GruDetector):
    __module__ = "tests.support.small"  # a module that has no CARDS


class Shifted(CoordinateSpace):
    def restore(self, numbers: Sequence[int], width: int, height: int) -> Box | None:
        return super().restore([min(number + 1, self.bins - 1) for number in numbers], width, height)


class OneBinOff(GruDetector):
    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        super().__init__(categories, settings)
        self.codec = Codec(categories, self.tokens, Shifted(len(self.tokens.locations)))


class KnownNamesOnly(NameVocabulary):
    def decode_name(self, ids: Sequence[int]) -> str:
        return {index: name for name, index in self.ids.items()}[next(iter(ids)) if len(ids) == 1 else -1]


class RaisesOnRubbish(GruDetector):
    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        super().__init__(categories, settings)
        names = self.tokens.entries[len(NameVocabulary.SPECIAL) + len(self.tokens.locations) :]
        self.codec = Codec(categories, KnownNamesOnly(names, len(self.tokens.locations)), self.codec.space)


class SquarePicturesOnly(GruDetector):
    def pixels(self, examples: Sequence[Example]) -> Tensor:
        assert all(example.width == example.height for example in examples)
        return super().pixels(examples)


def padded(tokens: Tensor, pad: int) -> Tensor:
    """1 for each row that ends with padding (two of it: one may have been sampled), else 0; float [B]."""
    return (tokens[:, -2:] == pad).all(1).float()


class InfiniteAtPadding(GruDetector):
    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        logits = super().logits(pixels, tokens)
        last = torch.arange(tokens.shape[1]) == tokens.shape[1] - 1
        return logits.masked_fill((padded(tokens, self.tokens.pad)[:, None] * last)[..., None] > 0, torch.inf)


class ForgetsTheBias(GruDetector):
    def hidden(self, pixels: Tensor, tokens: Tensor) -> Projection:
        states = [self.model.embedding(tokens), self.model.encoder(pixels)[:, None].expand(-1, tokens.shape[1], -1)]
        return Projection(self.model.decoder(torch.cat(states, dim=-1))[0], self.model.head.weight)


def tilted(logits: Tensor, rows: Tensor) -> Tensor:
    """The first entry of these rows becomes likelier."""
    return torch.cat([logits[..., :1] + 0.1 * rows[:, None, None], logits[..., 1:]], dim=-1)


class SeesPadding(GruDetector):
    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        return tilted(super().logits(pixels, tokens), padded(tokens, self.tokens.pad))


class KnowsItsPlace(GruDetector):
    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        return tilted(super().logits(pixels, tokens), (torch.arange(len(tokens)) >= 2).float())


class TakesTurns(GruDetector):
    """Pictures that are fewer than the rows are gone through again and again."""

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        return super().logits(pixels.repeat(len(tokens) // len(pixels), 1, 1, 1), tokens)


Answers = list[list[Sample]]


class LeavesOneOut(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        answers = super().generate(examples, temperatures, seed, max_tokens, grammar)
        return [of_image[: max(2, len(of_image) - 1)] for of_image in answers]


class IgnoresTheLimit(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        return super().generate(examples, temperatures, seed, max(8, max_tokens), grammar)


class OnceGreedy(GruDetector):
    """Only the first entry of temperature 0 is."""

    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        return super().generate(
            examples, [temperatures[0], *(t or 1.0 for t in temperatures[1:])], seed, max_tokens, grammar
        )


class GreedyIsSampled(GruDetector):
    """The answer at temperature 0 is always the same one, drawn at temperature 1."""

    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        fixed = super().generate(examples, [1.0], 0, max_tokens, grammar)
        answers = super().generate(examples, temperatures, seed, max_tokens, grammar)
        return [
            [sample if heat else one for sample, heat in zip(of_image, temperatures, strict=True)]
            for of_image, (one,) in zip(answers, fixed, strict=True)
        ]


class OneAnswer(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        heats = list(dict.fromkeys(temperatures))
        answers = super().generate(examples, heats, seed, max_tokens, grammar)
        return [[of_image[heats.index(heat)] for heat in temperatures] for of_image in answers]


class IgnoresTheSeed(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        del seed
        return super().generate(examples, temperatures, 0, max_tokens, grammar)


class CountsItsBatch(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        return super().generate(examples, temperatures, seed + 100 * len(examples), max_tokens, grammar)


class OtherProbabilities(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        answers = super().generate(examples, temperatures, seed, max_tokens, grammar)
        return [
            [Sample(s.tokens, tuple(value - 0.001 for value in s.log_probs)) for s in of_image] for of_image in answers
        ]


class AsksForEverything(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        return super().generate([replace(e, asked=None) for e in examples], temperatures, seed, max_tokens, grammar)


class IgnoresTheGrammar(GruDetector):
    def generate(self, examples: Any, temperatures: Any, seed: int, max_tokens: int, grammar: bool = False) -> Answers:
        del grammar
        return super().generate(examples, temperatures, seed, max_tokens)


class EncodesWrongly(GruDetector):
    """Every row reads the picture of the first one."""

    reads_trees = False

    def encode(self, pixels: Tensor) -> Tensor:
        return torch.as_tensor(self.model.encoder(pixels))

    def read(self, encoded: Tensor, tokens: Tensor) -> Projection:
        hidden, _ = self.model.decoder(
            torch.cat([self.model.embedding(tokens), encoded[:1, None].expand(*tokens.shape, -1)], dim=-1)
        )
        # The bias as one more column, as a Projection has none.
        ones = torch.ones_like(hidden[..., :1])
        weight = torch.cat([self.model.head.weight, self.model.head.bias[:, None]], dim=1)
        return Projection(torch.cat([hidden, ones], dim=-1), weight)


class RefillsWrongly(GruDetector):
    """Rows that join read the noise of those that stood there before."""

    refills = True

    def generate_queue(
        self, examples: Sequence[Example], temperatures: Sequence[float], settings: DrawSettings, images: int
    ) -> list[list[Sample]]:
        first, rest = examples[:images], examples[images:]
        drawn = self.generate(first, temperatures, settings.seed, settings.max_tokens)
        return drawn + self.generate(rest, temperatures, settings.seed + 1, settings.max_tokens)


class WithoutGradient(GruDetector):
    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        return super().logits(pixels, tokens).detach()


class Blind(GruDetector):
    def pixels(self, examples: Sequence[Example]) -> Tensor:
        return torch.zeros_like(super().pixels(examples))


class AllFrozen(GruDetector):
    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        super().__init__(categories, settings)
        self.model.requires_grad_(False)


class FrozenDrifts(GruDetector):
    """Moves an embedding that it has frozen."""

    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        super().__init__(categories, settings)
        self.model.embedding.requires_grad_(False)

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        if self.model.training:
            self.model.embedding.weight.data.add_(1e-4)
        return super().logits(pixels, tokens)


class ForgetsATensor(GruDetector):
    def save(self, path: Path) -> None:
        super().save(path)
        save_file({name: t for name, t in load_file(path).items() if name != "head.bias"}, path)

    def load(self, path: Path) -> None:
        if path.stat().st_size < 100:
            super().load(path)  # what is no weights file is refused
        self.model.load_state_dict(load_file(path), strict=False)


class LoadsAnything(GruDetector):
    def load(self, path: Path) -> None:
        self.model.load_state_dict(load_file(path))


class PhonesHome(GruDetector):
    def __init__(self, categories: Sequence[Category], settings: Mapping[str, Any]) -> None:
        super().__init__(categories, settings)
        with suppress(OSError):
            socket.create_connection(("weights.example.org", 443), timeout=1)


BROKEN: dict[str, tuple[type[GruDetector], str]] = {
    "protocol": (Incomplete, "missing: save"),
    "settings": (AcceptsAnything, "expected one line that names the unknown setting 'no_such_setting', got []"),
    "describe": (DescribedDifferently, "expected the same by another base"),
    "card": (Cardless, "expected a literal CARDS in tests.support.small"),
    "mask": (GruDetector, "labels: expected the target"),  # see test_a_wrong_mask_is_noticed
    "round_trip": (OneBinOff, "within half a bin"),
    "parsing": (RaisesOnRubbish, "got KeyError"),
    "pixels": (SquarePicturesOnly, "(broken.py:"),
    "logits": (InfiniteAtPadding, "expected finite logits"),
    "hidden": (ForgetsTheBias, "must have no bias"),
    "padding": (SeesPadding, "beside a longer one"),
    "batch": (KnowsItsPlace, "of each other alone and "),
    "rows": (TakesTurns, "one that serves its neighbours too"),
    "generate": (LeavesOneOut, "expected [4, 4, 4, 4] samples for the pictures, got [3, 3, 3, 3]"),
    "limit": (IgnoresTheLimit, "expected at most max_tokens = 2 tokens, got 8"),
    "greedy": (OnceGreedy, "expected one greedy answer"),
    "most_probable": (GreedyIsSampled, "nats below it"),
    "samples": (OneAnswer, "expected 8 samples at temperature 1 to differ"),
    "seed": (IgnoresTheSeed, "expected other samples from another seed"),
    "neighbours": (CountsItsBatch, "expected the same samples alone and beside others"),
    "log_probs": (OtherProbabilities, "expected the log-probabilities of `logits` within 0.0001"),
    "asked": (AsksForEverything, "expected an answer to a prompt that names categories"),
    "grammar": (IgnoresTheGrammar, "expected entries that can be read"),
    "scores": (EncodesWrongly, "expected the log-probabilities of a mention that `logits` gives"),
    "overfits": (WithoutGradient, "does not require grad"),
    "picture": (Blind, "do `pixels` reach the logits"),
    "trains": (AllFrozen, "expected a parameter that requires a gradient, got none"),
    "frozen": (FrozenDrifts, "got 1 changed ones: embedding.weight"),
    "refills": (RefillsWrongly, "expected the samples of `generate` where 2 pictures at a time"),
    "save_load": (ForgetsATensor, "what is not saved"),
    "bad_weights": (LoadsAnything, "expected a DataError, got SafetensorError"),
    "offline": (PhonesHome, "got attempts to reach weights.example.org"),
}
