"""Defines continued fine-tuning as a stage of training, with any objective, also minimum-risk training and the like."""

from __future__ import annotations

from harness.suite.stage_settings import Sft
from harness.suite.train_settings import Train
from harness.training.finetuning import FineTuning
from harness.training.objective import prepare
from harness.training.stage import Work


def stage(settings: Sft, plan: Train, work: Work) -> FineTuning:
    """Makes the stage (see harness.training.stages.kinds). Where the objective has a reference, it is the model at
    the start of the stage."""
    name, objective = settings.of
    ready = prepare(name, objective, work.fresh(), work.heldout, plan, work.seed)
    return FineTuning(ready, plan, ready.reference)
