"""Estimates the cost of a run on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from harness.evaluation.generation import generate
from harness.protocols import Adapter
from harness.run.context import Context, Planned, build
from harness.run.runner import finished
from harness.suite.schema import NamedModel
from harness.training.finetuning import FineTuning
from harness.training.loop import train
from harness.training.objective import prepare
from harness.training.stage import Work


def estimate(
    context: Context, planned: Sequence[Planned], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Estimates the seconds of each planned cell: the speed of two training steps and one generated batch of its
    model on this machine, times the amount of work. 0 for a finished cell."""
    speeds: dict[str, tuple[float, float]] = {}
    costs = []
    for item in planned:
        key = item.cell.model.model_dump_json()
        if key not in speeds:
            speeds[key] = _speeds(context, item.cell.model, clock)
        per_step, per_image = speeds[key]
        objective, suite = item.cell.objective, context.suite
        plans = () if objective is None else suite.plans_of(item.cell.model, objective)
        every = len(context.questions("val", item.cell.seed))
        whole = len(suite.sample.curve) - 1 + max(len(plans), 1)  # at the end of each stage all questions are asked
        early = sum(len(plan.evaluations) - 1 for plan in plans)
        asked = whole * every + early * (suite.train.eval_images or every)
        steps = plans[0].steps if plans else 0
        cost = steps * per_step + asked * per_image
        if objective is not None and objective.then is not None:
            drawn, trained = objective.then.amount
            cost += drawn * per_image / suite.sample.samples + trained * per_step / suite.train.batch_size
        costs.append(0.0 if finished(item) else cost)
    return costs


def _speeds(context: Context, model: NamedModel, clock: Callable[[], float]) -> tuple[float, float]:
    """Measures seconds per training step and per generated image (or question), each after one untimed warm-up."""
    predictor = build(context, model)
    suite = context.suite
    batch = context.questions("val", 0)[: suite.sample.batch_images]
    per_image = _timed(lambda: generate(predictor, batch, suite.sample.temperature, suite.sample, 0), clock) / len(
        batch
    )
    if not isinstance(predictor, Adapter):
        return 0.0, per_image
    work = Work(predictor, context.questions("train", 0), 0, context.accelerator)
    plan = suite.train.model_copy(update={"steps": 1, "eval_at": ()})
    stage = FineTuning(prepare("ce", {}, predictor, (), plan, 0), plan)
    return _timed(lambda: train(work, [stage]), clock), per_image


def _timed(action: Callable[[], object], clock: Callable[[], float]) -> float:
    action()
    started = clock()
    action()
    return clock() - started
