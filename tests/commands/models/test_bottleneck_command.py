"""`detmodes bottleneck`: the diagnostic of a base or a finished cell as a table and as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from harness.commands.models.bottleneck import Bottleneck, NamePoint, _line, grid_of, read, to_json
from harness.commands.models.predict import open_model
from harness.commands.models.verbs import bottleneck as verb
from harness.errors import ConfigError, DataError
from harness.evaluation.bottleneck import BranchFloor, bottleneck
from harness.metrics.diagnosis.bottleneck import Branch
from harness.run import runner
from harness.run.context import open_context
from tests.support import small
from tests.support.tiny import codec_of, pieces_of

SOFA = NamePoint(3, "sofa", ("sofa", "couch"), "", passed=3, kl=0.8, least_kl=0.2)
EVEN = NamePoint(5, "mug", ("mug_cup", "mug_glass"), "mug", passed=1, kl=0.0, least_kl=0.0)


def cell(folder: Path, **changes: object) -> str:
    """A trained cell of the small suite."""
    runner.run(open_context(small.mini_suite(**changes), None, "cpu"), folder, "*-ce-*")
    (made,) = (folder / "cells").glob("*-ce-*")
    return str(made)


def test_a_cell_is_measured_on_its_own_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, written = cell(tmp_path / "run"), tmp_path / "table.json"
    verb(model, images=5, format="md", output=written)
    adapter, examples = open_model(model), small.benchmark().split("val")[:5]
    expected = {
        (floor.branch.category_id, floor.passed): (floor.mean, floor.floor) for floor in bottleneck(adapter, examples)
    }
    document = json.loads(written.read_text())
    assert {(p["category_id"], p["passed"]): (p["kl"], p["least_kl"]) for p in document["points"]} == expected
    assert document["images"] == 5
    ids = [point["category_id"] for point in document["points"]]
    assert ids == sorted(ids)
    printed = capsys.readouterr().out
    assert f"Softmax bottleneck at names: {model}" in printed
    assert all(point["category"] in printed for point in document["points"])


def test_points_are_weighed_by_how_often_they_are_passed() -> None:
    """(3 * 0.8 + 1 * 0) / 4 = 0.6 and (3 * 0.2 + 1 * 0) / 4 = 0.15, a quarter of it."""
    table = Bottleneck("m", 7, (SOFA, EVEN))
    assert (table.overall.passed, table.overall.kl, table.overall.least_kl) == pytest.approx((4, 0.6, 0.15))
    assert SOFA.share == table.overall.share == pytest.approx(0.25)
    assert math.isnan(EVEN.share)
    rows = [[item.text for item in row] for row in grid_of(table).rows]
    assert rows == [
        ["sofa", "sofa, couch", "", "3", "0.800", "0.200", "25.0%"],
        ["mug", "mug_cup, mug_glass", "mug", "1", "0.000", "0.000", "–"],  # noqa: RUF001
        ["(all)", "", "", "4", "0.600", "0.150", "25.0%"],
    ]
    document = json.loads(to_json(table))
    assert [point["capacity"] for point in document["points"]] == [pytest.approx(0.25), None]
    assert document["all"] == pytest.approx({"passed": 4, "kl": 0.6, "least_kl": 0.15, "capacity": 0.25})


def test_a_point_within_a_name_says_what_was_said_before_it() -> None:
    codec = codec_of(("couch", "sofa_bed", "sofa_seat", "sofa"), bins=4)
    pieces = pieces_of(codec)
    branch = Branch(1, (pieces["sofa"],), (pieces["_bed"], pieces["_seat"]))
    line = _line(codec, BranchFloor(branch, floor=0.1, mean=0.4, passed=2))
    assert line == NamePoint(1, "couch", ("sofa_bed", "sofa_seat"), "sofa", 2, kl=0.4, least_kl=0.1)


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown model 'open_flamigo'"):
        read("open_flamigo", 5)
    with pytest.raises(ConfigError, match=r"its prompts name categories; expected a cell with the open prompt"):
        read(cell(tmp_path, prompt={"kind": "categories", "chunk": 2}), 5)


def test_names_that_never_part_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.commands.models.bottleneck.bottleneck", lambda adapter, examples: [])
    with pytest.raises(DataError, match="expected objects of categories with several names in the images"):
        read("open_flamingo", 1)
