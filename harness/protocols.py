"""The extension points. A benchmark or a model family is one class that has these methods; a corrector is a function.

Nothing is inherited: masks, objectives, scores, matching and records are functions that work on what
these protocols return. Two things are asked of the class itself: how it is called,

    Benchmark(settings, data)          data: the folder given with --data, or None
    Predictor(categories, settings)

and a static method `problems(settings) -> list[str]` that lists, without loading anything, the mistakes in settings
(unknown keys, types, ranges), so that all mistakes of a suite file are reported at once. The module of a predictor
also defines CARDS (see harness.types.Card). `detmodes check adapter` checks this contract.
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

    One that renders its pictures, so that `describe` determines them, has `renders_pictures = True`; for others,
    digests of the pictures are part of a cell's identity.
    """

    name: str
    categories: tuple[Category, ...]

    def split(self, name: str) -> tuple[Example, ...]:
        """Returns the examples of "train", "val" or "calibration" (held out from both; for thresholds and budgets)."""
        ...

    def evaluate(self, split: str, detections: Sequence[Detection], engine: str = "fast") -> Evaluation:
        """Computes the official figures. `engine`: "fast", or the reference implementation."""
        ...

    def match(self, split: str, detections: Sequence[Detection]) -> Matches:
        """Returns what `evaluate` sums: which detections count and which are right, so that intervals can sum them
        again."""
        ...

    def describe(self) -> dict[str, object]:
        """Returns what identifies the data in a record: settings and digests, JSON values only."""
        ...


@runtime_checkable
class LeavesOut(Benchmark, Protocol):
    """A benchmark that can leave out images, so that a suite may have `images: skip`."""

    def without(self, image_ids: Mapping[str, Collection[int]]) -> Benchmark:
        """Returns the same benchmark without these images (split -> ids), which figures and `match` do not count
        either.

        Its `describe` has them as "left_out": they are part of a cell's identity and record.
        """
        ...


@runtime_checkable
class NeedsPictures(Benchmark, Protocol):
    """A benchmark whose pictures are files that somebody puts there, and that may be missing."""

    def require_pictures(self) -> None:
        """Raises DataError, one line, where the picture of an image is not there."""
        ...


class Predictor(Protocol):
    """Generates sequences for images. The oracles are only predictors."""

    codec: Codec

    def generate(
        self,
        examples: Sequence[Example],
        temperatures: Sequence[float],
        seed: int,
        max_tokens: int,
        grammar: bool = False,
    ) -> list[list[Sample]]:
        """Generates one sample per entry of `temperatures` for each example; 0 means greedy.

        Every image is encoded once, whatever the number of samples. Log-probabilities are raw. Samples of an image
        depend on `seed`, the image and its prompt (Codec.prompt), not on the rest of the batch.
        """
        ...

    def describe(self) -> dict[str, object]:
        """Returns what identifies the model in a record: configuration and weights digest."""
        ...


@runtime_checkable
class Adapter(Predictor, Protocol):
    """A predictor that can be fine-tuned."""

    @property
    def model(self) -> nn.Module:
        """The model; an attribute suffices. It is read-only here, so that an adapter may declare a subclass of
        Module."""
        ...

    def pixels(self, examples: Sequence[Example]) -> Tensor:
        """Returns model-ready images [B, 3, H, W], float32, on the CPU.

        The pixels of an image depend on nothing else, and several threads may call this at once: training reads
        ahead.
        """
        ...

    def logits(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Computes teacher-forced logits [B, L, V] for tokens [B, L] (prompt, then targets, then padding).

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
    """An adapter with gradient checkpointing, so that a suite may have `train.gradient_checkpointing: true`."""

    def checkpoint_gradients(self) -> None:
        """Makes forward passes with gradient store only the inputs of the model's blocks; the backward pass computes
        the rest again. Gradients do not change."""
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
    """An adapter that also returns the states before the output embedding.

    Training then never holds the logits of a whole batch. The values must be those of `logits`.
    """

    def hidden(self, pixels: Tensor, tokens: Tensor) -> Projection:
        """Computes teacher-forced hidden states [B, L, D] for tokens [B, L], and returns them with the output
        embedding [V, D]; images as in `Adapter.logits`."""
        ...


@runtime_checkable
class ContextLength(Protocol):
    """An adapter with a known context length, so that a target or an answer that is too long is reported before
    anything is computed."""

    @property
    def context_length(self) -> int | None:
        """Returns the largest number of tokens of prompt and answer; None where there is no limit."""
        ...


@runtime_checkable
class TakesCoordinates(Protocol):
    """A predictor without fixed coordinates (the oracles): it answers in those of the compared models, so that it
    shows the limit of their quantisation."""

    def take_coordinates(self, space: Space) -> None:
        """Answers in this space from now on; a space without location tokens changes nothing."""
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
    """An adapter that can encode an image separately, so that scoring encodes it once and reads common beginnings of
    sequences once. The values must be those of `logits`.
    """

    @property
    def reads_trees(self) -> bool:
        """Tells whether the network takes TokenTrees; otherwise scoring makes a row for every sequence."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Encodes images [B, 3, H, W] to [B, ...], which rows of tokens read."""
        ...

    def read(self, encoded: Tensor, tokens: Tensor | TokenTrees) -> Projection:
        """Returns hidden states [R, L, D] of tokens [R, L], and the output embedding [V, D]. encoded [R, ...]: of
        each row's image. TokenTrees are passed only if `reads_trees`."""
        ...


Follow = Callable[["Tensor", "Tensor | TokenTrees"], "Tensor"]
"""Images [R] (indices) and the tokens [R, L] that follow the prompt of each -> logits [R, L, V]. Places in trees count
the prompt, and every token sees all of it."""


@runtime_checkable
class ReadsPrompts(Protocol):
    """What an adapter may offer where its image is a part of the prompt, so that scoring reads both once for all
    sequences about the image. The values must be those of `logits`.
    """

    @property
    def follows_trees(self) -> bool:
        """Whether the tokens that follow may be TokenTrees."""
        ...

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
