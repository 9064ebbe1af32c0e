"""Defines GRPO as a stage of training: the samples of a step, and their split into optimizer updates."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from typing import Literal

import torch

from harness.objectives.policy import grpo
from harness.protocols import Adapter
from harness.suite.stage_settings import Grpo
from harness.suite.train_settings import Train
from harness.system import ranks
from harness.system.profiler import phase
from harness.training.checkpoints import TrainingState
from harness.training.engines.data_parallel import DataParallel
from harness.training.objective import Objective
from harness.training.rows import Row
from harness.training.schedule import draws
from harness.training.stage import Step, Work, micro_batch_of, sampled_tokens, sampling_seed
from harness.training.stages.prompts import prompts_of
from harness.training.stages.rollout import Rollout, rollout
from harness.training.step import log_probabilities
from harness.types import Example

Group = list[Row]
"""The rows of one image."""


@dataclass(frozen=True, slots=True)
class GrpoStage:
    """A harness.training.stage.Stage. reference: needed with `kl` only."""

    settings: Grpo
    plan: Train
    reference: Adapter | None = None

    @property
    def objective(self) -> Objective:
        settings = self.settings
        loss = partial(
            grpo, low=settings.low, high=settings.high, kl_weight=settings.kl, temperature=settings.temperature
        )
        return Objective(settings.name, settings.model_dump(mode="json"), loss, needs=frozenset({"sets"}))

    def steps(self, work: Work, state: TrainingState, engine: DataParallel, start: int) -> Generator[Step, None, None]:
        """Yields the model's samples of each step, split into its updates (harness.training.stage.Stage)."""
        images = self.settings.images
        prompts = prompts_of(work, self.settings)
        first, longest = state.step + 1, sampled_tokens(work)
        drawn = draws(len(prompts), 1, images, self.plan.steps, work.seed, "collision")  # no image twice
        size = images // work.accelerator.num_processes
        for number, batch in enumerate(islice(drawn, state.step - start, None), first):
            share = batch[work.accelerator.process_index * size :][:size]
            examples = [prompts[draw.image] for draw in share]
            yield self._step(work, engine, examples, longest, sampling_seed(work.seed, number))

    def _step(self, work: Work, engine: DataParallel, examples: Sequence[Example], longest: int, seed: int) -> Step:
        settings, model = self.settings, work.adapter.model
        with engine.whole():
            with phase("sampling"), work.generating():
                model.eval()
                drawn = rollout(
                    work.adapter,
                    examples,
                    settings.reward,
                    settings.samples,
                    settings.temperature,
                    max_tokens=longest,
                    seed=seed,
                    diversity=settings.diversity,
                )
                model.train()
            updates = split(drawn, settings, work)
            with phase("forward"):
                if settings.updates > 1:  # with one alone the ratio is 1: the model is the one that drew
                    updates = [self._with_log_probs(work, engine, rows, "before", work.adapter) for rows in updates]
                if self.reference is not None:
                    updates = [
                        self._with_log_probs(work, engine, rows, "reference", self.reference) for rows in updates
                    ]
        return Step(updates, _over_processes(drawn, work))

    def _with_log_probs(
        self, work: Work, engine: DataParallel, rows: Group, name: Literal["before", "reference"], adapter: Adapter
    ) -> Group:
        """Adds the log-probabilities under this model to the rows, in the field of this name."""
        size = micro_batch_of(self.plan, len(rows))
        of_rows = log_probabilities(adapter, rows, size, work.accelerator, engine, self.settings.temperature)
        if name == "before":
            return [replace(row, before=log_probs) for row, log_probs in zip(rows, of_rows, strict=True)]
        return [replace(row, reference=log_probs) for row, log_probs in zip(rows, of_rows, strict=True)]


def stage(settings: Grpo, plan: Train, work: Work) -> GrpoStage:
    """Makes the stage (see harness.training.stages.kinds)."""
    return GrpoStage(settings, plan, work.fresh() if settings.kl else None)


def split(drawn: Rollout, settings: Grpo, work: Work) -> list[Group]:
    """Returns this process's rows of each optimizer update: whole images; with `filter` only those whose samples
    differ in reward.

    All processes have equally many updates, at most `updates` and at most the number of such images; none where no
    image of any process has samples that differ. With `filter` a process without images for an update takes part with
    rows that do not count.
    """
    telling = drawn.telling
    most = _largest(len(telling), work)
    if not most and not settings.kl:
        return []
    groups = [_group(drawn, index) for index in (telling if settings.filter else range(len(drawn.examples)))]
    count = min(settings.updates, most if settings.filter else len(groups))
    idle = [replace(row, sampled=True, advantage=0.0) for row in _group(drawn, 0)]
    edges = [len(groups) * part // count for part in range(count + 1)] if count else []
    parts = [groups[first:end] for first, end in pairwise(edges)]
    return [[row for group in part for row in group] or idle for part in parts]


def _group(drawn: Rollout, index: int) -> Group:
    example = drawn.examples[index]
    return [
        Row(example, sample.tokens, advantage=float(advantage))
        for sample, advantage in zip(drawn.samples[index], drawn.advantages[index], strict=True)
    ]


def _largest(value: int, work: Work) -> int:
    """Returns the largest value of all processes."""
    counts = ranks.gathered(work.accelerator, value)
    return ranks.same(work.accelerator, max(counts, default=0))


def _over_processes(drawn: Rollout, work: Work) -> dict[str, float]:
    """Averages figures over all images, of which each process has equally many; the entropy over all tokens."""
    if work.accelerator.num_processes == 1:
        return dict(drawn.figures)
    ranks.meet(work.accelerator)
    tokens = float(sum(len(sample.tokens) for of_image in drawn.samples for sample in of_image))
    weights = {name: tokens if name == "entropy" else 1.0 for name in drawn.figures}
    sums = [[weight, weight * drawn.figures[name]] for name, weight in weights.items()]
    reduced = work.accelerator.reduce(torch.tensor(sums, device=work.accelerator.device), "sum").tolist()
    return {name: total / weight for name, (weight, total) in zip(weights, reduced, strict=True)}
