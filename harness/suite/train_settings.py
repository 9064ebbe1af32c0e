"""What a suite says of fine-tuning (`train:`): how long, in which batches, how optimised, and when it is looked at.

The text under each field is its meaning in docs/reference/suite.md and in what an editor shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from harness.errors import unknown
from harness.sequence import KINDS
from harness.sequence.targets import PATTERN, members_per_image
from harness.suite.stage_base import Batching
from harness.system.strict import DigestedModel, StrictModel

Positive = Annotated[int, Field(ge=1)]
Schedule = Literal["constant", "cosine", "linear"]
Moment = Annotated[float, Field(ge=0, lt=1)]


EARLY_SEED = 0


def early_places(images: int, number: int) -> NDArray[np.int64]:
    """Choose `number` of so many validation images, for the evaluations before the last step (`eval_images`): the first
    of a fixed permutation, so that fewer are always some of more.

    Returns:
        [number] places in the order of the split.
    """
    return np.random.default_rng(EARLY_SEED).permutation(images)[:number]


class Probe(StrictModel):
    """What is watched in training, on the first images of the calibration split (see harness.evaluation.probe)."""

    every: Positive
    """Steps from one look to the next; the first is before training."""
    images: Positive = 32
    """How many images are looked at."""


class Group(StrictModel):
    """Parameters that have a learning rate or a weight decay of their own; what is not given is that of `train`."""

    match: str
    """A pattern of parameter names, as in a shell."""
    lr: Annotated[float, Field(ge=0)] | None = None
    """Learning rate of these parameters."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """Weight decay of these parameters."""


class MaxObjects(StrictModel):
    """How many objects of its image a target lists at most, so that it stays within what a model can read.
    `max_objects: 20` is {number: 20, drop: random}. The record counts the images and objects concerned."""

    number: Positive
    """Objects of a target."""
    drop: Literal["random", "smallest"] = "random"
    """Which ones are left out: random ones, others in every epoch, or the smallest by area."""

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_number(cls, value: Any) -> Any:
        return {"number": value} if isinstance(value, int) and not isinstance(value, bool) else value


class AdamSettings(StrictModel):
    """Of AdamW (Loshchilov and Hutter, ICLR 2019; arXiv 1711.05101)."""

    betas: tuple[Moment, Moment] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the mean square, which an update is divided by."""


class Train(DigestedModel):
    """How fine-tuning goes. The last step is always evaluated."""

    LATER: ClassVar[frozenset[str]] = frozenset(
        {"ema", "epochs", "eval_images", "gradient_checkpointing", "groups", "loss_weights", "max_objects"}
        | {"micro_tokens", "optimizer", "precision", "schedule"}
    )

    targets: Annotated[str, Field(pattern=PATTERN)] = "canonical"
    """Which right answers of an image are taught: canonical (reading order, first names), random (another order and
    other names in every epoch) or all(n) (n random ones, the same in every epoch)."""
    batching: Batching = "shuffled"
    """How sequences make up batches: shuffled; grouped, all targets of an image in one batch; or collision, a part of a
    batch in pairs of one image (see harness.training.schedule)."""
    collision_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of a batch's sequences that are in such pairs; with `batching: collision` only."""
    steps: Positive = 240
    """Optimizer steps. Either this or `epochs`."""
    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Instead of `steps`: passes over the training images, all targets of each. Rounded up to whole steps, of which the
    last may reach into the next epoch; the record has the steps."""
    batch_size: Positive = 16
    """Sequences of a step, over all processes."""
    micro_batch: Positive | None = None
    """Sequences of a forward pass; gradients accumulate up to `batch_size`. By default all at once."""
    micro_tokens: Positive | None = None
    """Instead of `micro_batch`: positions of a forward pass, prompts and padding included. The sequences of a batch are
    then sorted by length, so that less is padded."""
    lr: Annotated[float, Field(gt=0)] = 3e-4
    """Learning rate."""
    schedule: Schedule = "constant"
    """Of the learning rate after the warm-up: constant, or down to 0 at the end of training, on half a cosine or on a
    line. Only with constant is every step of `eval_at` a fair place to stop: what is compared `at: equal_AP` needs
    it."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of AdamW."""
    warm_up: Annotated[int, Field(ge=0)] = 10
    """Steps in which the learning rate rises linearly to its full value."""
    optimizer: AdamSettings = AdamSettings()
    """The optimizer, AdamW, beside learning rate and weight decay."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """What is evaluated and kept is a mean of the weights after each step, in which each step counts so many times as
    much as the next one (Kingma and Ba, ICLR 2015, section 7.2). Training goes on with the weights themselves."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of a step's gradient; a larger one is scaled down."""
    loss_weights: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    """What the loss at tokens of a kind is multiplied with, e.g. {location: 0.5}; 1 where none is given. It is still
    divided by the number of all target tokens."""
    log_every: Positive = 20
    """Steps from one row of the training curve to the next."""
    eval_at: tuple[Positive | Annotated[float, Field(gt=0)], ...] = ()
    """When the model is evaluated before the end: steps, or epochs where the length is given in `epochs`."""
    eval_images: Positive | None = None
    """How many validation images are asked about before the last step; by default all. They are the first of a fixed
    permutation, so that fewer are always some of more."""
    max_objects: MaxObjects | None = None
    """How many objects a target lists at most, and which are left out."""
    probe: Probe | None = None
    """What is watched in training beside the loss."""
    gradient_checkpointing: bool = False
    """Less memory, more time, the same gradients."""
    groups: tuple[Group, ...] = ()
    """Parameters with settings of their own; of several patterns that match, the first counts."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Numbers of a forward pass: bf16 is autocast; auto is bf16 on a GPU and fp32 elsewhere."""

    @property
    def described(self) -> dict[str, Any]:
        """Returns the settings as they are in a record and in the digest of a cell."""
        assert self.epochs is None, "expected a plan whose length is in steps (Suite.train_of)"
        return self.without_unused(self.model_dump(mode="json"))

    @field_validator("loss_weights")
    @classmethod
    def _kinds_of_tokens(cls, weights: Mapping[str, float]) -> Mapping[str, float]:
        if wrong := [unknown("kind of token", kind, KINDS) for kind in weights if kind not in KINDS]:
            raise ValueError("; ".join(wrong))
        return weights

    @field_validator("eval_at")
    @classmethod
    def _whole_where_it_is(cls, eval_at: tuple[float, ...]) -> tuple[float, ...]:
        """2.0 is 2: cells are told apart by what is written."""
        return tuple(int(at) if float(at).is_integer() else at for at in eval_at)

    @model_validator(mode="after")
    def _one_length(self) -> Train:
        if self.epochs is not None and "steps" in self.model_fields_set:
            raise ValueError("epochs: expected either steps or epochs, got both")
        return self

    @model_validator(mode="after")
    def _evaluations_in_range(self) -> Train:
        length, unit = (self.steps, "steps") if self.epochs is None else (self.epochs, "epochs")
        if late := [at for at in self.eval_at if at > length]:
            raise ValueError(f"eval_at: expected {unit} up to {length:g}, got {late}")
        if self.epochs is None and (parts := [at for at in self.eval_at if not isinstance(at, int)]):
            raise ValueError(f"eval_at: expected whole steps, got {parts}; with epochs it counts epochs")
        return self

    @model_validator(mode="after")
    def _batches_can_be_made(self) -> Train:
        if self.micro_batch is not None and self.micro_tokens is not None:
            raise ValueError("micro_tokens: expected without micro_batch, of which it takes the place")
        if (self.batching == "collision") != (self.collision_rate is not None):
            raise ValueError("collision_rate: expected with batching: collision, and only there")
        if self.batching == "grouped" and self.members == 1:
            raise ValueError(f"batching: grouped needs targets: all(n), got {self.targets}")
        if self.batching == "grouped" and self.batch_size % self.members:
            raise ValueError(f"batch_size: expected a multiple of {self.targets}'s n, got {self.batch_size}")
        return self

    @model_serializer(mode="wrap")
    def _one_length_only(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the default number of steps where `epochs` is given: what is written can be read again."""
        content: dict[str, Any] = serialise(self)
        if self.epochs is not None:
            content.pop("steps", None)
        return content

    def with_changes(self, *changes: Mapping[str, Any]) -> Train:
        """Returns the plan with settings of a model or of a row in the place of its own. Raises ValidationError."""
        content = self.model_dump(mode="json")
        for change in changes:
            if change.get("steps") is not None or change.get("epochs") is not None:  # another length, in whichever unit
                content = {key: value for key, value in content.items() if key not in ("steps", "epochs")}
            content |= change
        return Train.model_validate(content)

    def in_steps(self, images: int) -> Train:
        """Returns the plan with its length and evaluations in steps, where they are in epochs.

        Args:
            images: How many training images (or questions about them) there are.
        """
        if self.epochs is None:
            return self
        content = self.model_dump(mode="json")
        steps = [self.steps_after(epochs, images) for epochs in (self.epochs, *self.eval_at)]
        return Train.model_validate(content | {"epochs": None, "steps": steps[0], "eval_at": steps[1:]})

    def steps_after(self, epochs: float, images: int) -> int:
        """Returns the steps after which so many epochs are over: batches follow each other through the epochs, so that
        only the last of all may hold something of the next one."""
        return max(1, math.ceil(round(epochs * images * self._of_an_image / self._new_of_a_step, 6)))

    def epochs_after(self, images: int) -> float:
        """Returns how often training goes over so many images."""
        return self.steps * self._new_of_a_step / (images * self._of_an_image)

    @property
    def _of_an_image(self) -> int:
        """What an epoch has of an image: its targets; a single draw where a pair takes two of them."""
        return 1 if self.batching == "collision" else self.members

    @property
    def _new_of_a_step(self) -> int:
        """How much a step takes of an epoch: its sequences; of a pair of one image, one."""
        return self.batch_size - (round((self.collision_rate or 0) * self.batch_size / 2))

    @property
    def members(self) -> int:
        """How many target sequences an image has in an epoch."""
        return members_per_image(self.targets)

    @property
    def set_size(self) -> int:
        """Different targets of one image that share a batch by design, 1 if it is left to chance."""
        if self.targets == "canonical" or self.batching == "shuffled":
            return 1
        return self.members if self.batching == "grouped" else 2 if self.collision_rate else 1

    @property
    def evaluations(self) -> tuple[int, ...]:
        """The steps that are evaluated; the last one always is."""
        return tuple(sorted({*map(int, self.eval_at), self.steps}))

    @property
    def probes(self) -> tuple[int, ...]:
        """Steps after which the probe set is looked at; the last one always is. Empty without a probe."""
        return () if self.probe is None else tuple(sorted({*range(0, self.steps + 1, self.probe.every), self.steps}))
