"""Defines preference learning as a stage of training (DPO, SPL, DivPO, GEPO): pairs of sequences are made once, when
the stage begins (harness.training.stages.pairs), and each step learns from some of them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from harness.errors import StageError
from harness.objectives import LossFunction
from harness.objectives.preference import group_preference, pair_preference
from harness.suite.preference_settings import Divpo, Gepo, PairPreference, Preference
from harness.suite.train_settings import Train
from harness.system import ranks
from harness.system.profiler import phase
from harness.training.checkpoints import TrainingState
from harness.training.engines.data_parallel import DataParallel
from harness.training.objective import Objective
from harness.training.rows import Row
from harness.training.schedule import draws
from harness.training.stage import Step, Work, micro_batch_of, stage_seed
from harness.training.stages.pairs import (
    COLUMNS,
    PAIRS,
    REFERENCES,
    Pair,
    frame,
    pairs_of,
    read,
    require_vocabulary,
    sequences,
)
from harness.training.stages.pairs import problems as pairs_problems
from harness.training.stages.rollout import Key, keys, of_all_processes, own_samples
from harness.training.step import log_probabilities
from harness.types import Example

Rows = tuple[Row, Row]
"""The chosen and the rejected sequence of a pair."""
Group = tuple[Row, ...]
"""The rows that are compared: a pair, or for GEPO all pairs of an image."""


@dataclass(frozen=True, slots=True)
class PreferenceStage:
    """A harness.training.stage.Stage. given: pairs of another cell, instead of pairs from the model's samples."""

    settings: Preference
    plan: Train
    given: pd.DataFrame | None = None
    reference: None = None

    @property
    def objective(self) -> Objective:
        settings = self.settings
        return Objective(settings.name, settings.model_dump(mode="json"), loss_of(settings), needs=frozenset({"sets"}))

    def steps(self, work: Work, state: TrainingState, engine: DataParallel, start: int) -> Generator[Step, None, None]:
        """Makes the pairs, then yields batches of them, or of their groups (harness.training.stage.Stage)."""
        table = work.cache.get_or_make(PAIRS, lambda: self._table(work, engine, start))
        compared = groups_of(rows_of(table, work), self.settings)
        drawn = draws(len(compared), 1, self.plan.batch_size, self.plan.steps, stage_seed(work.seed, start))
        size = self.plan.batch_size // work.accelerator.num_processes
        for batch in islice(drawn, state.step - start, None):
            rows: list[Row] = []
            for number, draw in enumerate(batch[work.accelerator.process_index * size :][:size]):
                rows += _numbered(compared[draw.image], number)
            yield Step([rows])

    def _table(self, work: Work, engine: DataParallel, start: int) -> pd.DataFrame:
        """Makes the table of the cell, with the log-probabilities of both sequences under the present model.
        StageError without a pair."""
        pairs = self._made(work, engine, start) if self.given is None else _share(self.given, work)
        flat = [row for index, both in enumerate(rows_of(pairs, work)) for row in _numbered(both, index)]
        size = micro_batch_of(self.plan, 2 * self.plan.batch_size)
        model = work.adapter.model
        with phase("forward"), engine.whole():
            model.eval()
            log_probs_of_rows = log_probabilities(work.adapter, flat, size, work.accelerator, engine, temperature=1.0)
            model.train()
        table = pairs.reset_index(drop=True)
        for side, name in enumerate(REFERENCES):
            table[name] = pd.Series([log_probs.tolist() for log_probs in log_probs_of_rows[side::2]], dtype=object)
        return of_all_processes(work, table)

    def _made(self, work: Work, engine: DataParallel, start: int) -> pd.DataFrame:
        """Makes the pairs of this process's share of the images."""
        settings, codec = self.settings, work.adapter.codec
        rollouts = own_samples(work, engine, settings, start)
        made: list[Pair] = []
        for drawn in rollouts:
            made += pairs_of(drawn, codec, settings, self.plan.targets, work.seed)
        worth = np.concatenate([np.zeros((0, settings.samples)), *(drawn.rewards.numpy() for drawn in rollouts)])
        all_made, all_worth = ranks.gathered(work.accelerator, len(made)), ranks.gathered(work.accelerator, worth)
        if work.accelerator.is_main_process and not any(all_made):
            raise StageError(_none_found(settings, np.concatenate(all_worth)))
        return frame(made, codec)


def loss_of(settings: Preference) -> LossFunction:
    """Returns the loss of these settings."""
    if isinstance(settings, Gepo):
        return partial(group_preference, beta=settings.beta, weight=settings.weight)
    assert isinstance(settings, PairPreference)
    return partial(
        pair_preference,
        alpha=settings.entropy_weight,
        beta=settings.beta,
        normalise=settings.normalise,
        sft_weight=settings.sft_weight,
    )


def stage(settings: Preference, plan: Train, work: Work) -> PreferenceStage:
    """Makes the stage (see harness.training.stages.kinds)."""
    if settings.pairs is None:
        return PreferenceStage(settings, plan)
    given = read(settings.pairs)
    require_vocabulary(given, work.adapter.codec, settings.pairs)
    return PreferenceStage(settings, plan, given)


def problems(settings: Preference, examples: Sequence[Example]) -> list[str]:
    """Lists why the stage cannot run with these training images (see harness.training.stages.kinds)."""
    if settings.pairs is None:
        return []
    return [f"then.pairs: {problem}" for problem in pairs_problems(settings.pairs, examples)]


def rows_of(table: pd.DataFrame, work: Work) -> list[Rows]:
    """Returns the rated rows of each pair: the chosen one with an advantage of 1, the rejected one with -1."""
    by_key = {example.key: example for example in work.examples}
    columns = (table[name] if name in table else [None] * len(table) for name in REFERENCES)
    rows = []
    for key, both, *references in zip(keys(table), sequences(table), *columns, strict=True):
        tensors = (
            None if values is None else torch.tensor(values, device=work.accelerator.device) for values in references
        )
        chosen, rejected = zip(both, (1.0, -1.0), tensors, strict=True)
        rows.append((_row(by_key[key], *chosen), _row(by_key[key], *rejected)))
    return rows


def groups_of(pairs: Sequence[Rows], settings: Preference) -> list[Group]:
    """Returns the groups that a step draws from: the pairs, or for GEPO all pairs of an image as one group, its
    winners first."""
    if not isinstance(settings, Gepo):
        return list(pairs)
    of_image: dict[Key, list[Rows]] = {}
    for both in pairs:
        of_image.setdefault(both[0].example.key, []).append(both)
    return [
        tuple(row for side in zip(*pairs_of_image, strict=True) for row in side) for pairs_of_image in of_image.values()
    ]


def _row(example: Example, tokens: tuple[int, ...], advantage: float, reference: torch.Tensor | None) -> Row:
    return Row(example, tokens, advantage=advantage, reference=reference)


def _numbered(compared: Group, number: int) -> Group:
    """Numbers rows as one group of a batch, which may contain the same rows again."""
    return tuple(replace(row, pair=number) for row in compared)


def _share(table: pd.DataFrame, work: Work) -> pd.DataFrame:
    """Returns this process's share, without the log-probabilities under another model."""
    return table[[*COLUMNS]].iloc[work.accelerator.process_index :: work.accelerator.num_processes]


def _none_found(settings: Preference, worth: NDArray[np.float64]) -> str:
    """Returns the error message for a stage without pairs. worth [I, K]: the rewards of the samples."""
    figures = (
        f"of {settings.samples} samples of each of {len(worth)} images (rewards {worth.min():.3g} to {worth.max():.3g})"
    )
    if not isinstance(settings, Divpo):
        return f"then: {settings.name}: expected samples worth less than the image's target, got none {figures}"
    good, bad = (worth >= settings.good).any(axis=1), (worth <= settings.bad).any(axis=1)
    expected = (
        f"expected images with a good sample ({settings.good:g} or more) and a bad one ({settings.bad:g} or less)"
    )
    got = f"good ones of {good.sum()} images, bad ones of {bad.sum()}, both of none"
    return f"then: divpo: {expected}, got {got} {figures}"
