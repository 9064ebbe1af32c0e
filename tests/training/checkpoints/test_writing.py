"""Checkpoints are written while training goes on, by time, of the state as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.records.log import Log
from harness.run.interval import CheckpointInterval
from harness.run.resume import CellCheckpointer
from harness.suite.train_settings import Train
from harness.system.interrupts import Interrupts
from harness.training import checkpoints
from harness.training.checkpoints import Checkpoint, TrainingState
from harness.training.loop import Hooks
from harness.training.objective import prepare
from tests.support import small
from tests.training.checkpoints.states import state_of, step


def test_each_tensor_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    original = checkpoints.digest

    def counting(tensor: torch.Tensor) -> str:
        hashed.append(1)
        return original(tensor)

    monkeypatch.setattr(checkpoints, "digest", counting)
    written = checkpoints.write(tmp_path, state_of(), "cell", {})
    assert len(hashed) == len(written.content["tensors"])


def test_a_copy_is_of_the_state_as_it_was(tmp_path: Path) -> None:
    """Parameters and moments are changed in place: nothing of the copy may be shared with them."""
    state = state_of()
    step(state)
    (tmp_path / "at once").mkdir()
    (tmp_path / "later").mkdir()
    expected = checkpoints.write(tmp_path / "at once", state, "cell", {}).content["tensors"]
    copy = checkpoints.copy_of(state, "cell", {})
    step(state)
    assert checkpoints.write_copy(tmp_path / "later", copy).content["tensors"] == expected


class Watched:
    """Training of four steps with a checkpointer whose clock shows 100 s more after each step."""

    def __init__(self, folder: Path, every: str) -> None:
        self.now, self.listings = 0.0, list[tuple[int, list[str]]]()
        self.checkpointer = CellCheckpointer(
            folder,
            Log(),
            "cell",
            CheckpointInterval.of(every),
            Interrupts(),
            small.accelerator(),
            clock=lambda: self.now,
        )
        self._folder = folder

    def train(self) -> None:
        adapter, plan = small.fresh(), Train(steps=4, batch_size=2)
        ready = prepare("ce", {}, adapter, (), plan, 0)
        small.fine_tune(adapter, ready, plan, hooks=Hooks(progress=self._progress), checkpointer=self.checkpointer)

    def _progress(self, step: int, loss: float) -> None:
        del loss
        self.now += 100.0
        self.listings.append((step, sorted(path.name for path in self._folder.glob("step-*"))))


def test_checkpoints_come_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 200 s where a step takes 100 s, and before the evaluation of the last step."""
    copied: list[int] = []
    original = checkpoints.copy_of

    def noted(state: TrainingState, *arguments: Any) -> checkpoints.StateCopy:
        copied.append(state.step)
        return original(state, *arguments)

    monkeypatch.setattr(checkpoints, "copy_of", noted)
    Watched(tmp_path / "often", "200s").train()
    assert copied == [2, 4]
    copied.clear()
    Watched(tmp_path / "seldom", "10m").train()
    assert copied == [4]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writing of step 2 is held up until step 3 has been made."""
    watched, made = Watched(tmp_path / "resume", "200s"), threading.Event()
    original = checkpoints.write_copy

    def slow(folder: Path, copy: checkpoints.StateCopy, check: Callable[[], None]) -> Checkpoint:
        if copy.step == 2:
            assert made.wait(60)
        return original(folder, copy, check)

    def progress(step: int, loss: float) -> None:
        Watched._progress(watched, step, loss)
        if step == 3:
            made.set()

    monkeypatch.setattr(checkpoints, "write_copy", slow)
    monkeypatch.setattr(watched, "_progress", progress)
    watched.train()
    assert watched.listings[2] == (3, [])
    assert sorted(path.name for path in (tmp_path / "resume").iterdir()) == ["step-00000002", "step-00000004"]


def test_an_error_of_writing_ends_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Checkpoint:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_copy", full)
    with pytest.raises(OSError, match="No space"):
        Watched(tmp_path / "resume", "100s").train()
