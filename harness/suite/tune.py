"""What a suite may say of the learning rates of its objectives (`tune:`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from harness.system.strict import StrictModel


class Tune(StrictModel):
    """`tune:` gives every objective the learning rate of `lr` that suits it, so that a comparison does not turn on one
    that suits some of them. Each is trained with each, with `seed` and for `steps` (by default as long as it is trained
    anyway, stages after fine-tuning left out), and the one with the best `criterion` on the calibration split is taken:
    the highest AP of the greedy answers, or the lowest held-out loss. See harness.run.tuning."""

    lr: tuple[Annotated[float, Field(gt=0)], ...]
    steps: Annotated[int, Field(ge=1)] | None = None
    criterion: Literal["AP", "heldout_nll"] = "AP"
    seed: Annotated[int, Field(ge=0)] = 1000

    @field_validator("lr")
    @classmethod
    def _different(cls, lr: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(lr)) != len(lr) or len(lr) < 2:
            raise ValueError(f"expected two or more different learning rates, got {list(lr)}")
        return lr
