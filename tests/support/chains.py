"""Small chains of stages: two steps of fine-tuning, then three of the stage that a test is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from harness.inference.padding import target_batch
from harness.metrics.samples.matching import Verification
from harness.metrics.samples.mentions import Answers, Floats, Truth
from harness.records.cache import Cache, NoCache
from harness.run.resume import CellCheckpointer
from harness.suite.schema import Suite
from harness.training.checkpoints import TrainingState
from harness.training.engines.data_parallel import DataParallel
from harness.training.finetuning import FineTuning
from harness.training.loop import Hooks, train
from harness.training.objective import prepare
from harness.training.rows import Row
from harness.training.stage import Stage, Step
from harness.training.stages import kinds
from harness.types import IGNORED_LABEL, Example
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small
from tests.support.processes.killing import timeless

FINE_TUNING: dict[str, Any] = {"steps": 2, "batch_size": 4, "lr": 1e-5, "log_every": 1}
LATER: dict[str, Any] = {"steps": 3, "lr": 1e-4, "warm_up": 0, "log_every": 1}
"""What all stages below are asked for."""
GRPO: dict[str, Any] = {"name": "grpo", **LATER, "images": 4, "samples": 4}
DPO: dict[str, Any] = {"name": "dpo", **LATER, "images": 4, "samples": 6, "batch_size": 3}
DIVPO: dict[str, Any] = {**DPO, "name": "divpo", "samples": 12, "temperature": 0.8, "good": 0.9, "bad": 0.45}
SPL: dict[str, Any] = {**DPO, "name": "spl", "alpha": 0.3}
GEPO: dict[str, Any] = {**LATER, "name": "gepo", "images": 4, "samples": 6, "batch_size": 2}
NSFT: dict[str, Any] = {"name": "nsft", **LATER, "images": 4, "samples": 4, "batch_size": 4}
SFT: dict[str, Any] = {"name": "sft", **LATER, "batch_size": 4}


def chain_of(then: Mapping[str, Any], train: Mapping[str, Any] = {}) -> Suite:
    """One row: cross-entropy, then the stage."""
    row = {"name": "ce", "label": "chain", "then": dict(then)}
    return small.mini_suite(objectives=[row], train={**FINE_TUNING, **train})


def stage_of(chain: Suite) -> Stage:
    """The second stage of the only row."""
    (objective,) = chain.objectives
    assert objective.then is not None
    return kinds.stage(objective.then, chain.plans_of(chain.models[0], objective)[1], small.work_of(small.fresh()))


def train_chain(
    adapter: OpenFlamingo,
    chain: Suite,
    checkpointer: CellCheckpointer | None = None,
    hooks: Hooks | None = None,
    examples: Sequence[Example] | None = None,
) -> list[dict[str, Any]]:
    """The curve of both stages, without times."""
    plan, _ = chain.plans_of(chain.models[0], chain.objectives[0])
    ready = prepare("ce", {}, small.fresh(), (), plan, 0)
    work = small.work_of(adapter, checkpointer)
    if examples is not None:
        work = replace(work, examples=examples)
    curve = train(work, [FineTuning(ready, plan), stage_of(chain)], hooks or Hooks(), checkpointer)
    return [timeless(row) for row in curve]


class TablesInMemory:
    """A Cache that shows what was made."""

    def __init__(self) -> None:
        self.made: dict[str, pd.DataFrame] = {}

    def get_or_make(self, name: str, make: Any, /) -> Any:
        self.made[name] = make()
        return self.made[name]


def steps_of(
    stage: Stage, adapter: OpenFlamingo, examples: Sequence[Example], start: int = 0, cache: Cache | None = None
) -> Iterator[Step]:
    """What the stage's steps train on, if it begins after step `start` and the weights stay as they are."""
    work = replace(small.work_of(adapter), examples=examples, cache=cache or NoCache())
    state = TrainingState(adapter.model, torch.optim.SGD(adapter.model.parameters()), step=start)
    return stage.steps(work, state, DataParallel(adapter.model, work.accelerator), start)


def first_step(
    stage: Stage, adapter: OpenFlamingo, examples: Sequence[Example], start: int = 0, cache: Cache | None = None
) -> Step:
    return next(iter(steps_of(stage, adapter, examples, start, cache)))


# ---- what becomes of a model -----------------------------------------------------------------------------------------


def weights(adapter: OpenFlamingo) -> Tensor:
    """All of them, in one row."""
    return torch.cat([p.detach().flatten() for p in adapter.model.parameters()])


def gradient(adapter: OpenFlamingo) -> Tensor:
    return torch.cat([p.grad.flatten() for p in adapter.model.parameters() if p.grad is not None])


def log_probs(adapter: OpenFlamingo, row: Row) -> Tensor:
    """Of each token, from one forward pass of the row alone."""
    batch = target_batch([row.tokens], adapter.codec)
    logits = adapter.logits(adapter.pixels([row.example]), batch.inputs)[0]
    learnt = batch.labels[0] != IGNORED_LABEL
    return logits[learnt].log_softmax(-1).gather(1, batch.labels[0][learnt][:, None])[:, 0]


def brevity(truth: Truth, answers: Answers, verification: Verification) -> Floats:
    """1 for a sample that says nothing, less for each entry."""
    del verification
    lengths = np.zeros((len(truth.image_ids), answers.malformed.shape[1]))
    np.add.at(lengths, (answers.mentions.image, answers.mentions.sample), 1.0)
    return np.asarray(1.0 / (1.0 + lengths + answers.malformed))
