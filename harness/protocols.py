"""The extension points. A benchmark or a model family is one class that has these methods; a corrector is a function.

Nothing is inherited: masks, objectives, scores, matching and records are functions that work on what
these protocols return. Two things are asked of the class itself: how it is called,

    Benchmark(settings, data)          data: the folder given with --data, or None
    Predictor(categories, settings)

and a static method `problems(settings) -> list[str]` that says, without loading anything, what is wrong with
settings (unknown keys, types, ranges), so that a suite file's mistakes are all reported at once. The module of a
predictor has its CARDS beside it (see harness.types.Card). `detmodes check-adapter` checks what is promised here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from harness.metrics.detection.accumulate import Matches
from harness.metrics.diagnosis.codebook import Kind, SampleErrors
from harness.sequence import Codec, Space
from harness.types import Category, Detection, Evaluation, Example, Parsed, Projection, Sample, TokenTrees

if TYPE_CHECKING:
    from torch import Tensor, nn

Targets = Literal["canonical", "random"]
Tokens = tuple[int, ...]


class Benchmark(Protocol):
    """Images with objects, and the official evaluator for them.

    One that renders its pictures itself, so that `describe` says all about them, has `renders_pictures = True`; of
    others, digests of the pictures are a part of what identifies a cell.
    """

    name: str
    categories: tuple[Category, ...]

    def split(self, name: str) -> tuple[Example, ...]:
        """Examples of "train", "val" or "calibration" (held out from both; for thresholds and budgets)."""
        ...

    def evaluate(self, split: str, detections: Sequence[Detection], engine: str = "fast") -> Evaluation:
        """The official figures. `engine`: "fast", or the reference implementation."""
        ...

    def match(self, split: str, detections: Sequence[Detection]) -> Matches:
        """What `evaluate` summed up: which detections count and which are right, so that intervals can sum again."""
        ...

    def describe(self) -> dict[str, object]:
        """What a record must hold to identify the data: settings and digests, JSON values only."""
        ...


@runtime_checkable
class LeavesOut(Benchmark, Protocol):
    """A benchmark that can do without some of its images, so that a suite may say `images: skip`."""

    def without(self, image_ids: Mapping[str, Collection[int]]) -> Benchmark:
        """The same benchmark without these images (split -> ids), which figures and `match` do not count either.

        Its `describe` has them as "left_out": they are part of what identifies a cell, and stand in its record.
        """
        ...


@runtime_checkable
class NeedsPictures(Benchmark, Protocol):
    """A benchmark whose pictures are files that somebody puts there, and that may be missing."""

    def require_pictures(self) -> None:
        """Raises DataError, one line, where the picture of an image is not there."""
        ...


class Predictor(Protocol):
    """Emits sequences for images. The oracles are no more than this."""

    codec: Codec

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int,
        max_tokens: int,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        """For each example one sample per entry of `temperatures`, 0 being greedy.

        Every image is encoded once, whatever the number of samples. Log-probabilities are raw. What an image
        gets depends on `seed`, the image and what its prompt (Codec.prompt) asks, not on the rest of the batch.
        """
        ...

    def describe(self) -> dict[str, object]:
        """What a record must hold to identify the model: configuration and weights digest."""
        ...


@runtime_checkable
class Adapter(Predictor, Protocol):
    """A predictor that can be fine-tuned."""

    @property
    def model(self) -> nn.Module:
        """An attribute will do; read only, so that it may be declared as its own class of module."""
        ...

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        """Model-ready images [B, 3, H, W], float32, on the CPU.

        What an image becomes depends on nothing else, and several threads may ask at once: training reads ahead.
        """
        ...

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Teacher-forced logits [B, L, V] for tokens [B, L] (prompt, then targets, then padding).

        One image may serve several neighbouring rows of tokens: B of tokens is a multiple of B of pixels. It need be
        encoded only once.
        """
        ...

    def save(self, path: Path) -> None:
        """Writes the weights as safetensors, atomically."""
        ...

    def load(self, path: Path) -> None:
        """Reads what `save` wrote for the same categories and settings; DataError if it does not fit."""
        ...


@runtime_checkable
class Checkpointed(Protocol):
    """What an adapter may offer, so that a suite may say `train.gradient_checkpointing: true`."""

    def checkpoint_gradients(self) -> None:
        """From now on a forward pass with gradient keeps the inputs of the model's blocks alone, and the backward pass
        computes the rest again. Gradients stay what they are."""
        ...


class NamesPlaces(Protocol):
    """What a class may have beside `problems`: which of its settings are read as files, folders or repositories.

    A cell's record is written by whoever had the folder, so that `detmodes predict` reads such places only where the
    command line allows it (`--allow`). Of a class that does not say, every text among its settings counts as one.
    """

    @staticmethod
    def places(settings: Mapping[str, Any]) -> list[str]:
        """The places among these settings, as they stand there; nothing is read."""
        ...

    @staticmethod
    def places_behind(place: str) -> list[str]:
        """What has to be read beside what lies at a place, as that says itself: what the weights of a cell began with.
        A class without this method reads nothing more."""
        ...


class RunsRemoteCode(Protocol):
    """What the class of an adapter may have that can run code which comes with a model."""

    @staticmethod
    def remote_code(settings: Mapping[str, Any]) -> str | None:
        """The place that the code would come from, as it stands in the settings; None where there is no code.

        Where the command line names it (`--trust-remote-code`), the settings have `trust_remote_code: true`. They
        never have that of a suite or a record.
        """
        ...


@runtime_checkable
class HiddenStates(Protocol):
    """What an adapter may offer beside `logits`: the step before the output embedding.

    Training then never holds the logits of a whole batch. The values must be those of `logits`.
    """

    def hidden(self, pixels: Tensor, tokens: Tensor) -> Projection:
        """Teacher-forced hidden states [B, L, D] for tokens [B, L], and the output embedding [V, D]; images as in
        `Adapter.logits`."""
        ...


@runtime_checkable
class ContextLength(Protocol):
    """What an adapter may offer, so that a target or an answer that is too long is told before anything is computed."""

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and answer together that the network can read; None where nothing bounds them."""
        ...


@runtime_checkable
class TakesCoordinates(Protocol):
    """What a predictor without coordinates of its own offers (the oracles): it answers in those of the models that it
    is compared with, so that it shows what their quantisation leaves."""

    def take_coordinates(self, space: Space) -> None:
        """From now on it answers in this space; one that has no tokens for locations changes nothing."""
        ...


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """How samples are drawn, whatever they are of: as `Predictor.generate` has it."""

    seed: int
    max_tokens: int
    grammar: bool = False


@runtime_checkable
class Refills(Protocol):
    """What an adapter may offer beside `generate`, so that no answer waits for the longest one of its batch: the rows
    of the next image begin as soon as there is room for them."""

    @property
    def refills(self) -> bool:
        """Whether the network reads rows that have come to different lengths."""
        ...

    def generate_queue(
        self, examples: Sequence[Example], temperatures: Sequence[float], settings: DrawSettings, images: int
    ) -> list[list[Sample]]:
        """What `generate` returns of any number of examples; at most so many images are decoded at once. Asked for only
        where `refills` says so. Rows of different lengths are rounded otherwise than rows of one."""
        ...


@runtime_checkable
class EncodesImages(Protocol):
    """What an adapter may offer beside `logits`, so that scoring encodes an image once and reads what sequences have in
    common once. The values must be those of `logits`.
    """

    @property
    def reads_trees(self) -> bool:
        """Whether the network takes TokenTrees; without it scoring gives every sequence a row of its own."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """What rows of tokens read of each image: [B, ...] of images [B, 3, H, W]."""
        ...

    def read(self, encoded: Tensor, tokens: Tensor | TokenTrees) -> Projection:
        """Hidden states [R, L, D] of tokens [R, L], and the output embedding [V, D]. encoded [R, ...]: of each row's
        image. TokenTrees are given only where `reads_trees` says so."""
        ...


Follow = Callable[["Tensor", "Tensor"], "Tensor"]
"""Images [R] (indices) and the tokens [R, L] that follow the prompt of each -> logits [R, L, V]."""


@runtime_checkable
class ReadsPrompts(Protocol):
    """What an adapter may offer where its image is a part of the prompt, so that scoring reads both once for all
    sequences about the image. The values must be those of `logits`.
    """

    def read_prompts(self, pixels: Tensor, prompts: Tensor) -> tuple[Tensor, Follow]:
        """Reads images [B, 3, H, W] with prompts [B, n]: logits [B, V] of what follows each, and a function that reads
        on."""
        ...


@dataclass(frozen=True, slots=True)
class Correction:
    """kind: of the error. context, answer: tokens to follow the image and the prompt, without and with loss; the answer
    begins with what stands between two objects where it goes on. question, reply: the same error in words."""

    kind: Kind
    context: Tokens
    answer: Tokens
    question: str
    reply: str


class Corrector(Protocol):
    """G of nSFT: corrections of one sample's errors, in any number; they depend on `rng` alone.

    Made by `factory(codec, targets)`: a line of CORRECTORS, or the entry-point group `detmodes.correctors`.
    """

    def __call__(
        self, example: Example, parsed: Parsed, errors: SampleErrors, rng: np.random.Generator, /
    ) -> Sequence[Correction]: ...
