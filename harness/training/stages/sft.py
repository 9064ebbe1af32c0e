"""Continued fine-tuning as a stage of training: any objective, so minimum-risk training and its like too."""

from __future__ import annotations

from harness.suite.stage_settings import Sft
from harness.suite.train_settings import Train
from harness.training.finetuning import FineTuning
from harness.training.objective import prepare
from harness.training.stage import Work


def stage(settings: Sft, plan: Train, work: Work) -> FineTuning:
    """Makes the stage (see harness.training.stages.kinds). Where the objective has a reference, that becomes the
    model as the stage begins."""
    name, objective = settings.of
    ready = prepare(name, objective, work.fresh(), work.heldout, plan, work.seed)
    return FineTuning(ready, plan, ready.reference)
