"""No path bypasses an objective: from the gradient that a step leaves, the objective asked for is the one applied."""

from __future__ import annotations

import os
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from harness import objectives
from harness.inference.device import accelerator_on
from harness.objectives import apply, calibration
from harness.protocols import HiddenStates
from harness.suite.train_settings import Train
from harness.training.objective import prepare
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import paths, small
from tests.support.processes.ranks import on_ranks

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
    norms = {case: expected(case).norm() for case in CASES}
    for one, other in combinations(CASES, 2):
        difference = (expected(one) - expected(other)).norm()
        assert difference > 100 * TOLERANCE * max(norms[one], norms[other]), (one, other)


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


# ---- two processes ---------------------------------------------------------------------------------------------------


def save_gradients(folder: Path) -> None:
    """Played on each rank, which takes its share of the batch; rank 0 saves the gradient of every objective."""
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    gradients = {case: paths.step_gradient(case, accelerator, micro_batch=2) for case in paths.SETTINGS}
    if accelerator.is_main_process:
        torch.save(gradients, folder / "gradients.pt")


def test_two_data_parallel_ranks(tmp_path: Path) -> None:
    on_ranks(2, "tests.training.test_paths:save_gradients", tmp_path)
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert list(gradients) == CASES
    for case in CASES:
        assert distance(gradients[case], case) < TOLERANCE, case


PLAN = Train(
    targets="all(2)", batching="grouped", steps=10, batch_size=8, micro_batch=4, lr=1e-4, warm_up=3, log_every=1
)
WITH_A_CURVE = [case for case in paths.SETTINGS if "quantile" not in paths.SETTINGS[case]] + ["sed_sft base"]


def curve(case: str, accelerator: Accelerator, threshold: float) -> list[float]:
    """Losses of ten steps; the threshold is that of sed_sft where it has one."""
    settings = {name: value for name, value in paths.SETTINGS[case].items() if name not in ("quantile", "threshold")}
    if "top_k" in settings and case.startswith("sed_sft"):
        settings["threshold"] = threshold
    adapter = paths.model()
    objective = prepare(case.split()[0], settings, paths.base(), (), PLAN, 0)
    rows = small.fine_tune(adapter, objective, PLAN, small.train_examples(24), accelerator=accelerator)
    return [row["loss"] for row in rows]


def nearest_mass(case: str, threshold: float) -> float:
    """How near a top-k mass comes to the threshold along this curve, in one process."""
    distances = [1.0]

    def watched(*arguments: Any) -> torch.Tensor:
        masses = original(*arguments)
        distances.append(float((masses - threshold).abs().min()))
        return masses

    original = calibration.mass_of
    with patch("harness.objectives.token.mass_of", watched):
        curve(case, small.accelerator(), threshold)
    return min(distances)


def threshold() -> float:
    """None of the masses that it is compared with, in any of the ten steps, is within 1e-5 of it."""
    for candidate in (0.8, 0.79, 0.81, 0.78, 0.82):
        if min(nearest_mass(case, candidate) for case in ("sed_sft live", "sed_sft base")) > 1e-5:
            return candidate
    raise AssertionError("each candidate is close to some mass")


def curves(folder: Path) -> dict[str, list[float]]:
    """Played on each rank."""
    del folder
    return {case: curve(case, accelerator_on("cpu"), float(os.environ["THRESHOLD"])) for case in WITH_A_CURVE}


@pytest.mark.slow
def test_the_loss_curves_are_those_of_one_process(tmp_path: Path) -> None:
    """Over ten steps with the same global batch. Both ranks see the same losses."""
    assert {case.split()[0] for case in WITH_A_CURVE} == set(objectives.OBJECTIVES)
    compared = threshold()
    first, second = on_ranks(2, "tests.training.test_paths:curves", tmp_path, THRESHOLD=str(compared))
    assert first == second
    for case in WITH_A_CURVE:
        assert len(set(first[case])) == 10
        expected = curve(case, small.accelerator(), compared)
        np.testing.assert_allclose(first[case], expected, rtol=0, atol=1e-5, err_msg=case)
