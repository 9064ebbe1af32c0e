"""What a suite may say of the stage that follows fine-tuning in a cell (`then:` of an objective's row).

To add a stage, write its settings here with a line in STAGES, and what it trains on (harness.feed.Stage) beside
harness.grpo.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from harness.errors import unknown
from harness.metrics.reward import REWARDS

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
OPTIMISED = ("steps", "lr", "weight_decay", "warm_up", "clip", "log_every", "eval_at")
"""Settings that mean what they mean in `train`."""


class Grpo(BaseModel):
    """Group-relative policy optimisation (Shao et al., 2024; arXiv 2402.03300), on the model's own samples.

    A step draws `samples` sequences of each of `images` training images at `temperature`, pays each its `reward`, and
    makes `updates` optimizer steps of the images whose samples differ in reward. `low`, `high`: how far a token's
    probability ratio may leave 1 before it is clipped. `kl`: weight of the divergence from the fine-tuned model, which
    is held in memory only where this is not 0. Steps, those of `eval_at` too, are counted from the stage's start; its
    end is always evaluated. What is not said here is as in `train`, but for `train.groups`, which end with it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Literal["grpo"]
    steps: Positive = 60
    images: Positive = 16
    samples: Annotated[int, Field(ge=2, le=1000)] = 8
    temperature: Annotated[float, Field(gt=0)] = 1.0
    reward: str = "detection"
    updates: Positive = 1
    low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    high: Annotated[float, Field(gt=0)] = 0.28
    kl: NotNegative = 0.0
    lr: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: NotNegative = 0.0
    warm_up: Annotated[int, Field(ge=0)] = 5
    clip: Annotated[float, Field(gt=0)] = 1.0
    log_every: Positive = 5
    eval_at: tuple[Positive, ...] = ()

    @field_validator("reward")
    @classmethod
    def _known(cls, reward: str) -> str:
        if reward not in REWARDS:
            raise ValueError(unknown("reward", reward, REWARDS))
        return reward

    @model_validator(mode="after")
    def _possible(self) -> Grpo:
        if late := [step for step in self.eval_at if step > self.steps]:
            raise ValueError(f"eval_at: expected steps up to {self.steps} of this stage, got {late}")
        if self.updates > self.images:
            raise ValueError(f"updates: expected at most the {self.images} images of a step, got {self.updates}")
        return self


STAGES: dict[str, type[Grpo]] = {"grpo": Grpo}


def named(value: Any) -> Any:
    """`then: grpo` is `then: {name: grpo}`. ValueError for an unknown name."""
    value = {"name": value} if isinstance(value, str) else value
    if isinstance(value, Mapping) and value.get("name") not in STAGES:
        raise ValueError(unknown("stage", str(value.get("name")), STAGES))
    return value
