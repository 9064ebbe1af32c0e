"""Whatever is split over the processes, curve, weights and what is generated are those of one process."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.records.log import Log
from harness.suite.train_settings import Train
from harness.system import ranks
from harness.training import checkpoints
from harness.training.engines.data_parallel import DataParallel
from harness.training.finetuning import rows_of
from harness.training.loop import Hooks, NoCheckpoints
from harness.training.objective import prepare
from harness.training.schedule import Draw
from harness.training.step import accumulate
from model_zoo import checkpoint
from tests.support import small
from tests.support.processes.ranks import accelerate, finish, scenario
from tests.training.engines.small_trainings import CONFIGS

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
        newest = checkpoints.newest(self.folder, "case", lambda _: None, print) if accelerator.is_main_process else None
        newest = ranks.same(accelerator, newest)
        if not self.stop and newest is not None:
            checkpoints.restore(newest, state, accelerator)
            self.log.restore(newest.content["extra"]["log"])

    def after_step(self, state: checkpoints.TrainingState, evaluated: bool) -> None:
        if not (self.stop and evaluated and state.resumes):
            return
        if small.accelerator().is_main_process:
            checkpoints.write(self.folder, state, "case", {"log": self.log.rows})
        else:
            checkpoints.take_part(state)
        raise StoppedError


def save_trained(folder: Path, *cases: str) -> None:
    """Played on each rank. Rank 0 writes CASE.pt: the curve, the weights after the last step, and what the model
    generates in the middle of training and after its end."""
    for case in cases:
        made = trained(case, folder)
        if small.accelerator().is_main_process:
            torch.save(made, folder / f"{case}.pt")


def trained(case: str, folder: Path) -> dict[str, Any]:
    """Where the engine resumes, training is stopped after a snapshot and goes on in a fresh model."""
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
    answers = {}

    def say(step: int) -> None:
        # Ranks say more or less: nothing in here may wait for another one, and saving must find what is whole.
        checkpoint.named_tensors(adapter.model)["perceiver.latents"].sum().item()
        examples = small.train_examples(2 + small.accelerator().process_index)
        answers[step] = [[s.tokens for s in samples] for samples in adapter.generate(examples, [1.0], 0, 12)][:2]

    examples = small.benchmark().split("train")
    hooks = Hooks(evaluate=say)
    curve = small.fine_tune(adapter, ready, full, examples, hooks, checkpointer, log=log)
    say(-1)
    weights = {name: tensor.detach().clone() for name, tensor in checkpoint.named_tensors(adapter.model).items()}
    return {"curve": [(row["loss"], row["grad_norm"]) for row in curve], "weights": weights, "answers": answers}


@cache
def alone(case: str) -> dict[str, Any]:
    """What one process makes of the case."""
    return attempt(case, NoCheckpoints(), Log())


def launched(config: str, folder: Path, *cases: str, **environment: str) -> dict[str, dict[str, Any]]:
    """What two processes make of the cases under a shipped configuration."""
    launcher = accelerate(CONFIGS / config, 2)
    played = scenario(launcher, "tests.training.engines.test_processes:save_trained", folder, *cases)
    code, printed = finish(played, **environment)
    assert code == 0, printed[-3000:]
    return {case: torch.load(folder / f"{case}.pt", weights_only=True) for case in cases}


def assert_same(case: str, got: dict[str, Any]) -> None:
    """As one process has it. Of mrt the curve alone: where all sequences of a set cost the same, its gradient is
    nothing but rounding, and AdamW makes whole steps of that."""
    expected = alone(case)
    assert torch.tensor(got["curve"]).isclose(torch.tensor(expected["curve"]), rtol=1e-5, atol=1e-5).all()
    if case == "mrt":
        return
    assert got["weights"].keys() == expected["weights"].keys()
    for name, tensor in expected["weights"].items():
        assert (got["weights"][name] - tensor).abs().max() < 2e-5, name
    assert got["answers"] == expected["answers"]


@pytest.mark.slow
def test_fsdp2_is_one_process(tmp_path: Path) -> None:
    """Groups, checkpointed gradients, unequal numbers of micro-batches (mrt), stopped and restored on the way."""
    for case, got in launched("fsdp2-8gpu.yaml", tmp_path, *CASES).items():
        assert_same(case, got)


@pytest.mark.slow
def test_data_parallel_is_one_process(tmp_path: Path) -> None:
    for case, got in launched("data-parallel-2cpu.yaml", tmp_path, "ce").items():
        assert_same(case, got)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
def test_deepspeed_is_one_process(tmp_path: Path) -> None:
    launches = launched("deepspeed-stage2-8gpu.yaml", tmp_path, *CASES, DS_ACCELERATOR="cpu")
    for case, got in launches.items():
        assert_same(case, got)


def test_the_rounds_that_only_others_have_change_nothing() -> None:
    """One process that makes two passes more than it has rows for leaves the gradient as it is."""

    class More(DataParallel):
        def rounds(self, count: int) -> int:
            return count + 2

    gradients = []
    for kind in (DataParallel, More):
        adapter = small.fitted()
        ready = prepare("ce", {}, small.fitted(), [], Train(), 0)
        rows = rows_of(adapter, small.train_examples(2), [Draw(0, 0, 0), Draw(0, 1, 0)], "canonical", 0)
        engine = kind(adapter.model, small.accelerator())
        output = accumulate(adapter, rows, ready, 1, small.accelerator(), engine=engine)
        gradients.append((float(output.mean()), [p.grad for p in adapter.model.parameters() if p.grad is not None]))
    (one, expected), (other, got) = gradients
    assert one == other
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
