"""Names, settings and what objectives need: everything that is wrong is said at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.errors import ConfigError, ObjectiveError
from harness.objectives import OBJECTIVES, build, complete, problems, resolve, selection
from harness.types import TokenBatch

LIVE: dict[str, Any] = {"top_k": 2, "threshold": 0.7}
CALIBRATED: dict[str, Any] = {"top_k": 2, "quantile": 0.3}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"topk": 2}, "unknown setting 'topk', did you mean 'top_k'"),
        ({"top_k": 0}, "top_k must be an integer >= 1, got 0"),
        ({"top_k": 2.0}, "top_k must be an integer >= 1, got 2.0"),
        ({"top_k": True}, "top_k must be an integer >= 1, got True"),
        ({"threshold": 0}, r"threshold must be a number in (0, 1], got 0"),
        ({"threshold": 1.1}, r"threshold must be a number in (0, 1], got 1.1"),
        ({"threshold": "0.5"}, r"threshold must be a number in (0, 1], got '0.5'"),
        ({"threshold": None}, r"threshold must be a number in (0, 1], got None"),
        ({"weight": -1}, "weight must be a finite number >= 0, got -1"),
        ({"weight": float("inf")}, "weight must be a finite number >= 0, got inf"),
        ({"weight": float("nan")}, "weight must be a finite number >= 0, got nan"),
        ({"mask": "alive"}, "mask must be live, none or base, got 'alive'"),
        ({"quantile": 0.3}, "give either threshold or quantile, not both"),
    ],
)
def test_one_wrong_setting_is_one_problem(settings: dict[str, Any], expected: str) -> None:
    (problem,) = problems("sed_sft", {**LIVE, **settings})
    assert problem.startswith(f"sed_sft: {expected}")


@pytest.mark.parametrize("quantile", [0, 1, -0.1])
def test_quantile_is_inside_0_1(quantile: float) -> None:
    (problem,) = problems("sed_sft", {"top_k": 2, "quantile": quantile})
    assert problem == f"sed_sft: quantile must be a number in (0, 1), got {quantile!r}"


@pytest.mark.parametrize("mask", ["live", "base"])
def test_masks_that_compare_require_top_k_and_a_threshold(mask: str) -> None:
    assert problems("sed_sft", {"mask": mask}) == [
        f"sed_sft: mask {mask!r} requires top_k",
        f"sed_sft: mask {mask!r} requires threshold or quantile",
    ]


@pytest.mark.parametrize("setting", [{"top_k": 2}, {"threshold": 0.5}, {"quantile": 0.5}])
def test_mask_none_refuses_settings_without_effect(setting: dict[str, Any]) -> None:
    (problem,) = problems("sed_sft", {"mask": "none", **setting})
    assert problem == f"sed_sft: {next(iter(setting))} has no effect with mask 'none': remove it"


@pytest.mark.parametrize(
    "settings",
    [
        LIVE,
        CALIBRATED,
        {"top_k": 1, "threshold": 1, "weight": 0, "mask": "base"},
        {"mask": "none", "weight": 5},
    ],
)
def test_good_settings_have_no_problem(settings: dict[str, Any]) -> None:
    assert problems("sed_sft", settings) == []


def test_all_problems_of_a_call_come_at_once() -> None:
    settings = {"top_k": 0, "threshold": 0.5, "quantile": 2, "weight": -1, "maks": "live"}
    with pytest.raises(ConfigError) as raised:
        build("sed_sft", **settings)
    assert list(raised.value.problems) == problems("sed_sft", settings)
    assert len(raised.value.problems) == 5
    for part in ("top_k must", "quantile must", "weight must", "'maks', did you mean 'mask'", "not both"):
        assert part in str(raised.value)


def test_an_unknown_objective_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown objective 'sed_stf', did you mean 'sed_sft'\? available: ce, "):
        build("sed_stf")


def test_ce_has_no_settings() -> None:
    assert problems("ce", {"weight": 1.0}) == ["ce: unknown setting 'weight'; available: none"]


def test_complete_settings_name_equal_objectives_alike() -> None:
    expected = {"top_k": 2, "threshold": 1.0, "weight": 1.0, "mask": "live"}
    full = complete("sed_sft", {"threshold": 1, "top_k": 2})
    assert list(full.items()) == list(expected.items())
    assert isinstance(full["threshold"], float)
    assert complete("sed_sft", {**expected, "weight": 1}) == full


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("ce", {}, set()),
        ("sed_sft", LIVE, set()),
        ("sed_sft", {"mask": "none"}, set()),
        ("sed_sft", {**LIVE, "mask": "base"}, {"reference"}),
        ("sed_sft", CALIBRATED, {"calibration"}),
        ("sed_sft", {**CALIBRATED, "mask": "base"}, {"reference", "calibration"}),
    ],
)
def test_needs(name: str, settings: dict[str, Any], expected: set[str]) -> None:
    assert OBJECTIVES[name].needs(settings) == expected
    assert OBJECTIVES[name].needs(complete(name, settings)) == expected


def test_every_objective_says_what_it_is_and_where_it_comes_from() -> None:
    for spec in OBJECTIVES.values():
        assert "p_y" in spec.equation
        assert "\n" not in spec.equation
        assert spec.source


@pytest.mark.parametrize("mask", ["live", "base"])
def test_an_uncalibrated_objective_raises_when_called(mask: str) -> None:
    settings = {**CALIBRATED, "mask": mask}
    batch = TokenBatch(torch.zeros(2, 3), torch.tensor([0, 1]), selected=torch.tensor([True, False]))
    objective = build("sed_sft", **settings)
    with pytest.raises(ObjectiveError, match=r"quantile 0\.3"):
        objective(batch)
    with pytest.raises(ObjectiveError, match=r"quantile 0\.3"):
        selection(batch.logits, settings, batch.selected)


def test_resolve_turns_the_quantile_into_a_threshold() -> None:
    # Linear interpolation: position 0.3 * (5 - 1) = 1.2 in 0.1 0.2 0.4 0.8 0.9, so 0.2 + 0.2 * (0.4 - 0.2).
    masses = torch.tensor([0.9, 0.1, 0.8, 0.4, 0.2], dtype=torch.float64)
    resolved = resolve("sed_sft", CALIBRATED, masses)
    assert resolved == {"top_k": 2, "threshold": pytest.approx(0.24), "weight": 1.0, "mask": "live"}
    assert OBJECTIVES["sed_sft"].needs(resolved) == set()
    half = resolve("sed_sft", {**CALIBRATED, "quantile": 0.5}, masses)
    assert half["threshold"] == 0.4


@pytest.mark.parametrize(("name", "settings"), [("ce", {}), ("sed_sft", LIVE), ("sed_sft", {"mask": "none"})])
def test_resolve_without_a_quantile_raises(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ObjectiveError, match="no quantile to calibrate"):
        resolve(name, settings, torch.tensor([0.5]))


def test_resolve_reports_wrong_settings_first() -> None:
    with pytest.raises(ConfigError, match="top_k must be"):
        resolve("sed_sft", {**CALIBRATED, "top_k": 0}, torch.tensor([0.5]))
