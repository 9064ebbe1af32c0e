"""`tune:` of a suite: the same candidates for every objective, on images that no table shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness import records
from harness.commands.run.plan import show_plan
from harness.errors import ConfigError, DataError
from harness.records import Record
from harness.records.layout import TRIALS, TUNING
from harness.records.tuning import TunedRow, TuningRecord, read_tuning
from harness.report.notes import caption
from harness.report.publish import publish
from harness.report.results import load
from harness.run import tuning
from harness.run.context import open_context
from harness.suite.schema import Suite
from tests.support import small

LR = [1e-6, 3e-3]
TUNE: dict[str, Any] = {"lr": LR, "steps": 2, "criterion": "heldout_nll", "seed": 77}


def suite(**changes: Any) -> Suite:
    return small.mini_suite(**{"tune": TUNE, "train": {"steps": 3, "batch_size": 4}, **changes})


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    made = tuning.run(open_context(suite(), None, "cpu"), folder)
    assert [record.status for record in made] == ["finished"] * 5
    return folder


def trials(output: Path) -> list[Record]:
    return [records.read_record(path) for path in sorted((output / TRIALS / "cells").iterdir())]


def test_every_row_gets_the_candidate_with_the_lowest_held_out_loss(output: Path) -> None:
    chosen = read_tuning(output)
    assert chosen is not None
    assert (chosen.candidates, chosen.criterion, chosen.seed, chosen.steps) == (tuple(LR), "heldout_nll", 77, 2)
    losses = {
        (record.label, lr): record.evaluations[-1].heldout_nll
        for record in trials(output)
        for lr in LR
        if record.label.endswith(f"lr{lr:g}")
    }
    assert [row.label for row in chosen.rows] == ["ce", "sed"]
    for row in chosen.rows:
        assert row.values == tuple(losses[f"{row.label}-lr{lr:g}", lr] for lr in LR)
        assert row.chosen == LR[row.values.index(min(value for value in row.values if value is not None))]
        assert row.chosen == 3e-3  # three thousand times the other one, from random weights


def test_the_cells_are_trained_with_what_was_chosen(output: Path) -> None:
    results = load(output)
    rates = {key.label: record.cell.train["lr"] for key, record in results.records.items() if record.cell.train}
    assert rates == {"ce": 3e-3, "sed": 3e-3}
    assert results.suite.tune is None


def test_trials_see_calibration_images_one_seed_and_their_own_budget(output: Path) -> None:
    calibration = open_context(suite(), None, "cpu").benchmark.split("calibration")
    made = trials(output)
    assert len(made) == 4  # two rows times two candidates, neither base nor oracles
    for record in made:
        assert record.image_ids == tuple(example.image_id for example in calibration)
        assert record.cell.seed == 77
        assert record.steps == (2,)
        assert record.cell.benchmark["val"] == "calibration"


def test_nothing_is_trained_twice(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.run.runner.compute", lambda *_: pytest.fail("all is done"))
    before = (output / TUNING).read_text()
    tuning.run(open_context(suite(), None, "cpu"), output)
    assert (output / TUNING).read_text() == before


def test_the_table_and_what_is_published_show_it(output: Path, tmp_path: Path) -> None:
    (line,) = (line for line in caption(load(output)) if line.startswith("Learning rates: "))
    assert line.startswith(
        "Learning rates: of 1e-06, 0.003 the one with the lowest held-out loss on the calibration split, "
        "which no table shows, after 2 steps with seed 77: ce 0.003 ("
    )
    publish(output, tmp_path / "published")
    assert read_tuning(tmp_path / "published") == read_tuning(output)
    assert line in (tmp_path / "published" / "README.md").read_text().replace("\\", "")


def test_a_dry_run_tells_of_the_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune = suite().tune
    assert tune is not None
    long = suite().model_copy(update={"tune": tune.model_copy(update={"steps": 2000})})
    show_plan(open_context(long, None, "cpu"), tmp_path, "oracle-*")
    told = capsys.readouterr().out
    trials = re.search(r"^tuning:    4 trials of 2000 steps first, ([0-9.]+) minutes$", told, re.MULTILINE)
    assert trials
    assert float(trials[1]) > 0
    assert f"estimated: {trials[1]} minutes on cpu" in told  # the oracles themselves cost nothing
    assert not list(tmp_path.iterdir())


# ---- the choice ------------------------------------------------------------------------------------------------------


def record_with(status: str, ap: float | None, **changes: Any) -> Record:
    evaluation = {"step": 2, "metrics": {"AP": ap}, "diversity": {}, "heldout_nll": None}
    cell: dict[str, Any] = {
        "benchmark": {},
        "model": {},
        "objective": None,
        "seed": 77,
        "train": None,
        "sample": {},
        "score": "",
    }
    content = {
        "suite": "mini",
        "role": "trained",
        "model_label": "open_flamingo",
        "digest": "",
        "cell": cell,
        "code": {},
        "packages": {},
        "device": {},
        "status": status,
        "evaluations": [evaluation] if status == "finished" else [],
        **changes,
    }
    return Record.model_validate(content)


def chosen(*outcomes: tuple[str, float | None]) -> TunedRow:
    rates = [1e-4, 3e-4, 1e-3]
    tuned = suite(objectives=["ce"], tune={"lr": rates})
    assert tuned.tune is not None
    made = [
        record_with(status, ap, label=f"ce-lr{lr:g}", error=None if status == "finished" else "loss is not finite")
        for lr, (status, ap) in zip(rates, outcomes, strict=True)
    ]
    (row,) = tuning.choose(tuned, tuned.tune, made).rows
    return row


def test_the_highest_ap_is_chosen_and_a_failed_trial_never() -> None:
    row = chosen(("finished", 0.2), ("finished", 0.4), ("failed", None))
    assert (row.values, row.chosen) == ((0.2, 0.4, None), 3e-4)


def test_of_equals_the_first_is_chosen() -> None:
    assert chosen(("finished", 0.0), ("finished", 0.0), ("finished", 0.0)).chosen == 1e-4


def test_a_row_whose_trials_all_fail_stops_the_run() -> None:
    with pytest.raises(ConfigError, match="tune: open_flamingo ce: no trial has AP: loss is not finite"):
        chosen(*[("failed", None)] * 3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tune": {"lr": [1e-4]}}, "tune.lr: expected two or more different learning rates"),
        ({"tune": {"lr": [1e-4, 1e-4]}}, "tune.lr: expected two or more different"),
        ({"tune": {**TUNE, "seed": 0}}, r"tune.seed: expected one that is none of seeds \[0\], got 0"),
        ({"tune": {**TUNE, "rate": 1}}, "unknown key tune.rate: 'rate'"),
        ({"objectives": []}, "tune: expected objectives to tune"),
        ({"objectives": [{"name": "ce", "train": {"lr": 1e-3}}]}, "objectives.ce.train.lr: expected none beside tune"),
        ({"models": ["open_flamingo", {"name": "open_flamingo", "label": "b"}]}, "tune: expected one model"),
        ({"task": "caption", "tune": {"lr": LR}}, "tune.criterion: task: caption has no AP"),
    ],
)
def test_what_cannot_be_tuned_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        suite(**changes)


def test_without_a_calibration_split_there_is_nothing_to_choose_on(tmp_path: Path) -> None:
    benchmark = {"name": "shapes", **small.SETTINGS, "calibration_images": 0}
    context = open_context(suite(benchmark=benchmark, objectives=["ce"]), None, "cpu")
    with pytest.raises(ConfigError, match="tune: the benchmark has no calibration split"):
        tuning.run(context, tmp_path)
    with pytest.raises(ConfigError, match="tune: the benchmark has no calibration split"):
        show_plan(context, tmp_path, None)


def test_a_damaged_choice_is_told_in_one_line(tmp_path: Path) -> None:
    record = TuningRecord(candidates=(1.0, 2.0), criterion="AP", seed=1, steps=None, rows=())
    record.write(tmp_path)
    assert read_tuning(tmp_path) == record
    (tmp_path / TUNING).write_text(json.dumps({"candidates": "x"}))
    with pytest.raises(DataError, match=r"tuning\.json: field candidates: "):
        read_tuning(tmp_path)
    assert read_tuning(tmp_path / "elsewhere") is None
