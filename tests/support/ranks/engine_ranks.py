"""Run by `accelerate launch`: trains the small model under the engine that its configuration asks for.

accelerate launch --config_file FILE --num_processes 2 -m tests.support.ranks.engine_ranks FOLDER CASE...

Rank 0 writes CASE.pt: the curve, the weights after the last step, and what the model generates in the middle of
training and after its end. Where the engine resumes, training is stopped after a checkpoint and goes on in a fresh
model.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from harness.records.log import Log
from harness.suite.schema import Train
from harness.system import ranks
from harness.training import checkpoints
from harness.training.loop import Hooks, NoCheckpoints
from harness.training.objective import prepare
from model_zoo import checkpoint
from tests.support import small

STEPS, STOP = 4, 2
PLAN: dict[str, Any] = {"steps": STEPS, "batch_size": 4, "warm_up": 2, "log_every": 1, "eval_at": [STOP]}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ce": ("ce", {}, {"groups": [{"match": "perceiver.*", "lr": 1e-3, "weight_decay": 0.0}]}),
    "sed_sft": (
        "sed_sft",
        {"mask": "base", "weight": 5.0, "top_k": 3, "quantile": 0.6},
        {"micro_batch": 1, "gradient_checkpointing": True},
    ),
    "mrt": (
        "mrt",
        {"weight": 3.0, "samples": 3},
        {"micro_batch": 2, "targets": "all(2)", "batching": "grouped", "steps": 3},
    ),
}
"""Name -> objective, its settings, and how it is trained."""


class StoppedError(Exception):
    """After a checkpoint."""


class Stopping(NoCheckpoints):
    """Saves its state after a step, and stops there; or goes on from what another one has saved."""

    def __init__(self, folder: Path, stop: bool) -> None:
        self.folder, self.stop, self.log = folder, stop, Log()

    def restore(self, state: checkpoints.TrainingState) -> None:
        accelerator = small.accelerator()
        found = checkpoints.newest(self.folder, "case", lambda _: None, print) if accelerator.is_main_process else None
        found = ranks.same(accelerator, found)
        if not self.stop and found is not None:
            checkpoints.restore(found, state, accelerator)
            self.log.restore(found.content["extra"]["log"])

    def after_step(self, state: checkpoints.TrainingState, evaluated: bool) -> None:
        if not (self.stop and evaluated and state.resumes):
            return
        if small.accelerator().is_main_process:
            checkpoints.write(self.folder, state, "case", {"log": self.log.rows})
        else:
            checkpoints.take_part(state)
        raise StoppedError


def trained(case: str, folder: Path) -> dict[str, Any]:
    """What the module's docstring says is written."""
    (folder / case).mkdir(exist_ok=True)
    try:
        return attempt(case, *_stopping(folder / case, stop=True))
    except StoppedError:
        return attempt(case, *_stopping(folder / case, stop=False))


def _stopping(folder: Path, stop: bool) -> tuple[Stopping, Log]:
    checkpointer = Stopping(folder, stop)
    return checkpointer, checkpointer.log


def attempt(case: str, checkpointer: NoCheckpoints, log: Log) -> dict[str, Any]:
    """Trains a fresh model; the checkpointer may stop it, or have the state of one that was stopped."""
    objective, settings, plan = CASES[case]
    adapter, full = small.fitted(), Train.model_validate({**PLAN, **plan})
    heldout = small.benchmark().split("calibration")[:8]
    ready = prepare(objective, settings, small.fitted(), heldout, full, 0)
    said = {}

    def say(step: int) -> None:
        # Ranks say more or less: nothing in here may wait for another one, and saving must find what is whole.
        checkpoint.named_tensors(adapter.model)["perceiver.latents"].sum().item()
        own = small.train_examples(2 + small.accelerator().process_index)
        said[step] = [[s.tokens for s in samples] for samples in adapter.generate(own, [1.0], 0, 12)][:2]

    examples = small.benchmark().split("train")
    hooks = Hooks(evaluate=say)
    curve = small.fine_tune(adapter, ready, full, examples, hooks, checkpointer, log=log)
    say(-1)
    weights = {name: own.detach().clone() for name, own in checkpoint.named_tensors(adapter.model).items()}
    return {"curve": [(row["loss"], row["grad_norm"]) for row in curve], "weights": weights, "said": said}


if __name__ == "__main__":
    folder, *cases = sys.argv[1:]
    for name in cases:
        made = trained(name, Path(folder))
        if small.accelerator().is_main_process:
            torch.save(made, Path(folder) / f"{name}.pt")
    ranks.leave(small.accelerator())
