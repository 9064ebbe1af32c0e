"""A run of the mini suite that has finished, and a copy of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.run import runner
from tests.run.mini_runs import context


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of the mini suite. Tests that change something copy it first."""
    folder = tmp_path_factory.mktemp("run")
    runner.run(context(), folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))
