"""Defines nSFT as a stage of training: fine-tuning goes on, on targets and on corrections of the model's own errors
(Zhu et al., CVPR 2025; arXiv 2411.14797)."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from harness import registry
from harness.errors import ConfigError, StageError
from harness.metrics.diagnosis.codebook import SampleErrors, sample_errors
from harness.objectives.policy import nsft
from harness.protocols import Adapter, Correction, Corrector, Targets, Tokens
from harness.sequence import Codec
from harness.suite.stage_settings import Nsft
from harness.suite.train_settings import Train
from harness.training.checkpoints import TrainingState
from harness.training.engines.data_parallel import DataParallel
from harness.training.finetuning import FineTuning
from harness.training.objective import Objective
from harness.training.rows import Row
from harness.training.stage import Step, Work, stage_seed
from harness.training.stages.rollout import Key, Rollout, keys, of_all_processes, own_samples, sampled
from harness.types import Example, Parsed

CORRECTIONS = "corrections"
"""Name of the cell's table of corrections, a row each: image_id, the asked categories if the prompt names some, and
the fields of a Correction."""

Answers = Mapping[Key, Sequence[tuple[Tokens, Tokens]]]
"""Different (context, answer) of the corrections, by the key of their example."""


@dataclass(frozen=True, slots=True)
class NsftStage:
    """A harness.training.stage.Stage. reference: needed with `kl` only."""

    settings: Nsft
    plan: Train
    reference: Adapter | None = None

    @property
    def objective(self) -> Objective:
        settings = self.settings
        return Objective(
            settings.name,
            settings.model_dump(mode="json"),
            partial(nsft, negative=settings.negative, kl=settings.kl),
            self.reference,
            frozenset({"reference_logits"} if settings.kl else ()),
            loss_weights=self.plan.loss_weights,
        )

    def steps(self, work: Work, state: TrainingState, engine: DataParallel, start: int) -> Generator[Step, None, None]:
        """Makes the corrections, then yields the steps of continued fine-tuning on the images that were sampled, each
        with some of its corrections (harness.training.stage.Stage)."""
        table = work.cache.get_or_make(CORRECTIONS, lambda: self._corrections(work, engine, start))
        if table.empty:
            raise StageError("then: nsft: expected errors in the model's samples to correct, found none")
        corrections, seed = answers_of(table), stage_seed(work.seed, start)
        images = replace(work, examples=sampled(work, self.settings))
        first = state.step + 1
        with closing(FineTuning(self.objective, self.plan).steps(images, state, engine, start)) as steps:
            for number, step in enumerate(steps, first):
                updates = [_with(rows, corrections, self.settings.corrections, seed, number) for rows in step.updates]
                yield replace(step, updates=updates)

    def _corrections(self, work: Work, engine: DataParallel, start: int) -> pd.DataFrame:
        rollouts, seed = own_samples(work, engine, self.settings, start), stage_seed(work.seed, start)
        targets: Targets = "canonical" if self.plan.targets == "canonical" else "random"
        corrector = registry.corrector(self.settings.corrector, work.adapter.codec, targets)
        rejected = self.settings.rejected_per_image
        return of_all_processes(work, corrections_of(rollouts, work.adapter.codec, corrector, rejected, seed))


def stage(settings: Nsft, plan: Train, work: Work) -> NsftStage:
    """Makes the stage (see harness.training.stages.kinds)."""
    return NsftStage(settings, plan, work.fresh() if settings.kl else None)


def problems(settings: Nsft, examples: Sequence[Example]) -> list[str]:
    """Lists why the stage cannot run with these training images (see harness.training.stages.kinds)."""
    del examples
    try:
        made_by = registry.find("corrector", settings.corrector)
    except ConfigError as error:
        return [f"then.corrector: {problem}" for problem in error.problems]
    unready = getattr(made_by, "unready", list)  # what a corrector needs beside its settings
    return [f"then.corrector: {problem}" for problem in unready()]


# ---- what was said -> corrections ------------------------------------------------------------------------------------


def corrections_of(
    rollouts: Sequence[Rollout], codec: Codec, corrector: Corrector, rejected: int, seed: int
) -> pd.DataFrame:
    """Makes the table CORRECTIONS: for each image the different corrections of its `rejected` worst samples.

    The corrections of an image depend on the seed and the image only.
    """
    lines = []
    for drawn in rollouts:
        for example, samples, rewards in zip(drawn.examples, drawn.samples, drawn.rewards.tolist(), strict=True):
            sequences = [sample.tokens for sample in samples]
            corrections = _of_image(example, sequences, rewards, codec, corrector, rejected, seed)
            lines += [_line(example, correction) for correction in corrections]
    return pd.DataFrame(lines, columns=["image_id", "asked", *Correction.__dataclass_fields__])


def _of_image(
    example: Example,
    sequences: Sequence[tuple[int, ...]],
    rewards: Sequence[float],
    codec: Codec,
    corrector: Corrector,
    rejected: int,
    seed: int,
) -> list[Correction]:
    parsed = [codec.decode(tokens, example.width, example.height) for tokens in sequences]
    (errors,) = sample_errors([example], [parsed])
    rng = np.random.default_rng([seed, *example.key])
    worst = _worst(sequences, rewards, parsed, errors)[:rejected]
    return list(dict.fromkeys(made for sample in worst for made in corrector(example, *sample, rng)))


def _worst(
    sequences: Sequence[tuple[int, ...]],
    rewards: Sequence[float],
    parsed: Sequence[Parsed],
    errors: Sequence[SampleErrors],
) -> list[tuple[Parsed, SampleErrors]]:
    """Returns the different samples with an error, by reward; of equal ones the first."""
    first = {tokens: index for index, tokens in reversed([*enumerate(sequences)])}
    wrong = sorted((index for index in first.values() if errors[index].kinds), key=lambda i: (rewards[i], i))
    return [(parsed[index], errors[index]) for index in wrong]


def _line(example: Example, correction: Correction) -> dict[str, Any]:
    fields = {name: getattr(correction, name) for name in Correction.__dataclass_fields__}
    return {"image_id": example.image_id, "asked": example.asked, **fields}


# ---- corrections -> rows ---------------------------------------------------------------------------------------------


def answers_of(table: pd.DataFrame) -> Answers:
    """Reads the answers from the table CORRECTIONS."""
    by_key: dict[Key, dict[tuple[Tokens, Tokens], None]] = {}
    for key, *both in zip(keys(table), table["context"], table["answer"], strict=True):
        context, answer = (tuple(map(int, tokens)) for tokens in both)
        by_key.setdefault(key, {})[context, answer] = None  # other questions may have the same one
    return {key: list(distinct) for key, distinct in by_key.items()}


def _with(rows: Sequence[Row], corrections: Answers, count: int, seed: int, step: int) -> list[Row]:
    """Inserts after the rows of each image up to `count` of its corrections, drawn from (seed, step, image)."""
    result: list[Row] = []
    for key, group in groupby(rows, key=lambda row: row.example.key):
        result += group
        answers = corrections.get(key, ())
        drawn = np.random.default_rng([seed, step, *key]).permutation(len(answers))[:count]
        example = result[-1].example
        result += [Row(example, answers[i][1], context=answers[i][0], correction=True) for i in sorted(drawn)]
    return result
