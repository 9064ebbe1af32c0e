"""The JSON Schema of a suite file accepts what detmodes accepts, says what every key means, and is the shipped one."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from harness import registry
from harness.commands.app import main
from harness.commands.models.listing import show
from harness.commands.suites.field_words import words_of
from harness.commands.suites.page import suite_page
from harness.commands.suites.schema import FILE, as_text, suite_schema
from harness.metrics.catalogue import MEASURES
from harness.objectives import OBJECTIVES
from harness.suite.stage_settings import STAGES, Grpo
from harness.suite.train_settings import Train
from harness.yaml_text import read_yaml

SUITES = registry.shipped_suites()
SMALL: dict[str, Any] = {"suite": "s", "benchmark": "shapes", "models": ["open_flamingo"], "seeds": [0]}


@pytest.fixture(scope="module")
def check() -> Any:
    """Whether a suite is valid by the schema alone."""
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(suite_schema())
    validator.check_schema(suite_schema())
    return validator.is_valid


@pytest.mark.parametrize("name", sorted(SUITES))
def test_every_shipped_suite_points_to_it_and_is_valid(name: str, check: Any) -> None:
    path = SUITES[name]
    text = path.read_text()
    (named,) = re.findall(r"^# yaml-language-server: \$schema=(.*)$", text, flags=re.MULTILINE)
    assert named == FILE
    assert (path.parent / named).is_file()
    assert check(read_yaml(text, name))


def test_the_shipped_file_is_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """detmodes schema > benchmarks/suites/schema.json writes it again."""
    monkeypatch.setattr(sys, "argv", ["detmodes", "schema"])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr().out
    assert end.value.code in (0, None)
    assert printed == as_text()
    assert (SUITES["quickstart"].parent / FILE).read_text() == printed
    assert json.loads(printed)["properties"].keys() >= {"suite", "train", "sweep"}


@pytest.mark.parametrize(
    "changes",
    [
        {"objectives": ["ce", {"name": "gem", "beta": 0.7, "train": {"lr": 1e-4}}]},
        {"objectives": [{"name": "ce", "then": "grpo"}, {"name": "ce", "label": "x", "then": {"name": "sft"}}]},
        {"objectives": [{"name": "of_another_package", "anything": 3}]},
        {"models": [{"name": "pix2seq", "bins": 32, "train": {"epochs": 2}}], "benchmark": {"name": "mine", "x": 1}},
        {"train": {"epochs": 1.5, "eval_at": [0.5], "max_objects": 20, "optimizer": {"eps": 1e-6}, "ema": 0.9}},
        {"sweep": {"lr": [1e-4, 3e-4], "h": ["linear", "logsigmoid"]}},
    ],
)
def test_what_a_suite_may_say(changes: dict[str, Any], check: Any) -> None:
    assert check(SMALL | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"objectives": [{"name": "ce", "lr": 1e-4}]},
        {"objectives": [{"name": "gem", "bta": 0.7}]},
        {"objectives": [{"name": "ce", "train": {"step": 3}}]},
        {"objectives": [{"name": "ce", "then": {"name": "grpo", "sampels": 3}}]},
        {"benchmark": {"name": "shapes", "train_image": 3}},
        {"models": [{"name": "vlm", "traisn": "lora"}]},
        {"train": {"step": 3}},
        {"train": {"lr": -1}},
        {"train": {"schedule": "step"}},
        {"train": {"ema": 1.0}},
        {"seeds": []},
        {"hypotheses": [{"id": "H", "claim": "?", "metric": "AP", "a": "ce", "b": "ce", "directoin": "less"}]},
        {"overrides": ["train.steps=3"]},
    ],
)
def test_what_it_may_not_say(changes: dict[str, Any], check: Any) -> None:
    assert not check(SMALL | changes)


def test_every_key_has_a_meaning() -> None:
    schema = suite_schema()
    silent = [key for key, field in schema["properties"].items() if not field.get("description")]
    for name, part in schema["$defs"].items():
        for documented in (alternative for alternative in part.get("anyOf", [part]) if "properties" in alternative):
            keys = [key for key, field in documented["properties"].items() if not field.get("description")]
            silent += [f"{name}.{key}" for key in keys if key != "name"]
    assert silent == []
    assert schema["properties"]["keep"]["default"] == "last"
    assert "at: equal_AP" in schema["$defs"]["Train"]["properties"]["schedule"]["description"]


def test_words_are_those_under_the_fields_also_of_a_base() -> None:
    words = words_of(Grpo)
    assert words["updates"] == "Optimizer steps that are made of a step's images."
    assert words["images"] == "Training images of a step."  # its own, not that of its base
    assert words["warm_up"].startswith("Steps in which the learning rate rises")
    assert set(words_of(Train)) == set(Train.model_fields)


def test_the_page_has_every_key_objective_and_stage() -> None:
    page = suite_page()
    for name in (*OBJECTIVES, *(f"then: {stage}" for stage in STAGES)):
        assert f"\n### {name}\n" in page
    for key in Train.model_fields:
        assert f"| `{key}` |" in page
    assert "| `lr` | `0.0003` | number > 0 | Learning rate. |" in page
    assert "| `schedule` | `constant` | `constant`, `cosine`, `linear` |" in page


def test_every_setting_of_an_objective_has_a_meaning() -> None:
    page = suite_page()
    for name, spec in OBJECTIVES.items():
        for key, setting in spec.settings.items():
            assert setting.meaning.endswith("."), f"{name}.{key}"
            assert setting.meaning in page


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("benchmarks", "settings of shapes: domain=cluttered, train_images=256, val_images=300"),
        ("benchmarks", "settings of lvis: split=lvis, train, val, images"),
        ("models", "settings of pix2seq: backbone=resnet10t, backbone_weights=random"),
        ("models", "settings of vlm: family=paligemma, weights=random, trains=all"),
        ("stages", "filter=False, low=0.2, high=0.28"),
        ("objectives", "settings: beta=0.7, h=linear"),
    ],
)
def test_settings_are_listed_with_their_defaults(kind: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    show(kind)
    assert expected in capsys.readouterr().out


def test_declared_settings_and_defaults_are_the_checked_ones() -> None:
    for name in ("shapes", "lvis", "coco"):
        declared = registry.known_settings("benchmark", name)
        assert registry.problems("benchmark", name, {"x": 1})[0].endswith(", ".join(sorted(declared)))
    for name in ("open_flamingo", "open_flamingo_hf", "pix2seq", "vlm"):
        declared = registry.known_settings("model", name)
        assert registry.problems("model", name, {"x": 1})[0].endswith(", ".join(sorted(declared)))
        given = {key: setting.default for key, setting in declared.items() if setting.default is not None}
        assert registry.problems("model", name, given) == []


def test_measures_are_listed_with_what_they_mean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    show("measures")
    printed = capsys.readouterr().out
    for measure in MEASURES:
        assert f"{measure.name:<16} " in printed
        assert measure.meaning[:60] in printed
    assert "lower is better" in printed
