"""No path bypasses an objective: from the gradient that a step leaves, the objective asked for is the one applied."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from harness import objectives
from harness.objectives import apply
from harness.protocols import HiddenStates
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import paths, small

ROOT = Path(__file__).parents[2]
CASES = list(paths.SETTINGS)
TOLERANCE = 1e-4
"""Float32 sums in another order, relative to the gradient's norm."""

expected = cache(paths.expected_gradient)


class WithoutHidden:
    """An adapter that has logits only."""

    def __init__(self, adapter: OpenFlamingo) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        if name == "hidden":
            raise AttributeError(name)
        return getattr(self._adapter, name)


def distance(got: Tensor, case: str) -> float:
    return float((got - expected(case)).norm() / expected(case).norm())


def test_every_objective_has_a_formula_and_a_case() -> None:
    assert set(paths.FORMULAS) == {case.split()[0] for case in CASES} == set(objectives.OBJECTIVES)


def test_the_cases_can_be_told_apart() -> None:
    """Any two differ by far more than the tolerance, so agreeing with one is disagreeing with every other."""
    for one in CASES:
        for other in CASES:
            assert one == other or distance(expected(one), other) > 100 * TOLERANCE, (one, other)


@pytest.mark.parametrize("case", CASES)
def test_plain_logits(case: str) -> None:
    adapter = WithoutHidden(paths.model())
    assert not isinstance(adapter, HiddenStates)
    assert distance(paths.step_gradient(case, small.accelerator(), 100, adapter), case) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_chunks_of_hidden_states(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "CHUNK_ELEMENTS", 7 * paths.model().tokens.size)
    monkeypatch.setattr(apply, "LARGEST_SHARE", 10**6)
    assert isinstance(paths.model(), HiddenStates)
    assert distance(paths.step_gradient(case, small.accelerator(), 100), case) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_accumulated_over_micro_batches(case: str) -> None:
    assert distance(paths.step_gradient(case, small.accelerator(), 2), case) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_bf16_autocast(case: str, bf16: Accelerator) -> None:
    """Coarse, but nearest to the objective asked for."""
    for adapter in (paths.model(), WithoutHidden(paths.model())):
        got = paths.step_gradient(case, bf16, 100, adapter)
        assert min(CASES, key=lambda other: float((got - expected(other)).norm())) == case
        assert 1e-6 < distance(got, case) < 0.1


def test_two_data_parallel_ranks(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "tests.support.ranks.two_ranks", str(tmp_path / "gradients.pt")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert list(gradients) == CASES
    for case in CASES:
        assert distance(gradients[case], case) < TOLERANCE, case
