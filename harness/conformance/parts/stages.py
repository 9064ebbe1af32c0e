"""Checks of a stage after fine-tuning: a few steps of it on rendered pictures, with the shipped tiny base."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from harness import registry
from harness.conformance.parts.objectives import require_torch_free
from harness.conformance.subject import SHAPES, require
from harness.inference.device import accelerator_on, base_of
from harness.protocols import Adapter
from harness.suite.stage_base import StageSettings
from harness.suite.stage_settings import STAGES, Then
from harness.suite.train_settings import Train
from harness.training.finetuning import FineTuning
from harness.training.loop import train
from harness.training.objective import prepare
from harness.training.stage import Work
from harness.training.stages import kinds

UNKNOWN = "no_such_setting"
SMALL = {"steps": 3, "images": 16, "samples": 4, "log_every": 1, "warm_up": 0}
"""What a stage is asked for, as far as it has such a setting and is given no other: so many images that some have good
samples and bad ones, of which pairs are made."""
BEFORE = Train(steps=1, batch_size=4, lr=1e-5, log_every=1)
"""The fine-tuning before it."""


@dataclass(frozen=True)
class StageSubject:
    """A stage's name and settings."""

    name: str
    given: Mapping[str, Any]

    @cached_property
    def settings(self) -> StageSettings:
        usual = {key: value for key, value in SMALL.items() if key in STAGES[self.name].model_fields}
        return self.read(usual | dict(self.given))

    def read(self, settings: Mapping[str, Any]) -> StageSettings:
        read: StageSettings = TypeAdapter(Then).validate_python({"name": self.name, **settings})
        return read

    @cached_property
    def trained(self) -> tuple[list[dict[str, Any]], Tensor, Tensor]:
        return self.train()

    def train(self) -> tuple[list[dict[str, Any]], Tensor, Tensor]:
        """Returns the curve of the stage, and all weights before fine-tuning and after the stage."""
        benchmark, accelerator = registry.benchmark("shapes", SHAPES, None), accelerator_on("cpu")

        def fresh() -> Adapter:
            made = base_of(lambda: registry.model("open_flamingo", benchmark.categories, {}), accelerator)
            assert isinstance(made, Adapter)
            return made

        adapter, examples = fresh(), benchmark.split("train")
        before = _weights(adapter)
        work = Work(adapter, examples, 0, accelerator, heldout=benchmark.split("val"), fresh=fresh)
        kinds.require_possible(self.settings, examples, accelerator)
        stage = kinds.stage(self.settings, BEFORE.with_changes(self.settings.planned), work)
        first = FineTuning(prepare("ce", {}, fresh(), (), BEFORE, 0), BEFORE)
        curve = train(work, [first, stage])
        return [row for row in curve if row["step"] > BEFORE.steps], before, _weights(adapter)


def _weights(adapter: Adapter) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in adapter.model.parameters()])


def settings(subject: StageSubject) -> None:
    """Its settings can be read, are written back the same, and a key that it does not know is refused."""
    read = subject.settings
    again = subject.read({key: value for key, value in read.model_dump(mode="json").items() if key != "name"})
    require(again == read, f"expected the settings {read} again after they are written, got {again}")
    try:
        subject.read({UNKNOWN: 1})
    except ValidationError as error:
        require(UNKNOWN in str(error), f"expected a mistake that names {UNKNOWN!r}, got {error}")
    else:
        require(False, f"expected the setting {UNKNOWN!r} to be refused")


def described(subject: StageSubject) -> None:
    """Equation and source are one line each, as `detmodes list stages` shows them."""
    for key in ("equation", "source"):
        text = getattr(subject.settings, key, None)
        require(isinstance(text, str) and "\n" not in text, f"{key}: expected a line, got {text!r}")


def torch_free(subject: StageSubject) -> None:
    """Importing it imports no torch, so that a suite that names it is read without."""
    require_torch_free(STAGES.point(subject.name), "harness.suite.stage_settings")


def amount(subject: StageSubject) -> None:
    """`amount` says how many sequences it draws and trains on, for what a run will cost."""
    drawn, trained = subject.settings.amount
    require(drawn >= 0 and trained > 0, f"amount: expected at least 0 drawn and 1 trained on, got {drawn}, {trained}")


def trains(subject: StageSubject) -> None:
    """It takes the steps that its plan says, each with a finite loss, and changes the model."""
    curve, before, after = subject.trained
    steps = [row["step"] - BEFORE.steps for row in curve]
    expected = list(range(1, subject.settings.steps + 1))
    require(steps == expected, f"expected the steps {expected}, got {steps}")
    losses = [row["loss"] for row in curve]
    require(all(map(math.isfinite, losses)), f"expected finite losses, got {losses}")
    require(not torch.equal(before, after), "expected the weights to change")


def repeatable(subject: StageSubject) -> None:
    """Trained again from the same seed, it has the same losses and weights, to the last bit."""
    (first, _, expected), (second, _, got) = subject.trained, subject.train()
    losses, again = ([row["loss"] for row in curve] for curve in (first, second))
    require(again == losses, f"expected the losses {losses} again, got {again}")
    require(torch.equal(got, expected), "expected the same weights again")


CHECKS: dict[str, Callable[[StageSubject], None]] = {
    check.__name__: check for check in (settings, described, torch_free, amount, trains, repeatable)
}
