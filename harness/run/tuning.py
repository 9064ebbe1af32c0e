"""Runs `tune:` of a suite: every objective gets a suitable learning rate, found with the same small budget.

Each row is trained with each candidate and one seed that no table uses, and evaluated on the calibration split, which
no table shows. These trials are the cells of a separate suite, in the folder `tuning` of the run, so that they are
resumed, shared among processes and stored like any other cell. The chosen rate becomes the `train.lr` of the row, and
so part of its cells' digests; DIR/tuning.json records the choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.errors import ConfigError
from harness.metrics.detection.accumulate import Matches
from harness.protocols import Benchmark
from harness.records import Record
from harness.records.layout import TRIALS, TUNING
from harness.records.tuning import TunedRow, TuningRecord
from harness.run import runner
from harness.run.context import Context
from harness.suite.candidates import Tune
from harness.suite.schema import NamedObjective, SampleSettings, Suite
from harness.system import files, ranks
from harness.types import Detection, Evaluation, Example

FEWEST = 2
"""Samples of an image in a trial: few, as the criterion uses greedy answers or given sequences."""


class OnCalibration:
    """A Benchmark whose validation split is the calibration split of another one."""

    def __init__(self, whole: Benchmark) -> None:
        self.name, self.categories, self._whole = whole.name, whole.categories, whole

    def split(self, name: str) -> tuple[Example, ...]:
        return self._whole.split(_other(name))

    def evaluate(self, split: str, detections: Sequence[Detection], engine: str = "fast") -> Evaluation:
        return self._whole.evaluate(_other(split), detections, engine)

    def match(self, split: str, detections: Sequence[Detection]) -> Matches:
        return self._whole.match(_other(split), detections)

    def describe(self) -> dict[str, object]:
        return {**self._whole.describe(), "val": "calibration"}


def _other(split: str) -> str:
    return "calibration" if split == "val" else split


def run(context: Context, output: Path, only: str | None = None, since: float | None = None) -> list[Record]:
    """Runs a suite as harness.run.runner.run does, after its tuning where it has one."""
    return runner.run(tuned(context, output, since), output, only, since)


def tuned(context: Context, output: Path, since: float | None = None) -> Context:
    """Runs the trials that are not finished yet, and returns the context of the suite with what they chose.

    Raises:
        ConfigError: where there is no calibration split, or every trial of a row has failed.
    """
    tune = context.suite.tune
    main = context.accelerator.is_main_process
    if tune is None:
        if main:
            files.remove(output / TUNING)  # of another suite on this folder
        return context
    made = runner.run(on_trials(context, tune), output / TRIALS, only_trials(tune), since)
    chosen = context.suite
    if main:
        record = choose(context.suite, tune, made)
        record.write(output)
        chosen = with_choices(context.suite, record)
    return replace(context, suite=ranks.same(context.accelerator, chosen))


def on_trials(context: Context, tune: Tune) -> Context:
    """Returns the context of the trials, which are evaluated on the calibration split. ConfigError where there is
    none."""
    if not context.benchmark.split("calibration"):
        raise ConfigError("tune: the benchmark has no calibration split to choose on; give it calibration_images")
    return replace(context, suite=trials_of(context.suite, tune), benchmark=OnCalibration(context.benchmark))


def only_trials(tune: Tune) -> str:
    """Returns the pattern of the trials' cells: neither the base nor oracles."""
    return f"*-lr*-s{tune.seed}"


def trials_of(suite: Suite, tune: Tune) -> Suite:
    """Returns the suite whose cells are the trials: one for each row and candidate, without the stages after
    fine-tuning."""
    steps = {} if tune.steps is None else {"steps": tune.steps, "epochs": None}
    once = {"eval_at": (), "probe": None, "eval_images": None, **steps}
    return suite.model_copy(
        update={
            "suite": f"{suite.suite}-tuning",
            "objectives": tuple(
                objective.model_copy(
                    update={
                        "label": trial_label(objective, lr),
                        "train": {**objective.train, **once, "lr": lr},
                        "then": None,
                    }
                )
                for objective in suite.objectives
                for lr in tune.lr
            ),
            "train": suite.train.model_copy(update=once),
            "seeds": (tune.seed,),
            "sample": SampleSettings(
                samples=FEWEST,
                max_tokens=suite.sample.max_tokens,
                batch_images=suite.sample.batch_images,
                grammar=suite.sample.grammar,
            ),
            "keep": "none",
            "early_stops": (),
            "resampled": (),
            "hypotheses": (),
            "tune": None,
        }
    )


def trial_label(objective: NamedObjective, lr: float) -> str:
    return f"{objective.label}-lr{lr:g}"


def choose(suite: Suite, tune: Tune, made: Sequence[Record]) -> TuningRecord:
    """Chooses the best candidate of every row by the criterion: of equals the one that the suite names first."""
    by_row = {(record.model_label, record.label): record for record in made}
    rows = []
    for model in suite.models:
        for objective in suite.objectives:
            records = [by_row[model.label, trial_label(objective, lr)] for lr in tune.lr]
            values = tuple(_criterion(record, tune) for record in records)
            if all(value is None for value in values):
                errors = next((record.error for record in records if record.error), "no such figure")
                raise ConfigError(f"tune: {model.label} {objective.label}: no trial has {tune.criterion}: {errors}")
            rows.append(
                TunedRow(
                    model=model.label,
                    label=objective.label,
                    values=values,
                    chosen=tune.lr[_best(values, tune.criterion)],
                )
            )
    return TuningRecord(
        candidates=tune.lr, criterion=tune.criterion, seed=tune.seed, steps=tune.steps, rows=tuple(rows)
    )


def _criterion(record: Record, tune: Tune) -> float | None:
    if record.status == "failed":
        return None
    last = record.evaluations[-1]
    return last.metrics.get("AP") if tune.criterion == "AP" else last.heldout_nll


def _best(values: Sequence[float | None], criterion: str) -> int:
    sign = 1 if criterion == "AP" else -1
    worth = [-math.inf if value is None else sign * value for value in values]
    return worth.index(max(worth))


def with_choices(suite: Suite, record: TuningRecord) -> Suite:
    """Returns the suite to run: each row with its learning rate, and nothing to tune."""
    lr = {row.label: row.chosen for row in record.rows}
    objectives = tuple(
        objective.model_copy(update={"train": {**objective.train, "lr": lr[objective.label]}})
        for objective in suite.objectives
    )
    return suite.model_copy(update={"objectives": objectives, "tune": None})
