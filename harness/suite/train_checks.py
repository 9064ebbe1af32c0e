"""Whether the rows of a suite can be trained as it says: the plan of every row of every model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from harness import objectives
from harness.suite.checks import schema_problem
from harness.suite.schema import NamedModel, NamedObjective, Suite
from harness.suite.stage_settings import Sft
from harness.suite.train_settings import Train

WHOLE_TARGETS = ("dpo", "spl", "gepo", "nsft")
"""Stages that make targets of all of an image's objects."""


def train_problems(suite: Suite) -> list[str]:
    """Lists training that cannot be done as the suite, its models and its rows say, each problem as one line."""
    lines = _micro_problems("train", suite.train)
    for model in suite.models:
        of_model = _own_problems(suite, f"models.{model.label}.train", model)
        lines += of_model
        if not of_model:
            for objective in suite.objectives:
                lines += _row_problems(suite, model, objective)
    return list(dict.fromkeys([*lines, *_path_problems(suite)]))


def _own_problems(suite: Suite, where: str, model: NamedModel, objective: NamedObjective | None = None) -> list[str]:
    """Lists what is wrong with the `train` of a model, or of a row: by itself, or beside what it does not change."""
    changes = model.train if objective is None else objective.train
    try:
        plan = suite.train_of(model, objective)
    except ValidationError as error:
        return [schema_problem(item, where.split(".")) for item in error.errors()]
    problems = _micro_problems(where, plan) if changes else []
    if "eval_images" in changes:
        problems.append(f"{where}.eval_images: expected in the suite's train alone: all rows see the same images")
    if suite.train.eval_at and (suite.train.epochs is None) != (plan.epochs is None) and "eval_at" not in changes:
        units = ("epochs", "steps") if plan.epochs is None else ("steps", "epochs")
        problems.append(f"{where}: expected eval_at too: the suite's counts {units[0]}, the length here {units[1]}")
    return problems


def _row_problems(suite: Suite, model: NamedModel, objective: NamedObjective) -> list[str]:
    where = f"objectives.{objective.label}.train"
    if problems := _own_problems(suite, where, model, objective):
        return problems
    plan = suite.train_of(model, objective)
    if plan.max_objects is not None and objective.then is not None and objective.then.name in WHOLE_TARGETS:
        problems.append(f"{where}.max_objects: {objective.then.name} trains on whole targets; use another stage")
    problems += _supply_problems(objective.label, objective.name, objective.settings, plan)
    problems += _expert_problems(objective)
    return problems + _stage_problems(suite, model, objective)


def _stage_problems(suite: Suite, model: NamedModel, objective: NamedObjective) -> list[str]:
    """Says why the batches of a further stage cannot be made, or do not supply what its objective needs."""
    try:
        *_, plan = suite.plans_of(model, objective)
    except ValidationError as error:
        return [schema_problem(item, ("objectives", objective.label, "then")) for item in error.errors()]
    if not isinstance(objective.then, Sft):
        return []
    return _supply_problems(f"{objective.label}: then", *objective.then.of, plan)


def _expert_problems(objective: NamedObjective) -> list[str]:
    """Says where a mixture of experts would stand beside a stage, which knows none."""
    after = objective.then
    if after is None:
        return []
    where = f"objectives.{objective.label}.then"
    if _needs_experts(objective.name, objective.settings):
        return [f"{where}: expected no stage after {objective.name}, whose experts it would not know"]
    if isinstance(after, Sft) and _needs_experts(*after.of):
        return [f"{where}.objective: expected one without experts, got {after.of[0]}; give it as the row's objective"]
    return []


def _needs_experts(name: str, settings: Mapping[str, Any]) -> bool:
    return not objectives.problems(name, settings) and "experts" in objectives.ready(name, settings).needs


def _path_problems(suite: Suite) -> list[str]:
    """Says where a row is compared at equal AP whose learning rate falls: a step on its path is then no fair place to
    stop, as training that ends there would have had a smaller rate."""
    compared = [
        (f"hypothesis {stated.id}: at: equal_AP", stated.model_rows) for stated in suite.hypotheses if stated.at
    ]
    compared += [
        (f"early_stops.{row.label}", ((None, row.objective), (None, row.at_ap_of))) for row in suite.early_stops
    ]
    by_label = {objective.label: objective for objective in suite.objectives}
    lines = []
    for where, named in compared:
        for name, objective in ((name, by_label[label]) for name, label in named if label in by_label):
            for model in (model for model in suite.models if name in (None, model.label)):
                try:
                    schedule = suite.train_of(model, objective).schedule
                except ValidationError:  # told already
                    continue
                if schedule != "constant":
                    lines.append(f"{where}: expected train.schedule: constant of row {objective.label}, got {schedule}")
    return lines


def _micro_problems(where: str, plan: Train) -> list[str]:
    micro = plan.micro_batch
    if micro is None or plan.batch_size % micro == 0:
        return []
    return [f"{where}.micro_batch: expected a divisor of batch_size {plan.batch_size}, got {micro}"]


def _supply_problems(label: str, name: str, settings: Mapping[str, Any], plan: Train) -> list[str]:
    """Says where an objective needs sets of targets, which the training data conditions do not supply."""
    if objectives.problems(name, settings):  # told already
        return []
    if "sets" not in objectives.ready(name, settings).needs:
        return []
    size, micro = plan.set_size, plan.micro_batch
    if size == 1:
        return [
            f"objective {label}: {name} needs several targets of an image in a batch, but "
            f"train has targets: {plan.targets}, batching: {plan.batching}; use targets: all(n) with "
            "batching: grouped, or targets: random with batching: collision and a collision_rate above 0"
        ]
    if micro is not None and micro < size:
        return [f"train.micro_batch: expected at least the {size} targets of a set ({name}), got {micro}"]
    return []
