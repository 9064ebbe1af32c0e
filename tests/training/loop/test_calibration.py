"""The threshold of a mask is calibrated on held-out images, before training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.errors import ConfigError
from harness.inference.teacher_forcing import top_k_masses
from harness.sequence.targets import target
from harness.training.objective import prepare
from tests.support import small
from tests.training.loop.gradients import HELDOUT, PLAN, SED, heldout, ready, token_by_token


@pytest.mark.parametrize(("quantile", "top_k"), [(0.3, 5), (0.7, 1)])
def test_the_threshold_is_torchs_quantile_of_the_bases_masses(quantile: float, top_k: int) -> None:
    base = small.fitted()
    settings = {**SED["live"], "quantile": quantile, "top_k": top_k}
    objective = ready("sed_sft", settings, base)
    with torch.no_grad():
        masses = token_by_token(base, heldout())[0].softmax(-1).topk(top_k).values.sum(-1)
    assert len(masses) == sum(5 * len(e.instances) + len(e.instances) for e in heldout())  # 5 each, ; or end
    torch.testing.assert_close(top_k_masses(base, heldout(), "canonical", 0, top_k), masses, atol=1e-5, rtol=0)
    assert objective.threshold == pytest.approx(float(torch.quantile(masses, quantile)), abs=1e-5)
    assert "quantile" not in objective.settings


def test_calibration_uses_the_suites_targets() -> None:
    canonical, random = (
        ready("sed_sft", SED["live"], plan=PLAN.model_copy(update={"targets": name})).threshold
        for name in ("canonical", "random")
    )
    assert canonical != random


def test_the_published_rule_takes_another_mass_more_positions_and_fewer_examples() -> None:
    """By hand: the masses of the row of logits before every token but the first, of the first three examples."""
    base = small.fitted()
    rule = {"top_k": 2, "quantile": 0.3, "calibration_top_k": 10, "calibration_positions": "all"}
    official = ready("sed_sft", {**rule, "calibration_examples": 3}, base)
    masses = []
    for example in heldout()[:3]:
        tokens = torch.tensor([[*base.codec.prompt(example), *target(example, base.codec, "canonical")]])
        with torch.no_grad():
            logits = base.logits(base.pixels([example]), tokens[:, :-1])[0]
        masses.append(logits.softmax(-1).sort(descending=True).values[:, :10].sum(-1))
    assert [len(mass) for mass in masses] == [1 + 6 * len(example.instances) for example in heldout()[:3]]
    assert official.threshold == pytest.approx(float(torch.quantile(torch.cat(masses), 0.3)), abs=1e-5)


@pytest.mark.parametrize(
    "setting", [{"calibration_top_k": 10}, {"calibration_positions": "all"}, {"calibration_examples": 3}]
)
def test_every_setting_of_the_calibration_changes_the_threshold(setting: dict[str, Any]) -> None:
    plain = {**SED["live"], "quantile": 0.3}
    assert ready("sed_sft", plain).threshold != ready("sed_sft", {**plain, **setting}).threshold


def test_more_examples_than_the_calibration_split_has_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="calibration_examples: expected at most the 8 of the calibration split, got 9"
    ):
        ready("sed_sft", {**SED["live"], "calibration_examples": HELDOUT + 1})


def test_a_quantile_without_held_out_images_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"quantile needs a calibration split.*calibration_images"):
        prepare("sed_sft", SED["live"], small.fresh(), (), PLAN, 0)
