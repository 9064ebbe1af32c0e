"""What is asked of every stage after fine-tuning: stopped or killed at any moment it ends as if nothing had happened,
and several processes learn what one learns."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from harness.run.resume_folder import ResumeWarning
from harness.suite.stage_settings import STAGES
from harness.system.interrupts import Interrupted, Interrupts
from harness.training.loop import Hooks
from harness.training.stages import kinds
from harness.training.stages.nsft import CORRECTIONS
from tests.support import small
from tests.support.chains import DIVPO, DPO, GEPO, GRPO, NSFT, SFT, SPL, chain_of, train_chain, weights
from tests.support.processes.killing import Place, Server, cell_outcome, flip_last_byte
from tests.support.processes.ranks import on_ranks

STAGES_TRIED: dict[str, dict[str, Any]] = {
    "grpo": GRPO,
    "grpo with a reference": {**GRPO, "kl": 0.1, "updates": 2},
    "dpo": DPO,
    "divpo": DIVPO,
    "spl": SPL,
    "gepo": GEPO,
    "nsft": {**NSFT, "kl": 0.1},
    "sft": SFT,
    "sft with a divergence": {**SFT, "objective": {"name": "ce_kl", "weight": 0.5}},
}
TABLES = {"dpo": "pairs", "divpo": "pairs", "spl": "pairs", "gepo": "pairs", "nsft": CORRECTIONS}
"""What a stage makes of the model as it begins, and keeps."""


def test_every_stage_can_be_made_and_is_tried() -> None:
    assert kinds.KINDS.keys() == STAGES.keys() == {then["name"] for then in STAGES_TRIED.values()}


# ---- stopped ---------------------------------------------------------------------------------------------------------


@cache
def uninterrupted(name: str) -> tuple[list[dict[str, Any]], Tensor]:
    """Curve and weights of a chain that nobody stops."""
    adapter = small.fitted()
    return train_chain(adapter, chain_of(STAGES_TRIED[name])), weights(adapter)


def stop_after(step: int, name: str, folder: Path) -> None:
    """Trains until a signal is noticed after this step; checkpoints are rarer than the steps at which signals come."""
    caught = Interrupts()

    def progress(reached: int, loss: float) -> None:
        del loss
        if reached == step:
            caught.pending = signal.SIGTERM

    chain, checkpointer = chain_of(STAGES_TRIED[name]), small.checkpointer(folder, caught)
    with pytest.raises(Interrupted):
        train_chain(small.fitted(), chain, checkpointer, Hooks(progress=progress))


def assert_goes_on(name: str, folder: Path) -> None:
    """Whatever the model was before: all comes from the checkpoint, where there is one."""
    adapter = small.fresh(seed=5)
    curve, expected = uninterrupted(name)
    assert train_chain(adapter, chain_of(STAGES_TRIED[name]), small.checkpointer(folder)) == curve
    assert torch.equal(weights(adapter), expected)


USUAL = {("grpo with a reference", 3), ("dpo", 3), ("nsft", 2), ("sft", 4)}
"""At both ends of a stage and in its middle, with and without a reference and a table; the slow tests try all."""
STOPS = [
    pytest.param(name, stop, marks=() if (name, stop) in USUAL else pytest.mark.slow)
    for name in STAGES_TRIED
    for stop in (1, 2, 3, 4)
]


@pytest.mark.parametrize(("name", "stop"), STOPS)
def test_a_stopped_chain_goes_on_to_the_last_bit(name: str, stop: int, tmp_path: Path) -> None:
    """In fine-tuning, at its end, and in the stage: then its table is that of the model as it began."""
    stop_after(stop, name, tmp_path)
    table = TABLES.get(STAGES_TRIED[name]["name"])
    assert len(list(tmp_path.glob(f"table-{table}-*"))) == (table is not None and stop > 2)
    assert_goes_on(name, tmp_path)


@pytest.mark.parametrize("name", ["dpo", pytest.param("nsft", marks=pytest.mark.slow)])
def test_a_damaged_table_is_made_again(name: str, tmp_path: Path) -> None:
    """By the model as the stage began, which the checkpoint before it has; that of a later step goes with it."""
    stop_after(3, name, tmp_path)
    (damaged,) = tmp_path.glob(f"table-{TABLES[name]}-*/*.parquet")
    flip_last_byte(damaged)
    with pytest.warns(ResumeWarning) as warned:
        assert_goes_on(name, tmp_path)
    first, second = (str(warning.message) for warning in warned)
    assert first.startswith("checkpoint step-00000003 is of no use and was removed: ")
    assert second.startswith(f"table {TABLES[name]} is made again: ")


# ---- killed ----------------------------------------------------------------------------------------------------------

CELLS: dict[str, dict[str, Any]] = {
    "grpo": {**GRPO, "updates": 2, "kl": 0.1, "eval_at": [1]},
    "dpo": DPO,
    "divpo": {**DIVPO, "bad": 0.8},
    "nsft": {**NSFT, "images": 8, "temperature": 2.0, "kl": 0.1, "eval_at": [1]},
    "sft": SFT,
}
"""One row of the suite each. A shipped model that has learnt this errs at temperature 2."""
SUITE: dict[str, Any] = {
    "benchmark": {"name": "shapes", **small.SETTINGS, "val_images": 4, "calibration_images": 4},
    "models": ["open_flamingo"],
    "objectives": [{"name": "ce", "label": label, "then": then} for label, then in CELLS.items()],
    "train": {"steps": 2, "batch_size": 4, "log_every": 1},
    "sample": {"samples": 2, "max_tokens": 12, "batch_images": 2},
    "keep": "all",
}
KILLS: Mapping[str, tuple[Place, ...]] = {
    "grpo": (
        ("harness.training.loop", "accumulate", 2, "kill"),  # in the first stage
        ("harness.training.checkpoints", "save_file", 1, "kill-after"),  # at its end, before its evaluation
        ("harness.run.resume_folder", "Evaluations._made", 1, "kill-after"),  # after it
        ("harness.training.stages.grpo", "rollout", 1, "kill-after"),  # in the first step of the second stage
        ("harness.training.loop", "accumulate", 4, "kill"),  # between the updates of its second
        ("harness.evaluation.scored_samples", "generate_batch", 2, "kill"),
    ),
    "dpo": (
        ("harness.training.stages.rollout", "rollout", 1, "kill-after"),  # before there are pairs
        ("harness.run.resume_folder", "StageTables._keep", 1, "kill"),
        ("harness.run.resume_folder", "StageTables._keep", 1, "kill-after"),  # before the stage's first step
        ("harness.training.loop", "accumulate", 2, "kill"),
        ("harness.run.cell", "gallery_frame", 1, "kill"),
    ),
    "nsft": (
        ("harness.training.stages.nsft", "own_samples", 1, "kill-after"),  # what the model said is lost
        ("harness.run.resume_folder", "StageTables.get_or_make", 1, "kill-after"),  # the corrections are kept
        ("harness.training.loop", "accumulate", 2, "kill"),  # in the stage, before its second step
        ("harness.evaluation.scored_samples", "generate_batch", 2, "kill"),
    ),
    "sft": (
        ("harness.training.loop", "accumulate", 4, "kill"),
        ("harness.evaluation.scored_samples", "generate_batch", 2, "kill"),
    ),
}
KILLS = {**KILLS, "divpo": KILLS["dpo"]}
"""Calls are counted anew in each attempt, which begins where the one before it was killed."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"), small.mini_suite(**SUITE))
    yield started
    started.close()


class Uninterrupted:
    """What each row leaves in the folder of a cell that nobody kills; every row is run once."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server, self._folder = server, folder

    def folder(self, label: str) -> Path:
        if not list(self._folder.glob(f"cells/*-{label}-*")):
            done = self._server.run(self._folder, f"*-{label}-*")
            assert (done.status, done.printed) == (0, "")
        (cell,) = self._folder.glob(f"cells/*-{label}-*")
        return cell

    def left(self, label: str) -> dict[str, Any]:
        return cell_outcome(self.folder(label))


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    return Uninterrupted(server, tmp_path_factory.mktemp("whole"))


def test_a_record_has_every_stage(whole: Uninterrupted) -> None:
    left = whole.left("grpo")
    record = left["record.json"]
    assert [item["step"] for item in record["evaluations"]] == [2, 3, 5]
    assert all(item["diversity"]["recall"] is not None for item in record["evaluations"])
    assert [row["step"] for row in record["curve"] if "reward" in row] == [3, 4, 5]
    assert record["cell"]["train"]["then"]["reward"] == "detection"
    assert {f"model-step{step}.safetensors" for step in (2, 3, 5)} < left.keys()


def test_a_cell_keeps_the_table_of_its_stage(whole: Uninterrupted) -> None:
    assert "pairs.parquet" in whole.left("dpo")
    table = pd.read_parquet(whole.folder("nsft") / f"{CORRECTIONS}.parquet")
    assert list(table) == ["image_id", "asked", "kind", "context", "answer", "question", "reply"]
    assert len(table) > 4
    curve = whole.left("nsft")["record.json"]["curve"]
    assert [row["step"] for row in curve if "correction_nll" in row] == [3, 4, 5]


OFTEN = ("nsft",)
"""It has a table of its own, a reference and an evaluation within the stage; each attempt takes seconds."""


@pytest.mark.parametrize(
    "label", [pytest.param(label, marks=() if label in OFTEN else pytest.mark.slow) for label in CELLS]
)
def test_a_killed_chain_leaves_the_record_of_one_that_was_not(
    server: Server, whole: Uninterrupted, label: str, tmp_path: Path
) -> None:
    for place in KILLS[label]:
        assert server.run(tmp_path, f"*-{label}-*", at=place).status == -signal.SIGKILL, place
    done = server.run(tmp_path, f"*-{label}-*")
    assert (done.status, done.printed) == (0, "")
    (cell,) = (tmp_path / "cells").iterdir()
    assert cell_outcome(cell) == whole.left(label)


# ---- several processes -----------------------------------------------------------------------------------------------

SHARED: dict[str, dict[str, Any]] = {
    "grpo": {**GRPO, "updates": 2, "kl": 0.1},
    "dpo": {**DPO, "batch_size": 4, "pairs_per_image": 2},
    "gepo": GEPO,
    "nsft": {**NSFT, "kl": 0.1},
    "sft": SFT,
}
"""What two ranks can share evenly."""


def learn_together(folder: Path) -> dict[str, Any]:
    """Played on each rank: curve and weights of every stage."""
    left = {}
    for name, then in SHARED.items():
        adapter = small.fitted()
        curve = train_chain(adapter, chain_of(then), small.checkpointer(folder / name))
        left[name] = {"curve": curve, "sums": [float(p.detach().double().sum()) for p in adapter.model.parameters()]}
    return left


def table_of(folder: Path, name: str) -> pd.DataFrame:
    (path,) = (folder / name).glob(f"table-{TABLES[name]}-*/*.parquet")
    return pd.read_parquet(path)


@pytest.mark.slow
def test_two_ranks_learn_what_one_process_learns(tmp_path: Path) -> None:
    """Each draws from half of the images, with the same random numbers; tables, and so batches, are those of one
    process. Updates are of the images of both: one with fewer images that differ in reward takes part all the same."""
    first, second = on_ranks(2, "tests.training.stages.test_contract:learn_together", tmp_path)
    assert first == second
    (tmp_path / "alone").mkdir()
    alone = learn_together(tmp_path / "alone")
    for name in SHARED:
        pairs = list(zip(first[name]["curve"], alone[name]["curve"], strict=True))
        assert all(row.keys() == other.keys() for row, other in pairs)
        if name in TABLES:
            pd.testing.assert_frame_equal(table_of(tmp_path, name), table_of(tmp_path / "alone", name), rtol=1e-4)
        if name != "grpo":
            for row, other in pairs:  # padding depends on which sequences go together
                assert {**row, "padding": 0} == pytest.approx({**other, "padding": 0}, rel=1e-3, abs=1e-5)
    steps = [row for row in first["grpo"]["curve"] if "reward" in row]
    same = next(row for row in alone["grpo"]["curve"] if "reward" in row)
    for figure in ("reward", "filtered", "objects", "entropy"):  # of the first step: before the order of sums tells
        assert steps[0][figure] == pytest.approx(same[figure], rel=1e-5)
