"""What a run leaves in a shared folder may be read by whom the umask lets, also where a library wrote it."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.shapes import render_set
from benchmarks.shapes_pictures import ShapesSettings
from harness.system.files import give_usual_permissions
from harness.training import checkpoints
from harness.training.checkpoints import TrainingState
from model_zoo import checkpoint


@pytest.fixture(params=[0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The user's, while the test runs."""
    umask: int = request.param
    before = os.umask(umask)
    yield umask
    os.umask(before)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_made_for_its_user_alone_gets_the_usual_permissions(tmp_path: Path, umask: int) -> None:
    made = Path(tempfile.mkdtemp(dir=tmp_path))
    descriptor, name = tempfile.mkstemp(dir=made)
    os.close(descriptor)
    for path in (made, Path(name)):
        give_usual_permissions(path)
    assert permissions(Path(name)) == 0o666 & ~umask
    assert permissions(made) == 0o777 & ~umask
    assert list(tmp_path.iterdir()) == [made]  # and nothing beside them
    assert list(made.iterdir()) == [Path(name)]


def test_weights(tmp_path: Path, umask: int) -> None:
    checkpoint.save(nn.Linear(1, 1), ["cat"], tmp_path / "model.safetensors")
    assert permissions(tmp_path / "model.safetensors") == 0o666 & ~umask


def test_snapshots(tmp_path: Path, umask: int) -> None:
    model = nn.Linear(1, 1)
    snapshot = checkpoints.write(tmp_path, TrainingState(model, torch.optim.AdamW(model.parameters())), "cell", {})
    assert permissions(snapshot.folder) == 0o777 & ~umask
    assert {permissions(path) for path in snapshot.folder.iterdir()} == {0o666 & ~umask}


def test_a_rendered_set(tmp_path: Path, umask: int) -> None:
    settings = ShapesSettings(train_images=1, val_images=1, calibration_images=1)
    folder = render_set(settings, tmp_path / "cache")
    assert {permissions(path) for path in (folder, folder / "val")} == {0o777 & ~umask}
    assert permissions(folder / "val.json") == 0o666 & ~umask
