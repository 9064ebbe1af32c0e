"""Every mistake of a suite at once, each in one line with its place."""

from __future__ import annotations

from typing import Any

import pytest

from harness.metrics.catalogue import figure_names
from harness.suite.cells import rows
from harness.suite.load import parse
from harness.suite.train_settings import Train
from tests.suite.documents import GOOD, problems

RESAMPLED = {"label": "hot", "objective": "none", "temperature": 1.0}


def test_several_mistakes_are_reported_at_once() -> None:
    changes: dict[str, Any] = {
        "seds": "7",
        "benchmark": {"name": "shapes", "domain": "dark", "train_image": 3},
        "models": ["open_flamingoo"],
        "objectives": ["cee", {"name": "sed_sft", "mask": "live"}],
        "train": {"lr": -1.0, "step": 3},
        "hypotheses": [{"id": "H1", "claim": "?", "metric": "AP", "a": "ce", "b": "base", "directoin": "less"}],
        "keep": "some",
    }
    reported = problems(changes)
    text = "\n".join(reported)
    for expected in (
        "unknown key 'seds', did you mean 'seeds'",
        "shapes.domain: expected plain or cluttered, got 'dark'",
        "shapes: unknown setting 'train_image', did you mean 'train_images'",
        "unknown model 'open_flamingoo', did you mean 'open_flamingo'",
        "unknown objective 'cee', did you mean 'ce'",
        "sed_sft: mask 'live' requires top_k",
        "sed_sft: mask 'live' requires threshold or quantile",
        "train.lr: Input should be greater than 0, got -1.0",
        "unknown key train.step: 'step', did you mean 'steps'",
        "unknown key hypotheses.0.directoin: 'directoin', did you mean 'direction'",
        "keep: Input should be 'all', 'last' or 'none', got 'some'",
    ):
        assert expected in text
    assert len(reported) == 11


def test_mistakes_in_a_rows_training_are_reported_where_they_are() -> None:
    rows = [
        {"name": "ce", "label": "a", "train": {"target": "random"}},
        {"name": "ce", "label": "b", "train": {"lr": -1}},
        {"name": "ce", "label": "c", "train": {"micro_batch": 5}},
        {"name": "eco", "label": "d", "weight": 0.1, "train": {"targets": "random"}},
        {"name": "ce", "label": "e", "train": {"batching": "grouped"}},
    ]
    text = "\n".join(problems({"objectives": rows}))
    for expected in (
        "unknown key objectives.a.train.target: 'target', did you mean 'targets'",
        "objectives.b.train.lr: Input should be greater than 0, got -1",
        "objectives.c.train.micro_batch: expected a divisor of batch_size",
        "objective d: eco needs several targets of an image in a batch, but train has targets: random",
        "objectives.e.train: batching: grouped needs targets: all(n), got canonical",
    ):
        assert expected in text


def test_temperatures_and_the_rows_made_of_them() -> None:
    sample = {"samples": 2, "temperature": 1.0, "temperatures": [2.0, 0.5]}
    hot = [{"label": "hot", "objective": "ce", "temperature": 2.0}]
    suite = parse({**GOOD, "sample": sample, "resampled": hot}, "file.yaml")
    assert suite.sample.curve == (0.5, 1.0, 2.0)
    assert rows(suite) == ["base", "ce", "sed", "hot", "oracle-uniform", "oracle-collapsed"]
    wrong = [
        {"label": "warm", "objective": "ce", "temperature": 1.5},
        {"label": "sed", "objective": "cee", "temperature": 2.0},
    ]
    text = "\n".join(problems({"sample": sample, "resampled": wrong}))
    assert "resampled.warm.temperature: expected one of sample.temperatures [0.5, 1.0, 2.0], got 1.5" in text
    assert "resampled.sed: unknown objective label 'cee', did you mean 'ce'" in text
    assert "label 'sed': used twice" in text


def test_when_the_probe_is_looked_at() -> None:
    assert Train(steps=50).probes == ()
    assert Train.model_validate({"steps": 50, "probe": {"every": 20}}).probes == (0, 20, 40, 50)


def test_references_between_parts_are_checked() -> None:
    changes: dict[str, Any] = {
        "objectives": ["ce", "ce", {"name": "ce", "label": "base"}],
        "models": ["open_flamingo", "open_flamingo"],
        "early_stops": [{"label": "early", "objective": "sed", "at_ap_of": "ce"}],
        "hypotheses": [{"id": "H1", "claim": "?", "metric": "AP", "a": "ce_erly", "b": "early"}],
        "train": {"batch_size": 16, "micro_batch": 5},
    }
    reported = problems(changes)
    text = "\n".join(reported)
    for expected in (
        "label 'base': used twice",
        "label 'ce': used twice",
        "model label 'open_flamingo': used twice",
        "early_stops.early: unknown objective label 'sed'",
        "hypothesis H1: unknown row 'ce_erly'",
        "train.micro_batch: expected a divisor of batch_size 16, got 5",
    ):
        assert expected in text
    assert len(reported) == 6


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seeds": []}, "seeds: "),
        ({"seeds": [0, 0]}, "seeds: expected distinct seeds, got [0, 0]"),
        ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0, got -1"),
        ({"models": [3]}, "models.0: "),
        (
            {"objectives": [{"name": "ce", "then": {"name": ["x"]}}]},
            "objectives.0.then: unknown stage \"['x']\"; avail",
        ),
        ({"objectives": [{"name": "ce", "then": {"name": {}}}]}, "objectives.0.then: unknown stage '{}'; available: "),
        ({"benchmark": {"name": "shapes", True: 3}}, "benchmark.1: Keys should be strings, got True"),
        ({True: 3}, "1: Keys should be strings, got True"),
        ({"models": []}, "models: "),
        ({"suite": "../escape"}, "suite: "),
        ({"suite": None}, "suite: "),
        ({"objectives": [{"name": "ce", "label": "../../escape"}]}, "objectives.0.label: "),
        ({"models": [{"name": "open_flamingo", "label": "a/b"}]}, "models.0.label: "),
        ({"early_stops": [{"label": "../x", "objective": "ce", "at_ap_of": "ce"}]}, "early_stops.0.label: "),
        ({"benchmark": "shape"}, "unknown benchmark 'shape', did you mean 'shapes'"),
        ({"benchmark": 3}, "benchmark: "),
        ({"objectives": "ce"}, "objectives: "),
        ({"train": {"steps": 5, "eval_at": [2, 9]}}, "train: eval_at: expected steps up to 5, got [9]"),
        ({"sample": {"samples": 1}}, "sample.samples: "),
        ({"sample": {"temperature": 0}}, "sample.temperature: "),
        ({"score": "consensus"}, "score: "),
    ],
)
def test_single_mistakes(change: dict[Any, Any], expected: str) -> None:
    (problem,) = problems(change)
    assert problem.startswith(expected)


def test_what_is_compared_at_equal_ap_has_a_path() -> None:
    stated = {"id": "H1", "claim": "?", "metric": "AP", "a": "ce", "b": "base", "at": "equal_AP"}
    (problem,) = problems({"hypotheses": [stated]})
    assert problem.startswith(
        "hypothesis H1: at: equal_AP: b has a path along training: unknown objective label 'base'"
    )
    (problem,) = problems({"hypotheses": [{**stated, "b": "ce", "at": "equal_ap"}]})
    assert problem.startswith("hypotheses.0.at: Input should be 'equal_AP', got 'equal_ap'")


COLLISION = {"targets": "random", "batching": "collision", "collision_rate": 0.5}


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"targets": "all"}, "train.targets: "),
        ({"targets": "all(1)"}, "train.targets: "),
        ({"batching": "paired"}, "train.batching: "),
        ({"batching": "collision"}, "train: collision_rate: expected with batching: collision, and only there"),
        ({"collision_rate": 0.5}, "train: collision_rate: expected with batching: collision, and only there"),
        ({**COLLISION, "collision_rate": 1.5}, "train.collision_rate: "),
        ({"batching": "grouped"}, "train: batching: grouped needs targets: all(n), got canonical"),
        ({"targets": "all(3)", "batching": "grouped"}, "train: batch_size: expected a multiple of all(3)'s n, got 16"),
    ],
)
def test_mistakes_in_the_training_data_conditions(train: dict[str, Any], expected: str) -> None:
    (problem,) = problems({"train": train})
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("train", "size"),
    [
        ({}, 1),
        ({"targets": "random"}, 1),
        ({"targets": "all(4)"}, 1),  # two targets of an image may meet by chance only
        ({"targets": "all(4)", "batching": "grouped"}, 4),
        (COLLISION, 2),
        ({**COLLISION, "targets": "all(4)"}, 2),
        ({**COLLISION, "targets": "canonical"}, 1),  # the same target twice
        ({**COLLISION, "collision_rate": 0.0}, 1),
    ],
)
@pytest.mark.parametrize("objective", ["eco", "kl_uniform", "mrt"])
def test_what_objectives_need_must_be_supplied(train: dict[str, Any], size: int, objective: str) -> None:
    assert Train(**train).set_size == size
    change = {"objectives": ["ce", objective], "train": {"eval_at": [], **train}}
    if size > 1:
        assert parse({**GOOD, **change}, "").train.set_size == size
        (problem,) = problems({**change, "train": {**train, "micro_batch": 1}})
        assert problem == f"train.micro_batch: expected at least the {size} targets of a set ({objective}), got 1"
    else:
        (problem,) = problems(change)
        assert problem.startswith(
            f"objective {objective}: {objective} needs several targets of an image in a batch, but "
        )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"objectives": [{"name": "ce", "lr": 1e-4}]}, "ce: lr is a setting of training: write train: {lr: 0.0001} "),
        ({"models": [{"name": "open_flamingo", "steps": 3}]}, "open_flamingo: steps is a setting of training: write "),
        ({"lr": 1e-4}, "key 'lr': expected in train, as in train: {lr: 0.0001}"),
        ({"temperature": 2}, "key 'temperature': expected in sample, as in sample: {temperature: 2}"),
        ({"train": {"temperature": 2}}, "unknown key train.temperature: 'temperature'"),
        ({"train": {"groups": [{"match": "*", "lrr": 2}]}}, "unknown key train.groups.0.lrr: 'lrr', did you mean 'lr'"),
    ],
)
def test_a_setting_in_the_wrong_place_is_told_where_it_belongs(change: dict[str, Any], expected: str) -> None:
    (problem,) = problems(change)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"models": [{"name": "open_flamingo", "weights": "a\0b"}]}, "models.0.weights"),
        ({"models": [{"name": "checkpoint", "from": "a\0b"}]}, "models.0.from"),
        ({"val_ids": "\0"}, "val_ids"),
        ({"benchmark": {"name": "lvis", "val": "\0.json"}}, "benchmark.val"),
        ({"train": {"lr\0": 1}}, "train.lr\0"),
        ({"suite": "s\0"}, "suite"),
    ],
)
def test_no_text_has_a_null_character(changes: dict[str, Any], key: str) -> None:
    """No file can be called so: whatever opened it would raise an error that names no setting."""
    assert problems(changes) == (f"{key}: expected a text without null characters",)


@pytest.mark.parametrize(
    "changes",
    [
        {"models": "x" * 5000},
        {"models": [{"name": "open_flamingo", "config": "x" * 5000}]},
        {"objectives": [{"name": "x" * 5000}]},
        {"objectives": [{"name": "ce", "label": "x" * 5000, "train": {"lr": "y" * 5000}}]},
        {"objectives": [{"name": "ce", "lr": "x" * 5000}]},
        {"objectives": [{"name": "ce", "label": "x" * 5000}] * 2},
        {"objectives": [{"name": "ce", "label": f"{k}" * 500} for k in range(9)], "resampled": [RESAMPLED]},
        {"steps": list(range(5000))},
        {"x" * 5000: 1},
        {"seeds": list(range(1000)) * 2},
        {"hypotheses": [{"id": "h" * 5000, "claim": "c", "metric": "m" * 5000, "a": "a" * 5000, "b": "ce"}]},
        {"benchmark": {"name": "x" * 5000}},
        {"train": {"groups": [{"match": "x" * 5000, "lr": -1}]}},
    ],
)
def test_values_are_cut_in_every_message(changes: dict[str, Any]) -> None:
    assert all(len(problem) <= 600 + len("...") for problem in problems(changes))


def test_a_long_list_of_names_is_cut_and_counted() -> None:
    (problem,) = problems({"hypotheses": [{"id": "h", "claim": "c", "metric": "name_diversty", "a": "sed", "b": "ce"}]})
    start, _, rest = problem.partition("? ")
    assert start == "hypothesis h: unknown metric 'name_diversty', did you mean 'name_diversity'"
    listed, _, more = rest.removeprefix("available: ").rpartition(" and ")
    number = len(listed.split(", ")) + int(more.removesuffix(" more"))
    assert number == len(figure_names(8))
    assert len(listed) <= 400


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": [0, 2**63]}, "seeds.1: expected a whole number of at most 64 bits, got 9223372036854775808"),
        ({"seeds": [True]}, "seeds: expected a number, got true"),
        ({"train": {"lr": True}}, "train: lr: expected a number, got true"),
        ({"train": {"steps": False}}, "train: steps: expected a number, got false"),
        ({"train": {"loss_weights": {"name": True}}}, "train: loss_weights: expected a number, got true"),
        ({"train": {"lr": float("inf")}}, "train.lr: expected a finite number, got inf"),
        ({"sample": {"temperature": float("inf")}}, "sample.temperature: expected a finite number, got inf"),
        (
            {"models": [{"name": "open_flamingo", "bins": float("nan")}]},
            "models.0.bins: expected a finite number, got nan",
        ),
    ],
)
def test_numbers_that_no_setting_can_have(changes: dict[str, Any], told: str) -> None:
    """Computing with them would end in another seed than was written, or in figures that are no numbers."""
    assert problems(changes) == (told,)
