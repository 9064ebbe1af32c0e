"""Checkpoints hold everything, and are never taken for what they are not."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.errors import DataError
from harness.training import checkpoints
from harness.training.checkpoints import Checkpoint, TrainingState, random_numbers_kept
from tests.support import small
from tests.training.checkpoints.states import cut, draws, everything, newest, state_of, step, three_checkpoints


def test_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    state = state_of()
    random.seed(1)
    np.random.seed(1)
    step(state)
    random.gauss(0, 1), np.random.normal()  # the second of each pair is in reserve
    checkpoints.write(tmp_path, state, "cell", {"log": [1]})
    snapped, next_numbers = everything(state), draws()
    step(state)
    end = everything(state)

    other = state_of(seed=5)
    assert everything(other)[0] != snapped[0]
    checkpoint = newest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.content["extra"] == {"log": [1]}
    frozen = state.model.get_submodule("2").state_dict()
    other.model.get_submodule("2").load_state_dict(frozen)  # frozen: the base's, which any process has
    checkpoints.restore(checkpoint, other, small.accelerator())
    assert everything(other) == snapped
    assert draws() == next_numbers
    step(other)
    assert everything(other) == end


def test_frozen_parameters_are_not_written(tmp_path: Path) -> None:
    written = checkpoints.write(tmp_path, state_of(), "cell", {})
    names = {name for name in written.content["tensors"] if name.startswith("model/")}
    buffers = {f"model/{name}" for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked", "counter")}
    assert names == {"model/0.weight", "model/0.bias", "model/1.weight", "model/1.bias", *buffers}


def test_nothing_in_it_can_be_code(tmp_path: Path) -> None:
    """JSON and safetensors, whose header is JSON too."""
    written = checkpoints.write(tmp_path, state_of(), "cell", {})
    assert {path.name for path in written.folder.iterdir()} == {checkpoints.TENSORS, checkpoints.STATE}
    json.loads((written.folder / checkpoints.STATE).read_text())
    content = (written.folder / checkpoints.TENSORS).read_bytes()
    json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    state = state_of()
    for _ in range(4):
        step(state)
        checkpoints.write(tmp_path, state, "cell", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_the_older_one_goes_only_when_the_newer_one_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three = three_checkpoints(tmp_path)

    def badly(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save_file(tensors, path)
        cut(path)

    monkeypatch.setattr(checkpoints, "save_file", badly)
    step(three)
    with pytest.raises(DataError, match=r"step-00000004/tensors\.safetensors: expected the tensors"):
        checkpoints.write(tmp_path, three, "cell", {})
    checkpoint = newest(tmp_path, "checkpoint step-00000004 is of no use and was removed")
    assert checkpoint is not None
    assert checkpoint.content["step"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_what_cannot_be_written_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: dict[str, torch.Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    state = three_checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints, "save_file", full)
    step(state)
    with pytest.raises(OSError, match="No space"):
        checkpoints.write(tmp_path, state, "cell", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


# ---- damage --------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def reword(path: Path) -> None:
    """Still JSON, but of another value."""
    path.write_text(path.read_text().replace('"step": 3', '"step": 2', 1))


def reshape(path: Path) -> None:
    """The same bytes under another shape."""
    path.write_bytes(path.read_bytes().replace(b'"shape":[3,2]', b'"shape":[2,3]'))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (cut, checkpoints.TENSORS),
    (flip, checkpoints.TENSORS),
    (reshape, checkpoints.TENSORS),
    (Path.unlink, checkpoints.TENSORS),
    (replace_by_folder, checkpoints.TENSORS),
    (cut, checkpoints.STATE),
    (reword, checkpoints.STATE),
    (Path.unlink, checkpoints.STATE),
    (replace_by_folder, checkpoints.STATE),
]


@pytest.mark.parametrize(("damage", "name"), DAMAGE, ids=[f"{d.__name__}-{n}" for d, n in DAMAGE])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: Callable[[Path], None], name: str) -> None:
    three_checkpoints(tmp_path)
    place = tmp_path / "step-00000003" / name
    before = place.read_bytes()
    damage(place)
    assert not place.is_file() or place.read_bytes() != before
    checkpoint = newest(tmp_path, f"checkpoint step-00000003 is of no use and was removed: {place}")
    assert checkpoint is not None
    assert checkpoint.content["step"] == 2
    assert not place.parent.exists()


def test_tensors_exchanged_for_older_ones_are_noticed(tmp_path: Path) -> None:
    three_checkpoints(tmp_path)
    shutil.copy(tmp_path / "step-00000002" / checkpoints.TENSORS, tmp_path / "step-00000003" / checkpoints.TENSORS)
    checkpoint = newest(tmp_path, "missing, or not what was written")
    assert checkpoint is not None
    assert checkpoint.content["step"] == 2


def test_one_of_other_settings_or_format_is_of_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_checkpoints(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert newest(tmp_path, *["settings: expected other cell, got cell"] * 2, settings="other cell") is None
    monkeypatch.setattr(checkpoints, "FORMAT", checkpoints.FORMAT + 1)
    assert newest(tmp_path / "copy", *["format: expected 2, got 1"] * 2) is None


def test_what_the_caller_cannot_use_is_passed_over(tmp_path: Path) -> None:
    three_checkpoints(tmp_path)

    def usable(checkpoint: Checkpoint) -> None:
        if checkpoint.content["step"] == 3:
            raise DataError("its evaluation is gone")

    checkpoint = checkpoints.newest(tmp_path, "cell", usable, lambda message: None)
    assert checkpoint is not None
    assert checkpoint.content["step"] == 2


def test_another_model_is_left_alone(tmp_path: Path) -> None:
    written = checkpoints.write(tmp_path, state_of(), "cell", {})
    other = TrainingState(nn.Linear(2, 3), torch.optim.AdamW(nn.Linear(2, 3).parameters()))
    with pytest.raises(DataError, match="is of one side only"):
        checkpoints.restore(written, other, small.accelerator())


def test_weights_have_one_digest_whatever_the_optimizer(tmp_path: Path) -> None:
    state = state_of()
    first = checkpoints.write(tmp_path, state, "cell", {}).weights
    torch.rand(3)
    state.seconds, state.step = 5.0, 1
    assert checkpoints.write(tmp_path, state, "cell", {"log": []}).weights == first
    step(state)
    assert checkpoints.write(tmp_path, state, "cell", {}).weights != first


def test_looking_does_not_change_the_random_numbers() -> None:
    random.seed(2)
    np.random.seed(2)
    torch.manual_seed(2)
    with random_numbers_kept(torch.device("cpu")):
        inside = draws()
    assert draws() == inside


def test_json_nested_without_end_is_damage(tmp_path: Path) -> None:
    three_checkpoints(tmp_path)
    (tmp_path / "step-00000003" / checkpoints.STATE).write_text('{"content": ' + "[" * 200_000)
    checkpoint = newest(tmp_path, "checkpoint step-00000003 is of no use and was removed: ")
    assert checkpoint is not None
    assert checkpoint.content["step"] == 2
