"""One place for every measure: what records, estimates, figures and the pages name has one entry, with a meaning."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.metrics.catalogue import (
    COST_COLUMNS,
    MEASURES,
    about_boxes,
    axis_label,
    direction,
    figure_names,
    find_measure,
    gain_names,
    heading,
)
from harness.metrics.recorded import OFFICIAL, PROBE, TRAINING
from harness.report.estimates import CellTables, estimate
from harness.report.results import load
from tests.support import fake_cells

ROOT = Path(__file__).parents[2]
QUICKSTART = sorted((ROOT / "results" / "quickstart" / "cells").glob("*/record.json"))
SOURCES = {measure.source for measure in MEASURES if measure.source}
GROUPS = {
    *(
        "detection",
        "diversity",
        "text",
        "clusters",
        "ways",
        "faults",
        "mentioned",
        "consensus",
        "cost",
        "log cost",
        "mask",
        "rollouts",
        "no table",
    ),
}


def test_every_measure_has_one_entry_that_says_everything() -> None:
    for entries in ((*MEASURES, *OFFICIAL), TRAINING, PROBE):
        assert set(Counter(measure.name for measure in entries).values()) == {1}
        for measure in entries:
            assert measure.heading
            assert re.fullmatch(r"[A-Z].+\.", measure.meaning), measure.name
            assert measure.direction in (-1, 0, 1)
    assert {measure.group for measure in MEASURES} == GROUPS


@pytest.mark.parametrize("path", QUICKSTART, ids=lambda path: path.parent.name)
def test_every_figure_of_a_record_has_a_measure(path: Path) -> None:
    """Categories' figures are recorded under their names in `aggregate.category_figures`."""
    record: dict[str, Any] = json.loads(path.read_text())
    assert record["evaluations"]
    for evaluation in record["evaluations"]:
        for name in (*evaluation["metrics"], *evaluation["consensus"], *evaluation["diversity"]):
            general = re.sub(r"@\d+", "@k", name.partition("/")[0])
            assert general in SOURCES or find_measure(name).meaning
    for row in record.get("probe", ()):
        assert set(row) - {"step"} <= {measure.name for measure in PROBE}


def test_every_figure_of_an_estimate_has_a_measure(tmp_path: Path) -> None:
    results = load(fake_cells.write_run(tmp_path, fake_cells.suite()))
    (key, *_) = results.keys("toy", "ce")
    cell: CellTables = results.tables(key)
    estimated = estimate(cell, 240, 1.0)
    assert {"AP75", "recall/r", "coverage@4"} <= estimated.figures.keys()
    for name in (*estimated.figures, *estimated.categories):
        assert find_measure(name).meaning


def test_the_pages_name_measures_only() -> None:
    """Names in the first column of the tables of meanings."""
    pages = "".join((ROOT / "docs" / page).read_text() for page in ("quickstart.md", "explain/matching.md"))
    tables = re.findall(r"^\| figure \| meaning.*\n\|[-| ]+\|\n((?:\|.*\n)+)", pages, re.M)
    assert len(tables) == 2
    names = [name for table in tables for row in table.splitlines() for name in row.split("|")[1].strip().split(", ")]
    assert {"AP50", "coverage@8", "malformed_rate", "vendi"} <= set(names)
    for name in names:
        assert find_measure(name) in MEASURES


def test_a_name_that_is_no_measure_is_refused() -> None:
    for name in ("name_diversty", "coverage@", "recall@2", "gain"):
        with pytest.raises(KeyError):
            find_measure(name)


def test_a_name_adds_k_frequency_and_gain_to_the_heading() -> None:
    names = ("coverage@8", "coverage@8_gain", "recall/r", "AP_gain", "consensus_gain", "self_bleu", "peak_memory_mib")
    assert [heading(name) for name in names] == [
        *("coverage@8", "coverage@8 gain", "recall/r", "AP gain", "consensus gain", "self-BLEU", "peak memory (MiB)"),
    ]
    assert heading("name_diversity") == "name diversity"
    assert axis_label("name_diversity") == "normalised name diversity"
    assert axis_label("recall") == "recall"


def test_directions() -> None:
    """Rates of faults, repetition and cost are better low; what says nothing of quality alone has no direction."""
    less = {name for name in figure_names(4) if direction(name) < 0}
    rates = {f"{fault}_rate" for fault in ("duplicate", "hallucination", "unknown_name", "malformed", "truncation")}
    assert less == {*rates, *COST_COLUMNS, "self_bleu", "log_step_seconds", "log_peak_memory"}
    neither = {name.partition("/")[0] for name in figure_names(4) if direction(name) == 0}
    of_training = {"groups_without_spread", "selected_share"}
    assert neither == {*of_training, "box_spread", "order_distance", "unique_sequences"}
    assert {direction(name) for name in gain_names(4)} == {1}


def test_what_needs_boxes() -> None:
    needing = {name.partition("/")[0] for name in (*figure_names(4), *gain_names(4)) if about_boxes(name)}
    average_precisions = {"AP", "AP50", "APr", "APc", "APf"}
    consensus = {"consensus_AP", "consensus_AP50", "consensus_gain", "box_spread"}
    assert needing == {*average_precisions, *(f"{name}_gain" for name in average_precisions), *consensus}
