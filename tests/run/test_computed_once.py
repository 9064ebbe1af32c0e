"""Cells are computed once: named by their settings, whatever else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness import records
from harness.errors import ConfigError
from harness.run import runner
from harness.run.context import Planned
from harness.suite.schema import Suite
from tests.run.mini_runs import Told, cell_folder, context, same, times
from tests.support import small

# ---- cache -------------------------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = times(finished)
    monkeypatch.setattr(runner, "compute", lambda *_: pytest.fail("a finished cell was computed again"))
    assert [record.status for record in runner.run(context(), finished)] == ["finished"] * 5
    assert times(finished) == before


def test_another_setting_makes_new_cells_beside_the_old(copy: Path) -> None:
    before = times(copy)
    train = {"steps": 2, "batch_size": 4}
    told = Told()
    (record,) = runner.run(replace(context(train=train), watch=told), copy, "*-ce-*")
    assert record.steps == (2,)
    assert told.outcomes == ["", f"AP {record.evaluations[-1].metrics['AP']:.3f}  {record.seconds:.0f} s"]
    assert set(before) < set(times(copy))
    assert len(times(copy)) == 6
    assert all(times(copy)[name] == time for name, time in before.items())


def test_cells_json_lists_the_whole_suite(copy: Path) -> None:
    suite = context(train={"steps": 2, "batch_size": 4})
    runner.run(suite, copy, "*-ce-*")
    listed = json.loads((copy / "cells.json").read_text())
    assert listed == [item.digest for item in runner.plan(suite, copy)]
    assert Suite.model_validate_json((copy / "suite.json").read_text()) == suite.suite


def test_only_selects_cells(finished: Path) -> None:
    def chosen(pattern: str) -> list[str]:
        return [item.cell.id for item in runner.plan(context(), finished, pattern)]

    assert chosen("*-ce-*") == ["open_flamingo-ce-s0"]
    assert chosen("oracle-*") == ["oracle-uniform-s0", "oracle-collapsed-s0"]
    with pytest.raises(ConfigError, match=r"matches none of: open_flamingo-base-s0, open_flamingo-ce-s0"):
        chosen("nothing")


def test_the_same_cell_elsewhere_gives_the_same_record_and_tables(finished: Path, tmp_path: Path) -> None:
    runner.run(context(), tmp_path, "*-sed-*")
    here, there = cell_folder(tmp_path, "sed"), cell_folder(finished, "sed")
    assert same(records.read_record(here)) == same(records.read_record(there))  # digests of all files included
    for name in records.TABLES:
        pd.testing.assert_frame_equal(
            pd.read_parquet(here / f"{name}.parquet"), pd.read_parquet(there / f"{name}.parquet")
        )


# ---- what a cell's name depends on -------------------------------------------------------------------------------


def digest(cell: str = "open_flamingo-sed-s0", **changes: Any) -> str:
    return planned(cell, **changes).digest


def planned(cell: str, **changes: Any) -> Planned:
    (item,) = runner.plan(context(**changes), Path("runs"), cell)
    return item


SED = {"name": "sed_sft", "label": "sed", "top_k": 5, "quantile": 0.5, "weight": 5.0, "mask": "base"}
CHANGES: list[dict[str, Any]] = [
    {"benchmark": {"name": "shapes", **small.SETTINGS, "seed": 1}},
    {"benchmark": {"name": "shapes", **small.SETTINGS, "calibration_images": 15}},
    {"models": [{"name": "open_flamingo", "weights": "random", "bins": 64}]},
    {"models": [{"name": "open_flamingo"}]},
    {"models": [{"name": "open_flamingo", "weights": "random", "trains": "flamingo"}]},
    {"objectives": [{**SED, "weight": 1.0}]},
    {"objectives": [{**SED, "quantile": 0.4}]},
    {"objectives": [{**SED, "mask": "live"}]},
    {"train": {"steps": 3, "batch_size": 4, "eval_at": [2], "lr": 1e-3}},
    {"train": {"steps": 3, "batch_size": 4, "eval_at": [1]}},
    {"train": {"steps": 3, "batch_size": 4, "eval_at": [2], "targets": "random"}},
    {"sample": {"samples": 2, "max_tokens": 12, "temperature": 0.7}},
    {"sample": {"samples": 2, "max_tokens": 12, "grammar": True}},
    {"score": "name"},
]


def test_every_setting_is_part_of_the_digest() -> None:
    digests = [digest(), *(digest(**change) for change in CHANGES), digest("open_flamingo-sed-s1", seeds=[1])]
    assert len(set(digests)) == len(CHANGES) + 2


def test_names_and_spelt_out_defaults_are_not() -> None:
    """A label, the suite's name, what is kept, other objectives and seeds, and a default written out."""
    same_result: list[dict[str, Any]] = [
        {"suite": "other", "keep": "none", "seeds": [0, 1]},
        {"objectives": [SED]},
        {"models": [{"name": "open_flamingo", "weights": "random", "bins": 65, "config": "tiny"}]},
        {"train": {"steps": 3, "batch_size": 4, "eval_at": [2], "lr": 3.0e-4}},
    ]
    assert {digest(**change) for change in same_result} == {digest()}
    relabelled = planned("open_flamingo-other-s0", objectives=[{**SED, "label": "other"}])
    assert relabelled.digest == digest()
    assert relabelled.folder != planned("open_flamingo-sed-s0").folder


def test_train_settings_do_not_touch_the_base() -> None:
    assert digest("*-base-*", train={"steps": 9}) == digest("*-base-*")
