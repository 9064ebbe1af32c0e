"""Measures how long to train: CE's loss on held-out images, without sampling anything."""

from __future__ import annotations

from harness.errors import ConfigError
from harness.inference.teacher_forcing import heldout_nll
from harness.protocols import Adapter
from harness.run.context import Context, build
from harness.training.finetuning import FineTuning
from harness.training.loop import Hooks, train
from harness.training.objective import prepare
from harness.training.stage import Work


def heldout_curve(context: Context, steps: int, every: int, seed: int) -> list[tuple[int, float]]:
    """Returns (step, nats per target token on the calibration split) of the suite's first model under CE.

    Neither the validation images nor the diversity of any output are used, so a budget chosen from this curve favours
    no objective.
    """
    adapter = build(context, context.suite.models[0])
    heldout = context.questions("calibration", seed)
    if not isinstance(adapter, Adapter):
        raise ConfigError("models: the first model cannot be fine-tuned")
    if not heldout:
        raise ConfigError("benchmark: has no calibration split; give it calibration_images")
    evaluations = tuple(sorted({*range(every, steps + 1, every), steps}))
    usual = context.suite.train_of(context.suite.models[0])
    plan = usual.model_copy(update={"steps": steps, "epochs": None, "eval_at": evaluations})
    curve: list[tuple[int, float]] = []

    def evaluate(step: int) -> None:
        nll = heldout_nll(adapter, heldout)
        assert nll is not None
        curve.append((step, nll))

    evaluate(0)
    objective = prepare("ce", {}, adapter, heldout, plan, seed)
    work = Work(adapter, context.questions("train", seed), seed, context.accelerator)
    train(work, [FineTuning(objective, plan)], Hooks(evaluate=evaluate))
    return curve
