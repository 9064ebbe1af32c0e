"""What the command line sets otherwise than a suite's file says (`--set`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import ConfigError
from harness.suite.load import load, set_values
from harness.suite.schema import Suite

CONTENT: dict[str, Any] = {
    "suite": "s",
    "benchmark": "shapes",
    "models": ["open_flamingo"],
    "objectives": ["ce", {"name": "sed_sft", "label": "w0.5", "mask": "none"}],
    "seeds": [0, 1],
    "train": {"steps": 240, "eval_at": [80, 160]},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(CONTENT))
    return path


def changed(file: Path, *changes: str) -> Suite:
    return load(str(file), None, changes)


def test_values_are_yaml_and_paths_lead_anywhere(file: Path) -> None:
    changes = (
        *("train.steps=20", "seeds=[7]", "train.probe={every: 5}", "train.optimizer.eps=1e-6", "sample.samples=4"),
        *("objectives.w0.5.weight=3", "objectives.0.train.lr=1.0e-5", "models.open_flamingo.bins=33", "keep=none"),
        "benchmark.domain=plain",
    )
    suite = changed(file, *changes)
    assert suite.seeds == (7,)
    assert (suite.train.steps, suite.train.optimizer.eps, suite.sample.samples) == (20, 1e-6, 4)
    assert suite.train.probe is not None
    assert suite.train.probe.every == 5
    assert suite.objectives[1].settings == {"mask": "none", "weight": 3}
    assert suite.objectives[0].train == {"lr": 1e-5}
    assert suite.models[0].settings == {"bins": 33}
    assert suite.benchmark.settings == {"domain": "plain"}
    assert suite.keep == "none"
    assert suite.overrides == changes


def test_without_changes_it_is_the_file(file: Path) -> None:
    assert changed(file) == load(str(file))
    assert changed(file).overrides == ()
    before = yaml.safe_load(yaml.safe_dump(CONTENT))
    set_values(CONTENT, ["train.steps=3", "objectives.0.weight=1"])
    assert before == CONTENT


def test_a_shorter_training_leaves_out_evaluations_after_its_end(file: Path) -> None:
    assert changed(file, "train.steps=100").train.eval_at == (80,)
    assert changed(file, "train.steps=100", "train.eval_at=[50]").train.eval_at == (50,)
    assert changed(file, "train.steps=500").train.eval_at == (80, 160)


def test_a_length_in_epochs_takes_the_place_of_one_in_steps(file: Path) -> None:
    train = changed(file, "train.epochs=1.5", "train.eval_at=[1]").train
    assert (train.epochs, train.eval_at) == (1.5, (1,))


def test_null_removes_a_key(file: Path) -> None:
    assert changed(file, "train.eval_at=null").train.eval_at == ()
    assert changed(file, "train.steps=null", "train.eval_at=null").train.steps == 240


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("train.stepp=20", "s.yaml with --set train.stepp=20: unknown key train.stepp: 'stepp', did you mean 'steps'"),
        ("trian.steps=20", "unknown key 'trian', did you mean 'train'"),
        ("train.optimizer.esp=1", "unknown key train.optimizer.esp: 'esp', did you mean 'eps'"),
        ("objectives.w0.5.wieght=3", "sed_sft: unknown setting 'wieght', did you mean 'weight'"),
        (
            "objectives.sed.weight=3",
            "--set objectives.sed.weight: unknown label 'sed'; available: ce, w0.5, or",
        ),
        ("objectives.2=ce", "--set objectives.2: unknown label '2'; available: ce, w0.5, or a place from 0 to 1"),
        ("train.steps.x=3", "--set train.steps.x: expected keys in steps, which is 240"),
        ("train.steps", "--set: expected PATH=VALUE as in train.steps=20, got 'train.steps'"),
        ("=3", "--set: expected PATH=VALUE as in train.steps=20, got '=3'"),
        ("train..lr=3", "--set: expected PATH=VALUE as in train.steps=20, got 'train..lr=3'"),
        ("seeds=[0", "--set seeds: expected YAML"),
        ("train.lr=-1", "train.lr: Input should be greater than 0, got -1"),
    ],
)
def test_mistakes_are_one_line(file: Path, change: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        changed(file, change)
    (problem,) = caught.value.problems
    assert expected in problem
    assert "\n" not in problem
