"""The command started in a folder that has packages of the same names as ours, and what is said where they win."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import detmodes

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = Path(sys.executable).with_name("detmodes")
MODULE = (sys.executable, "-m", "detmodes")
SUITE = """
suite: small
benchmark: {name: shapes, domain: plain, train_images: 8, val_images: 8}
models: [{name: oracle-uniform}, {name: oracle-collapsed}]
objectives: []
seeds: [0]
sample: {samples: 2, temperature: 1.0}
"""


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder whose own packages have the names of ours, and break whoever imports them."""
    for name in detmodes.PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not yours')\n")
    (tmp_path / "small.yaml").write_text(SUITE)
    return tmp_path


def start(folder: Path, *command: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("command", "jobs"),
    [
        (MODULE, "2"),
        pytest.param((str(INSTALLED),), "1", marks=pytest.mark.slow),
        pytest.param((str(INSTALLED),), "2", marks=pytest.mark.slow),
        pytest.param(MODULE, "1", marks=pytest.mark.slow),
    ],
)
def test_it_runs_beside_packages_of_the_same_names(command: tuple[str, ...], jobs: str, crowded: Path) -> None:
    done = start(crowded, *command, "run", "small.yaml", "--jobs", jobs, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert "oracle-uniform" in done.stdout


@pytest.mark.parametrize("name", detmodes.PACKAGES)
def test_another_package_that_wins_is_named_with_its_place(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    done = start(tmp_path, *MODULE, "list", "suites", path=Path(f"{tmp_path}{os.pathsep}{ROOT}"))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith(f"detmodes: {name}: expected the package that belongs to ")
    assert str(tmp_path / name) in line


def test_the_facade_imports_nothing_heavy() -> None:
    """Nor does naming what it offers. What computes nothing with models loads no torch when it is used either."""
    program = (
        "import sys, detmodes; names = [dir(detmodes), detmodes.__all__]; print('numpy' in sys.modules)\n"
        "detmodes.evaluate, detmodes.measure, detmodes.load, detmodes.run, detmodes.TokenBatch\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules, detmodes.__version__)"
    )
    done = start(ROOT, sys.executable, "-c", program)
    assert done.stdout.split()[:3] == ["False", "False", "False"]


def test_what_is_offered_is_there() -> None:
    assert set(detmodes.__all__) | {"__version__"} == set(detmodes.HOMES)
    assert set(detmodes.__all__) <= set(dir(detmodes))
    for name in detmodes.HOMES:
        assert getattr(detmodes, name) is not None
    with pytest.raises(AttributeError, match="module detmodes has no attribute evaluates"):
        detmodes.evaluates  # type: ignore[attr-defined]  # noqa: B018
