"""What `train` may say: its length in steps or epochs, and changes of it by models and rows."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from pydantic import ValidationError

from harness.errors import ConfigError
from harness.suite.load import parse, with_seeds
from harness.suite.schema import Suite
from harness.suite.train_settings import Train
from harness.training.finetuning import batches
from tests.support import small


def problems(**changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        small.mini_suite(**changes)
    return [problem.removeprefix("mini.yaml: ") for problem in error.value.problems]


def plan(**settings: Any) -> Train:
    return Train.model_validate(settings)


# ---- epochs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "images", "steps"),
    [
        ({"epochs": 1, "batch_size": 8}, 24, 3),
        ({"epochs": 1, "batch_size": 16}, 24, 2),  # the last batch reaches into the next epoch
        ({"epochs": 3, "batch_size": 16}, 24, 5),  # 72 / 16 = 4.5
        ({"epochs": 2, "batch_size": 16, "micro_batch": 4}, 24, 3),  # accumulation takes no steps
        ({"epochs": 0.5, "batch_size": 4}, 24, 3),
        ({"epochs": 0.1, "batch_size": 4}, 1000, 25),  # 0.1 * 1000 / 4, which is no float
        ({"epochs": 0.01, "batch_size": 16}, 24, 1),
        ({"epochs": 1, "batch_size": 8, "targets": "all(4)"}, 24, 12),
        ({"epochs": 1, "batch_size": 8, "targets": "all(4)", "batching": "grouped"}, 24, 12),
        # 4 of 8 sequences are two pairs, so that a step takes 6 images of an epoch
        ({"epochs": 1, "batch_size": 8, "targets": "random", "batching": "collision", "collision_rate": 0.5}, 24, 4),
    ],
)
def test_an_epoch_is_every_target_of_every_image(settings: dict[str, Any], images: int, steps: int) -> None:
    made = plan(**settings).in_steps(images)
    assert (made.steps, made.epochs) == (steps, None)
    if settings["epochs"] >= 1:
        drawn = [draw for batch in batches(images, made, 0) for draw in batch]
        whole = {(draw.epoch, draw.image) for draw in drawn}
        assert {(epoch, image) for epoch in range(int(settings["epochs"])) for image in range(images)} <= whole
        before = [draw for batch in islice(batches(images, made, 0), steps - 1) for draw in batch]
        assert {(draw.epoch, draw.image, draw.member) for draw in drawn} != {
            (draw.epoch, draw.image, draw.member) for draw in before
        }


def test_epochs_of_a_plan_in_steps() -> None:
    assert plan(steps=3, batch_size=16).epochs_after(24) == 2.0
    assert plan(steps=3, batch_size=8, targets="all(4)").epochs_after(24) == 0.25


def test_evaluations_count_what_the_length_counts() -> None:
    made = plan(epochs=2, batch_size=16, eval_at=[0.5, 1]).in_steps(24)
    assert made.eval_at == (1, 2)  # 12 / 16 and 24 / 16, rounded up
    assert made.evaluations == (1, 2, 3)
    assert plan(steps=3, eval_at=[2.0]).described["eval_at"] == [2]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"steps": 3, "epochs": 1}, "epochs: expected either steps or epochs, got both"),
        ({"epochs": 1, "eval_at": [1.5]}, r"eval_at: expected epochs up to 1, got \[1.5\]"),
        ({"steps": 3, "eval_at": [1.5]}, r"eval_at: expected whole steps, got \[1.5\]; with epochs it counts epochs"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": float("inf")}, "epochs"),
        ({"ema": 1.0}, "ema"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "betas"),
        ({"optimizer": {"momentum": 0.9}}, "momentum"),
        ({"schedule": "step"}, "schedule"),
    ],
)
def test_mistakes(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        plan(**settings)


def test_what_is_written_can_be_read_again() -> None:
    suite = small.mini_suite(train={"epochs": 2, "batch_size": 4})
    assert Suite.model_validate_json(suite.model_dump_json()) == suite
    assert with_seeds(suite, "1,2").train == suite.train
    assert "steps" not in suite.model_dump(mode="json")["train"]


def test_a_row_may_have_another_length() -> None:
    """In either unit, which takes the place of the suite's."""
    rows = [
        "ce",
        {"name": "ce", "label": "steps", "train": {"steps": 5}},
        {"name": "ce", "label": "epochs", "train": {"epochs": 2}},
        {"name": "ce", "label": "batch", "train": {"batch_size": 8}},
    ]
    suite = small.mini_suite(train={"epochs": 1, "batch_size": 4}, objectives=rows)
    suite = suite.model_copy(update={"epoch_images": 24})
    assert suite.counts_epochs
    assert [suite.train_of(suite.models[0], row).steps for row in suite.objectives] == [6, 5, 12, 3]
    assert not small.mini_suite().counts_epochs


def test_a_row_in_the_other_unit_says_where_it_is_evaluated() -> None:
    (problem,) = problems(
        train={"steps": 3, "eval_at": [1]}, objectives=[{"name": "ce", "label": "long", "train": {"epochs": 2}}]
    )
    assert problem.startswith("objectives.long.train: expected eval_at too: the suite's counts steps, the length here")


# ---- by model ----------------------------------------------------------------------------------------------------

TWO: list[dict[str, Any]] = [
    {"name": "open_flamingo", "label": "small", "weights": "random", "train": {"lr": 1e-5, "batch_size": 8}},
    {"name": "open_flamingo", "label": "large", "weights": "random"},
]


def test_a_model_may_be_trained_otherwise_and_a_row_goes_before_it() -> None:
    rows = ["ce", {"name": "ce", "label": "own", "train": {"lr": 1e-3}}]
    suite = small.mini_suite(models=TWO, objectives=rows)
    settings = {
        (model.label, row.label): (suite.train_of(model, row).lr, suite.train_of(model, row).batch_size)
        for model in suite.models
        for row in suite.objectives
    }
    assert settings == {
        ("small", "ce"): (1e-5, 8),
        ("small", "own"): (1e-3, 8),
        ("large", "ce"): (3e-4, 4),
        ("large", "own"): (1e-3, 4),
    }
    assert "train" not in suite.models[0].settings
    assert suite.described(suite.models[0], suite.objectives[0])["lr"] == 1e-5


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"step": 3}, "unknown key models.small.train.step: 'step', did you mean 'steps'"),
        ({"lr": -1}, "models.small.train.lr: Input should be greater than 0, got -1"),
        ({"micro_batch": 3}, "models.small.train.micro_batch: expected a divisor of batch_size 4, got 3"),
        ({"eval_images": 3}, "models.small.train.eval_images: expected in the suite's train alone"),
        ({"batch_size": 6}, "objectives.sets.train: batch_size: expected a multiple of all(4)'s n, got 6"),
    ],
)
def test_mistakes_of_a_model_are_told_once_and_where_they_are(train: dict[str, Any], expected: str) -> None:
    sets = {"name": "ce", "label": "sets", "train": {"targets": "all(4)", "batching": "grouped"}}
    (problem,) = problems(models=[{**TWO[1], "label": "small", "train": train}], objectives=["ce", sets])
    assert problem.startswith(expected)


# ---- schedules and equal AP --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["suite", "model", "row a", "row b"])
def test_equal_ap_needs_a_constant_rate(where: str) -> None:
    falling = {"schedule": "cosine"}
    steps = {"steps": 3, "eval_at": [2]}
    stated = [{"id": "H1", "claim": "?", "metric": "name_diversity", "a": "a", "b": "b", "at": "equal_AP"}]
    changes: dict[str, Any] = {
        "train": steps | (falling if where == "suite" else {}),
        "models": [{**TWO[1], "train": falling if where == "model" else {}}],
        "objectives": [
            {"name": "ce", "label": row, "train": falling if where == f"row {row}" else {}} for row in ("a", "b")
        ],
    }
    assert small.mini_suite(**changes)
    reported = problems(**changes, hypotheses=stated)
    rows = [where[-1]] if where.startswith("row") else ["a", "b"]
    assert reported == [
        f"hypothesis H1: at: equal_AP: expected train.schedule: constant of row {row}, got cosine" for row in rows
    ]
    stopped = [{"label": "stop", "objective": "a", "at_ap_of": "b"}]
    assert problems(**changes, early_stops=stopped)[0].startswith("early_stops.stop: expected train.schedule: constant")


def test_later_stages_have_neither_schedule_nor_mean_of_the_first() -> None:
    chain = {"name": "ce", "then": {"name": "sft", "steps": 2}}
    train = {"epochs": 1, "batch_size": 4, "schedule": "cosine", "ema": 0.9, "optimizer": {"eps": 1e-6}}
    suite = small.mini_suite(objectives=[chain], train=train).model_copy(update={"epoch_images": 24})
    first, later = suite.plans_of(suite.models[0], suite.objectives[0])
    assert (first.steps, first.schedule, first.ema, first.optimizer.eps) == (6, "cosine", 0.9, 1e-6)
    assert (later.steps, later.schedule, later.ema, later.optimizer.eps) == (2, "constant", None, 1e-6)


def test_parse_knows_where_epochs_are_wrong() -> None:
    with pytest.raises(ConfigError, match="train: epochs: expected either steps or epochs, got both"):
        parse({**small.mini_suite().model_dump(mode="json"), "train": {"steps": 2, "epochs": 1}}, "x")
