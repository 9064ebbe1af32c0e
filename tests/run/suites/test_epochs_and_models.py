"""What a run makes of epochs, and of models that are trained otherwise than the suite says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.run import runner, tuning
from harness.run.context import Context, open_context
from harness.suite.cells import listed
from tests.support import small

OWN = {"name": "open_flamingo", "label": "own", "weights": "random", "train": {"lr": 1e-4, "steps": 2}}
USUAL = {"name": "open_flamingo", "label": "usual", "weights": "random"}


def context(**changes: Any) -> Context:
    return open_context(small.mini_suite(**{"objectives": ["ce"], **changes}), None, "cpu")


def plans(run: Context) -> dict[str, dict[str, Any]]:
    return {item.cell.id: item.info.train for item in runner.plan(run, Path("nowhere")) if item.info.train}


def test_epochs_are_steps_in_the_record_and_the_same_cell(tmp_path: Path) -> None:
    """24 training images in batches of 8: an epoch has 3 steps."""
    in_epochs = context(train={"epochs": 1, "batch_size": 8, "eval_at": [0.5]})
    in_steps = context(train={"steps": 3, "batch_size": 8, "eval_at": [2]})
    digests = [[item.digest for item in runner.plan(run, tmp_path)] for run in (in_epochs, in_steps)]
    assert digests[0] == digests[1]
    (record,) = runner.run(in_epochs, tmp_path, "*-ce-*")
    assert record.cell.train is not None
    assert (record.cell.train["steps"], record.cell.train["eval_at"]) == (3, [2])
    assert "epochs" not in record.cell.train
    assert (record.epochs, record.steps) == (1.0, (2, 3))
    suite, _ = listed(tmp_path)
    assert suite.train.epochs == 1
    assert suite.train_of(suite.models[0], suite.objectives[0]).steps == 3
    assert json.loads((tmp_path / "suite.json").read_text())["epoch_images"] == 24


def test_trials_of_a_length_in_epochs() -> None:
    tune: dict[str, Any] = {"lr": [1e-4, 1e-3]}
    run = context(train={"epochs": 1, "batch_size": 8}, tune=tune)
    assert run.suite.tune is not None
    whole = tuning.trials_of(run.suite, run.suite.tune)
    short = tuning.trials_of(run.suite, run.suite.tune.model_copy(update={"steps": 2}))
    steps = [[suite.train_of(suite.models[0], row).steps for row in suite.objectives] for suite in (whole, short)]
    assert steps == [[3, 3], [2, 2]]


def test_each_model_has_its_own_training() -> None:
    planned = plans(context(models=[OWN, USUAL]))
    special, usual = planned["own-ce-s0"], planned["usual-ce-s0"]
    assert [(row["lr"], row["steps"]) for row in (special, usual)] == [(1e-4, 2), (3e-4, 3)]
    alone = plans(context(models=[USUAL]))
    assert alone["usual-ce-s0"] == planned["usual-ce-s0"]


def test_a_group_that_a_model_does_not_have_is_told_with_the_model() -> None:
    """Before anything is computed, and not of the model that has it."""
    groups = {"groups": [{"match": "perceiver.*", "lr": 1e-5}]}
    assert plans(context(models=[{**OWN, "train": groups}, USUAL]))
    wrong = {"groups": [{"match": "percever.*", "lr": 1e-5}]}
    with pytest.raises(ConfigError) as caught:
        runner.plan(context(models=[{**OWN, "train": wrong}, USUAL]), Path("nowhere"))
    (problem,) = caught.value.problems
    assert problem.startswith("model own: train.groups: 'percever.*' matches no trained parameter")


@pytest.mark.parametrize("setting", [{"ema": 0.5}, {"schedule": "linear"}, {"optimizer": {"eps": 1e-3}}])
def test_what_is_new_is_a_part_of_the_digest_where_it_is_used(setting: dict[str, Any]) -> None:
    (plain,), (used,) = (
        plans(context(train={"steps": 3, "batch_size": 4, **added})).values() for added in ({}, setting)
    )
    (name,) = setting
    assert name not in plain
    assert used[name] is not None
    assert {key: value for key, value in used.items() if key != name} == plain
