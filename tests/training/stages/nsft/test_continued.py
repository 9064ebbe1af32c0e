"""Continued fine-tuning: a stage of any objective after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import ConfigError
from harness.run import runner
from harness.run.context import open_context
from harness.suite.stage_settings import Sft
from tests.support import small
from tests.support.chains import (
    NSFT,
    SFT,
    chain_of,
    train_chain,
    weights,
)


def test_any_objective_can_follow() -> None:
    """Minimum-risk training, with samples of its own: the curve has its term, and it moves the model elsewhere."""
    sets = {"targets": "all(2)", "batching": "grouped"}
    trained = {}
    stages: dict[str, dict[str, Any]] = {
        "ce": {},
        "mrt": {"objective": {"name": "mrt", "samples": 2}, **sets},
        "sets": sets,
        "gem": {"objective": "gem"},
    }
    for name, then in stages.items():
        adapter = small.fitted()
        chain = chain_of({**SFT, "steps": 2, **then})
        curve = train_chain(adapter, chain)
        assert [row["step"] for row in curve] == [1, 2, 3, 4]
        trained[name] = weights(adapter)
    assert all(not torch.equal(a, b) for n, a in trained.items() for m, b in trained.items() if n < m)


def test_a_reference_is_the_model_as_the_stage_begins() -> None:
    """It selects what the trained model itself selects in the first step, and stays as it was afterwards."""
    sed = {"name": "sed_sft", "top_k": 2, "threshold": 0.82, "weight": 5.0}
    curves = {}
    for mask in ("live", "base"):
        adapter = small.fitted()
        curves[mask] = train_chain(adapter, chain_of({**SFT, "lr": 3e-3, "objective": {**sed, "mask": mask}}))[2:]
    assert 0 < curves["base"][0]["selected"] < 1
    assert curves["base"][0] == curves["live"][0]
    assert {row["selected"] for row in curves["base"]} == {curves["base"][0]["selected"]}  # all images in every batch
    assert len({row["selected"] for row in curves["live"]}) > 1


def test_the_record_says_the_whole_objective() -> None:
    chain = chain_of({**SFT, "objective": "gem"})
    assert chain.described(chain.models[0], chain.objectives[0])["then"]["objective"] == {
        "name": "gem",
        "beta": 0.7,
        "h": "linear",
    }
    stage = Sft(name="sft", steps=10, objective={"name": "mrt", "samples": 3})
    assert stage.amount.trained == 10 * 16 * 4


SETS = "mrt needs several targets of an image in a batch"


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ({"objective": "mrtt"}, "unknown objective 'mrtt', did you mean 'mrt'?"),
        ({"objective": {"name": "gem", "betta": 1}}, "gem: unknown setting 'betta', did you mean 'beta'?"),
        ({"objective": {"name": "mrt"}}, f"objective chain: then: {SETS}, but train has targets: canonical"),
        (
            {"objective": {"name": "sed_sft", "top_k": 5, "quantile": 0.3}},
            "sed_sft: quantile: expected a threshold in a later stage",
        ),
        ({"batching": "grouped"}, "objectives.chain.then: batching: grouped needs targets: all(n), got canonical"),
        ({"collision_rate": 0.5}, "collision_rate: expected with batching: collision, and only there"),
        ({"targets": "all"}, "objectives.0.then.targets: String should match pattern"),
    ],
)
def test_what_cannot_be_is_one_line_of_the_suite(then: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chain_of({**SFT, **then})
    (problem,) = caught.value.problems
    assert message in problem


def test_an_unknown_corrector_is_told_before_the_first_stage(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"then\.corrector: unknown corrector 'template', did you mean 'templates'"):
        runner.run(open_context(chain_of({**NSFT, "corrector": "template"}), None, "cpu"), tmp_path)
    assert not list(tmp_path.iterdir())
