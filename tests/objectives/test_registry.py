"""Names, settings and what objectives need: everything that is wrong is said at once."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from harness.errors import ConfigError, ObjectiveError
from harness.objectives import OBJECTIVES, build, problems, ready, sets, token
from tests.objectives.cases import loss_and_gradient, random_batch

LIVE: dict[str, Any] = {"top_k": 2, "threshold": 0.7}
CALIBRATED: dict[str, Any] = {"top_k": 2, "quantile": 0.3}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"topk": 2}, "unknown setting 'topk', did you mean 'top_k'"),
        ({"top_k": 0}, "top_k: expected an integer of at least 1, got 0"),
        ({"top_k": 2.0}, "top_k: expected an integer of at least 1, got 2.0"),
        ({"top_k": True}, "top_k: expected an integer of at least 1, got True"),
        ({"threshold": 0}, r"threshold: expected a number in (0, 1], got 0"),
        ({"threshold": 1.1}, r"threshold: expected a number in (0, 1], got 1.1"),
        ({"threshold": "0.5"}, r"threshold: expected a number in (0, 1], got '0.5'"),
        ({"threshold": None}, r"threshold: expected a number in (0, 1], got None"),
        ({"weight": -1}, "weight: expected a finite number >= 0, got -1"),
        ({"weight": float("inf")}, "weight: expected a finite number >= 0, got inf"),
        ({"weight": float("nan")}, "weight: expected a finite number >= 0, got nan"),
        ({"mask": "alive"}, "mask: expected live, none or base, got 'alive'"),
        ({"quantile": 0.3}, "give either threshold or quantile, not both"),
    ],
)
def test_one_wrong_setting_is_one_problem(settings: dict[str, Any], expected: str) -> None:
    (problem,) = problems("sed_sft", {**LIVE, **settings})
    assert problem.startswith((f"sed_sft: {expected}", f"sed_sft.{expected}"))


@pytest.mark.parametrize("quantile", [0, 1, -0.1])
def test_quantile_is_inside_0_1(quantile: float) -> None:
    (problem,) = problems("sed_sft", {"top_k": 2, "quantile": quantile})
    assert problem == f"sed_sft.quantile: expected a number in (0, 1), got {quantile!r}"


@pytest.mark.parametrize("mask", ["live", "base"])
def test_masks_that_compare_require_top_k_and_a_threshold(mask: str) -> None:
    assert problems("sed_sft", {"mask": mask}) == [
        f"sed_sft: mask {mask!r} requires top_k",
        f"sed_sft: mask {mask!r} requires threshold or quantile",
    ]


CALIBRATION: list[dict[str, Any]] = [
    {"calibration_top_k": 10},
    {"calibration_positions": "all"},
    {"calibration_examples": 100},
]


@pytest.mark.parametrize("setting", CALIBRATION)
def test_a_threshold_refuses_settings_of_the_calibration(setting: dict[str, Any]) -> None:
    (problem,) = problems("sed_sft", {**LIVE, **setting})
    assert problem == f"sed_sft: {next(iter(setting))} has no effect without quantile: remove it"
    assert problems("sed_sft", {**CALIBRATED, **setting}) == []


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
    for part in (
        "top_k: expected",
        "quantile: expected",
        "weight: expected",
        "'maks', did you mean 'mask'",
        "not both",
    ):
        assert part in str(raised.value)


def test_an_unknown_objective_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown objective 'sed_stf', did you mean 'sed_sft'\? available: ce, "):
        build("sed_stf")


def test_ce_has_no_settings() -> None:
    assert problems("ce", {"weight": 1.0}) == ["ce: unknown setting 'weight'; available: none"]


def test_complete_settings_name_equal_objectives_alike() -> None:
    expected = {"top_k": 2, "threshold": 1.0, "weight": 1.0, "mask": "live"}
    full = ready("sed_sft", {"threshold": 1, "top_k": 2}).settings
    assert list(full.items()) == list(expected.items())
    assert isinstance(full["threshold"], float)
    assert ready("sed_sft", {**expected, "weight": 1}).settings == full


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("ce", {}, set()),
        ("sed_sft", LIVE, set()),
        ("sed_sft", {"mask": "none"}, set()),
        ("sed_sft", {**LIVE, "mask": "base"}, {"reference"}),
        ("sed_sft", CALIBRATED, {"calibration"}),
        ("sed_sft", {**CALIBRATED, "mask": "base"}, {"reference", "calibration"}),
        ("ce_kl", {}, {"reference_logits"}),
        ("ce_kl", {"weight": 0}, set()),
        ("precision_recall", {}, set()),
        ("mixture", {}, {"experts"}),
        ("mixture", {"experts": 1}, set()),
        ("label_smoothing", {}, set()),
        ("gem", {}, set()),
        ("dft", {}, set()),
        ("entropy_bonus", {}, set()),
        ("eaft", {}, set()),
        ("focal", {}, set()),
        ("eco", {}, {"sets"}),
        ("kl_uniform", {}, {"sets"}),
        ("mrt", {}, {"sets", "samples"}),
    ],
)
def test_needs(name: str, settings: dict[str, Any], expected: set[str]) -> None:
    assert ready(name, settings).needs == expected
    assert ready(name, ready(name, settings).settings).needs == expected


def test_needs_of_every_objective_are_tested() -> None:
    (marker,) = [mark for mark in test_needs.pytestmark if mark.name == "parametrize"]
    assert {name for name, _, _ in marker.args[1]} == OBJECTIVES.keys()


def test_needs_refuses_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="mask: expected"):
        ready("sed_sft", {**LIVE, "mask": "bas"})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    spec = OBJECTIVES[name]
    assert len(spec.equation) < 120
    assert "\n" not in spec.equation
    if spec.level == "token":
        assert "log p_y" in spec.equation
    else:
        assert spec.equation.startswith("ce + weight * ")
    assert spec.source
    for setting in spec.settings:
        assert setting in spec.equation or (name, setting) in NOT_IN_THE_EQUATION
    # Its function has its name. A published method is cited where it is computed, by the same id.
    function = getattr(token if spec.level == "token" else sets, name)
    cited = re.findall(r"arXiv (\d{4}\.\d{5})", spec.source)
    assert all(identifier in (function.__doc__ or "") for identifier in cited)
    assert function.__doc__


NOT_IN_THE_EQUATION = {
    ("sed_sft", "quantile"),  # stands for the threshold until it is calibrated
    ("sed_sft", "calibration_top_k"),  # likewise
    ("sed_sft", "calibration_positions"),
    ("sed_sft", "calibration_examples"),
    ("sed_sft", "mask"),  # what m is made from
    ("eco", "log_prob"),  # what log P is: sum or mean
    ("mrt", "samples"),  # how many sequences the loop draws
    ("mixture", "experts"),  # how many z there are
}


# ---- every setting has an effect -------------------------------------------------------------------------------------

OTHER_VALUES: dict[tuple[str, str], tuple[dict[str, Any], object]] = {
    # (objective, setting): settings, and another value of that setting which has to change the loss and its gradient.
    ("ce_kl", "weight"): ({}, 0.2),
    ("label_smoothing", "epsilon"): ({}, 0.2),
    ("precision_recall", "lam"): ({}, 0.4),
    ("precision_recall", "gamma"): ({}, 0.4),
    ("sed_sft", "top_k"): (LIVE, 3),
    ("sed_sft", "threshold"): (LIVE, 0.9),
    ("sed_sft", "weight"): (LIVE, 3.0),
    ("sed_sft", "mask"): (LIVE, "base"),
    ("gem", "beta"): ({}, 0.5),
    ("gem", "h"): ({}, "logsigmoid"),
    ("entropy_bonus", "weight"): ({}, 0.3),
    ("eaft", "alpha"): ({}, 2.0),
    ("eaft", "top_k"): ({}, 2),
    ("eaft", "z"): ({}, 3.0),
    ("focal", "gamma"): ({}, 1.0),
    ("eco", "weight"): ({}, 0.02),
    ("eco", "log_prob"): ({}, "mean"),
    ("kl_uniform", "weight"): ({}, 0.2),
    ("mrt", "weight"): ({}, 2.0),
}
OF_THE_LOOP = {
    ("sed_sft", "quantile"),  # see test_calibration.py and, for those of the calibration, training/test_train.py
    ("sed_sft", "calibration_top_k"),
    ("sed_sft", "calibration_positions"),
    ("sed_sft", "calibration_examples"),
    ("mrt", "samples"),  # how many sequences are drawn for a batch
    ("mixture", "experts"),  # see training/test_mixture.py
}


def test_no_setting_is_forgotten() -> None:
    everything = {(name, setting) for name, spec in OBJECTIVES.items() for setting in spec.settings}
    assert OTHER_VALUES.keys() | OF_THE_LOOP == everything
    assert not OTHER_VALUES.keys() & OF_THE_LOOP


@pytest.mark.parametrize(("name", "setting"), OTHER_VALUES)
def test_every_setting_changes_loss_and_gradient(name: str, setting: str) -> None:
    settings, other = OTHER_VALUES[name, setting]
    batch = random_batch(6)
    loss, gradient = loss_and_gradient(name, settings, batch)
    changed_loss, changed_gradient = loss_and_gradient(name, {**settings, setting: other}, batch)
    assert not torch.isclose(loss, changed_loss)
    assert not torch.allclose(gradient, changed_gradient)


@pytest.mark.parametrize(("name", "setting"), [*OTHER_VALUES, *sorted(OF_THE_LOOP)])
@pytest.mark.parametrize("value", [None, True, [], -1, float("nan"), "x"], ids=repr)
def test_every_setting_is_checked(name: str, setting: str, value: object) -> None:
    # Nothing of these is a value of any setting: the message names objective, setting, range and value.
    settings = {**(LIVE if name == "sed_sft" else {}), setting: value}
    expected = f"{name}.{setting}: expected {OBJECTIVES[name].settings[setting].expected}, got {value!r}"
    assert expected in problems(name, settings)
    with pytest.raises(ConfigError):
        build(name, **settings)


@pytest.mark.parametrize(
    ("name", "setting", "value", "expected"),
    [
        ("label_smoothing", "epsilon", 1, "a number in [0, 1)"),
        ("gem", "beta", 0, "a finite number > 0"),
        ("gem", "h", "sigmoid", "linear or logsigmoid"),
        ("entropy_bonus", "weight", float("inf"), "a finite number >= 0"),
        ("sed_sft", "calibration_top_k", 0, "an integer of at least 1"),
        ("sed_sft", "calibration_positions", "prompt", "targets or all"),
        ("sed_sft", "calibration_examples", 1.5, "an integer of at least 1"),
        ("eaft", "top_k", 1.5, "an integer of at least 1"),
        ("eaft", "z", 0, "a finite number > 0"),
        ("focal", "gamma", -0.5, "a finite number >= 0"),
        ("eco", "log_prob", "max", "sum or mean"),
        ("mrt", "samples", 0, "an integer of at least 1"),
        ("mixture", "experts", 0, "an integer of at least 1"),
    ],
)
def test_ranges(name: str, setting: str, value: object, expected: str) -> None:
    others = CALIBRATED if name == "sed_sft" else {}
    assert problems(name, {**others, setting: value}) == [f"{name}.{setting}: expected {expected}, got {value!r}"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_unknown_settings_are_refused_by_every_objective(name: str) -> None:
    (problem,) = problems(name, {**(LIVE if name == "sed_sft" else {}), "no_such": 1})
    available = ", ".join(sorted(OBJECTIVES[name].settings)) or "none"
    assert problem == f"{name}: unknown setting 'no_such'; available: {available}"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_defaults_are_valid_and_complete(name: str) -> None:
    settings = LIVE if name == "sed_sft" else {}
    full = ready(name, settings).settings
    assert ready(name, full).settings == full
    with_default = {key for key, setting in OBJECTIVES[name].settings.items() if setting.default is not None}
    assert full.keys() == with_default | settings.keys()


def test_the_two_levels() -> None:
    sets = {name for name, spec in OBJECTIVES.items() if spec.level == "set"}
    assert sets == {"eco", "kl_uniform", "mrt"}
    assert all("sets" in ready(name, {}).needs for name in sets)


@pytest.mark.parametrize("mask", ["live", "base"])
def test_an_uncalibrated_objective_has_no_loss(mask: str) -> None:
    with pytest.raises(ObjectiveError, match=r"quantile 0\.3"):
        build("sed_sft", **CALIBRATED, mask=mask)


def test_resolve_turns_the_quantile_into_a_threshold() -> None:
    # Linear interpolation: position 0.3 * (5 - 1) = 1.2 in 0.1 0.2 0.4 0.8 0.9, so 0.2 + 0.2 * (0.4 - 0.2).
    masses = torch.tensor([0.9, 0.1, 0.8, 0.4, 0.2], dtype=torch.float64)
    resolved = ready("sed_sft", CALIBRATED).calibrated(masses).settings
    assert resolved == {"top_k": 2, "threshold": pytest.approx(0.24), "weight": 1.0, "mask": "live"}
    assert ready("sed_sft", resolved).needs == set()
    half = ready("sed_sft", {**CALIBRATED, "quantile": 0.5}).calibrated(masses).settings
    assert half["threshold"] == 0.4


@pytest.mark.parametrize(("name", "settings"), [("ce", {}), ("sed_sft", LIVE), ("sed_sft", {"mask": "none"})])
def test_resolve_without_a_quantile_raises(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ObjectiveError, match="no quantile to calibrate"):
        ready(name, settings).calibrated(torch.tensor([0.5]))


def test_resolve_reports_wrong_settings_first() -> None:
    with pytest.raises(ConfigError, match="top_k: expected"):
        ready("sed_sft", {**CALIBRATED, "top_k": 0}).calibrated(torch.tensor([0.5]))
