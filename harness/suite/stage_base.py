"""What all stages after fine-tuning have in common in a suite: how they are optimised, and how they sample.

The stages themselves stand in harness.suite.stage_settings and harness.suite.preference_settings.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from harness.metrics.samples.reward import REWARDS
from harness.system.strict import DigestedModel

Batching = Literal["shuffled", "grouped", "collision"]

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
OPTIMISED = ("steps", "lr", "weight_decay", "warm_up", "clip", "log_every", "eval_at")
"""Settings of every stage that mean what they mean in `train`."""


class Amount(NamedTuple):
    """How many sequences a stage takes, in all its steps: drawn from the model, and trained on."""

    drawn: int
    trained: int


class StageSettings(DigestedModel):
    """What all stages have. Steps, those of `eval_at` too, are counted from the stage's start; its end is always
    evaluated. What is not said here is as in `train`, but for what ends with it: its batching, `groups`, `schedule` and
    `ema`. What a stage begins with is what fine-tuning left, with `ema` the mean of its weights."""

    # A stage of another package also has `make(self, plan, work)`, which returns a harness.training.stage.Stage and
    # imports what that needs, and may have `problems(self, examples)`: why it cannot run with these training images.
    # Its `name` is a Literal with the name of its entry point.

    equation: ClassVar[str]
    """What it minimises, in one line."""
    source: ClassVar[str]
    """Who published it."""
    per_step: ClassVar[str] = "batch_size"
    """The setting that says what a step takes; several processes share it evenly."""
    name: str
    """Which stage it is."""
    steps: Positive = 60
    """Steps of the stage."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate, constant after the warm-up."""
    weight_decay: NotNegative = 0.0
    """Weight decay of AdamW."""
    warm_up: Annotated[int, Field(ge=0)] = 5
    """Steps in which the learning rate rises linearly to its full value."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of a step's gradient; a larger one is scaled down."""
    log_every: Positive = 5
    """Steps from one row of the training curve to the next."""
    eval_at: tuple[Positive, ...] = ()
    """Steps of the stage after which the model is evaluated, beside its end."""

    @model_validator(mode="after")
    def _evaluations_in_range(self) -> StageSettings:
        if late := [step for step in self.eval_at if step > self.steps]:
            raise ValueError(f"eval_at: expected steps up to {self.steps} of this stage, got {late}")
        return self

    @property
    def batch(self) -> int:
        """How much a step takes, in units that stay whole: images, sequences or pairs."""
        size: int = getattr(self, self.per_step)
        return size

    @property
    def planned(self) -> dict[str, Any]:
        """The settings that this stage has otherwise than `train`, by their names there."""
        ends = {"batching": "shuffled", "collision_rate": None, "groups": (), "schedule": "constant", "ema": None}
        return {**ends, **self.model_dump(include={*OPTIMISED}), "batch_size": self.batch}

    @property
    @abstractmethod
    def amount(self) -> Amount: ...

    @property
    def described(self) -> dict[str, Any]:
        """Returns the settings as they are in a record and in the digest of a cell. DataError where a file that they
        name cannot be read."""
        return self.without_unused(self.model_dump(mode="json"))


class Sampling(StageSettings):
    """Of stages that draw `samples` sequences of each of `images` training images at `temperature`, and pay each its
    `reward`."""

    images: Positive = 64
    """Training images that sequences are drawn of."""
    samples: Annotated[int, Field(ge=2, le=1000)] = 8
    """Sequences drawn of an image."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Logits are divided by it before a sequence is drawn."""
    reward: str = "detection"
    """What a sequence is paid (`detmodes list rewards`)."""

    @field_validator("reward")
    @classmethod
    def _known(cls, reward: str) -> str:
        if wrong := REWARDS.problems(reward):
            raise ValueError("; ".join(wrong))
        return reward
