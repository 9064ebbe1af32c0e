"""A stage of another package: fine-tuning goes on, with cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from harness.suite.stage_base import Amount, StageSettings

if TYPE_CHECKING:
    from harness.suite.train_settings import Train
    from harness.training.stage import Stage, Work


class AgainOutside(StageSettings):
    """Fine-tuning once more."""

    equation: ClassVar[str] = "-log p_y"
    source: ClassVar[str] = "parts outside"
    name: Literal["again_outside"] = "again_outside"
    batch_size: int = 4

    @property
    def amount(self) -> Amount:
        return Amount(drawn=0, trained=self.steps * self.batch_size)

    def make(self, plan: Train, work: Work) -> Stage:
        from harness.training.finetuning import FineTuning  # here, not above: a suite is read without torch
        from harness.training.objective import prepare

        return FineTuning(prepare("ce", {}, work.fresh(), (), plan, work.seed), plan)
