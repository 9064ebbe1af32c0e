"""GRPO as a stage of training: what the model draws in a step, and what of it each optimizer step is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise

import torch

from harness.objectives.policy import grpo
from harness.protocols import Adapter
from harness.suite.schema import Train
from harness.suite.stage_settings import Grpo
from harness.system import ranks
from harness.training.engines.data_parallel import DataParallel
from harness.training.objective import Objective
from harness.training.rows import Row
from harness.training.schedule import draws
from harness.training.snapshots import State
from harness.training.stage import Feed, Parts, Todo, Work, sampled_tokens, sampling_seed
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
        own = self.settings
        loss = partial(grpo, low=own.low, high=own.high, kl_weight=own.kl, temperature=own.temperature)
        return Objective(own.name, own.model_dump(mode="json"), loss, needs=frozenset({"sets"}))

    @contextmanager
    def feed(self, work: Work, state: State, engine: DataParallel, start: int) -> Iterator[Feed]:
        """See harness.training.stage.Stage."""
        images = self.settings.images
        drawn = draws(len(work.examples), 1, images, self.plan.steps, work.seed, "collision")  # no image twice
        coming = islice(drawn, state.step - start, None)
        longest = sampled_tokens(work)

        def todo(step: int) -> Todo:
            size = images // work.accelerator.num_processes
            own = next(coming)[work.accelerator.process_index * size :][:size]
            examples = [work.examples[draw.image] for draw in own]
            return self._todo(work, engine, examples, longest, sampling_seed(work.seed, step))

        yield todo

    def _todo(self, work: Work, engine: DataParallel, examples: Sequence[Example], longest: int, seed: int) -> Todo:
        own, model = self.settings, work.adapter.model
        with engine.whole():
            with work.phases("sampling"):
                model.eval()
                said = rollout(work.adapter, examples, own.reward, own.samples, own.temperature, longest, seed)
                model.train()
            updates = split(said, own.updates, work)
            with work.phases("forward"):
                if own.updates > 1:
                    updates = [[replace(r, before=p) for r, p in self._known(work, engine, rows)] for rows in updates]
                if self.reference is not None:
                    reference = self.reference
                    updates = [
                        [replace(r, reference=p) for r, p in self._known(work, engine, rows, reference)]
                        for rows in updates
                    ]
        return Todo(updates, _over_processes(said, work))

    def _known(
        self, work: Work, engine: DataParallel, rows: Group, adapter: Adapter | None = None
    ) -> Iterator[tuple[Row, torch.Tensor]]:
        """Each row with its log-probabilities under the model (or another one) as it is now."""
        size = self.plan.micro_batch or len(rows)
        model, heat = adapter or work.adapter, self.settings.temperature
        return zip(rows, log_probabilities(model, rows, size, work.accelerator, engine, heat), strict=True)


def stage(settings: Grpo, plan: Train, parts: Parts) -> GrpoStage:
    """As harness.training.stages.kinds makes it."""
    return GrpoStage(settings, plan, parts.fresh() if settings.kl else None)


def split(said: Rollout, updates: int, work: Work) -> list[Group]:
    """The rows of each optimizer step, this process's: whole images, and only those whose samples differ in reward.

    Equally many steps on all processes, at most `updates` and at most as many as there are such images; none where
    there is no such image. A process without any for a step takes part with rows that count for nothing.
    """
    groups = [_group(said, index) for index in said.telling]
    most = _largest(len(groups), work)
    count = min(updates, most)
    idle = [replace(row, sampled=True, advantage=0.0) for row in _group(said, 0)]
    edges = [len(groups) * part // count for part in range(count + 1)] if count else []
    parts = [groups[first:end] for first, end in pairwise(edges)]
    return [[row for group in part for row in group] or idle for part in parts]


def _group(said: Rollout, index: int) -> Group:
    example = said.examples[index]
    return [
        Row(example, sample.tokens, advantage=float(advantage))
        for sample, advantage in zip(said.samples[index], said.advantages[index], strict=True)
    ]


def _largest(own: int, work: Work) -> int:
    """Of all processes."""
    counts = ranks.gathered(work.accelerator, own)
    return ranks.same(work.accelerator, max(counts, default=0))


def _over_processes(said: Rollout, work: Work) -> dict[str, float]:
    """Means over all images, of which each process has equally many; the entropy's is over all tokens."""
    if work.accelerator.num_processes == 1:
        return dict(said.figures)
    ranks.meet(work.accelerator)
    tokens = float(sum(len(sample.tokens) for own in said.samples for sample in own))
    weights = {name: tokens if name == "entropy" else 1.0 for name in said.figures}
    sums = [[weight, weight * said.figures[name]] for name, weight in weights.items()]
    reduced = work.accelerator.reduce(torch.tensor(sums, device=work.accelerator.device), "sum").tolist()
    return {name: total / weight for name, (weight, total) in zip(weights, reduced, strict=True)}
