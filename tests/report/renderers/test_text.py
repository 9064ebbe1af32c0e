"""Tables as text: numbers, what is bold, which tables there are, captions and labels."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.metrics.catalogue import CATEGORY_COLUMNS, MEANINGS, ROLLOUT_COLUMNS, diversity_columns, figure_names
from harness.metrics.samples.aggregate import REPORTABLE
from harness.metrics.stats import Interval
from harness.report import rows
from harness.report.grids import grid as grid_parts
from harness.report.grids import tables
from harness.report.renderers import text as report
from harness.report.results import Results
from tests.report.complete import one
from tests.support import fake_cells

# ---- text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figure", "signed", "expected"),
    [
        (Interval(0.4123, 0.3913, 0.4333, 3), False, "0.412 ±0.021"),
        (Interval(-0.0001, -0.0101, 0.0099, 3), False, "0.000 ±0.010"),
        (Interval(0.05, 0.0, 0.1, 3), True, "+0.050 ±0.050"),
        (Interval(0.5, math.nan, math.nan, 1), False, "0.500"),
        (Interval(math.nan, math.nan, math.nan, 3), False, report.UNDEFINED),
        (Interval(1234.5678, 1200.0, 1269.0, 3), False, "1,235 ±34"),
    ],
)
def test_format_interval(figure: Interval, signed: bool, expected: str) -> None:
    assert report.format_interval(figure, signed) == expected


def test_csv_holds_every_figure(results: Results) -> None:
    lines = list(csv.DictReader(io.StringIO(report.to_csv(results))))
    assert len(lines) == 6 * (len(figure_names(4)) - len(ROLLOUT_COLUMNS))  # no stage draws samples
    (line,) = (item for item in lines if (item["row"], item["figure"]) == ("sed", "AP50"))
    figure = one(results, "sed").figures["AP50"]
    assert (line["model"], line["step"], line["seeds"]) == ("toy", "240", "2")
    assert [float(line[name]) for name in ("estimate", "low", "high")] == pytest.approx(
        [figure.estimate, figure.low, figure.high], abs=1e-6
    )


def test_undefined_is_empty_in_csv_and_a_dash_in_tables(tmp_path: Path) -> None:
    """A detector that finds nothing verifies nothing: no names to be diverse; its AP is 0, not undefined."""
    blind = fake_cells.DETECTORS | {"base": (fake_cells.Skill(0.0, 1.0),)}
    made = report.load(fake_cells.write_run(tmp_path, fake_cells.suite(), detectors=blind))
    lines = report.to_csv(made).splitlines()
    assert "toy,base,0,name_diversity,,,,1" in lines
    assert "toy,base,0,AP,0.000000,0.000000,0.000000,1" in lines
    shown = [[cell.text for cell in grid.rows[0]] for grid in report.grids(made)]
    assert shown[0] == ["base", "1", *["0.000 ±0.000"] * 5]
    assert shown[1] == ["base", "1", *["0.000 ±0.000"] * 2, report.UNDEFINED, report.UNDEFINED, "0.250 ±0.000"]


# ---- bold: what is best ------------------------------------------------------------------------------------------


def test_the_best_of_each_model_is_bold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rows.best` counts within the rows that it is given: those of one model."""
    suite = fake_cells.suite(models=["toy", {"name": "toy", "label": "big"}])
    made = report.load(fake_cells.write_run(tmp_path, suite, images=8))

    def second(_: Results, given: list[rows.ReportRow], names: list[str]) -> dict[str, int]:
        assert len({row.model for row in given}) == 1
        return {name: 2 for name in names if name == "AP50"}

    monkeypatch.setattr(tables, "best", second)
    grid = tables.figure_grid(made, "Detection", report.table(made), ("AP", "AP50"))
    best = [(row[0].text, index) for row in grid.rows for index, cell in enumerate(row) if cell.best]
    assert best == [("toy: sed", 3), ("big: sed", 3)]


def test_what_is_bold_is_what_the_rows_say(results: Results) -> None:
    made = report.table(results)
    of_model = [row for row in made if row.model == "toy"]
    names = diversity_columns(4)
    expected = rows.best(results, of_model, names)
    assert "distinct_names" in expected  # 0.55 against 0.05 in evenness: no tie
    grid = next(grid for grid in report.grids(results) if grid.title.startswith("Diversity"))
    bold = {(names[index - 2], place) for place, row in enumerate(grid.rows) for index, c in enumerate(row) if c.best}
    assert bold == set(expected.items())


def test_bold_in_markdown_and_on_the_screen(results: Results) -> None:
    best = [cell.text for grid in report.grids(results) for row in grid.rows for cell in row if cell.best]
    assert best
    text, screen = report.to_markdown(results), rendered(results, styles=True)
    assert re.findall(r"\| \*\*(.*?)\*\* (?=\|)", text) == best
    assert all(re.search(rf"\x1b\[1m *{re.escape(cell)}\x1b\[0m", screen) for cell in best)  # padded where it is short
    assert "exclude a tie" in " ".join(report.caption(results))


def test_differences_have_signs_and_no_best(results: Results) -> None:
    (grid,) = (grid for grid in report.grids(results) if grid.title.startswith("Difference to base"))
    cells = [cell for row in grid.rows for cell in row[2:]]
    assert all(cell.text[0] in "+-" for cell in cells)
    assert not any(cell.best for cell in cells)


# ---- which tables there are --------------------------------------------------------------------------------------


OF_NEW_RECORDS = ("self_bleu", "consensus_AP", "consensus_AP50", "consensus_gain", "step_seconds", "peak_memory_mib")


def titles(results: Results) -> list[str]:
    return [grid.title.partition(" (")[0] for grid in report.grids(results)]


def test_tables_in_order(results: Results) -> None:
    assert titles(results) == [
        "Detection",
        "Diversity",
        "By frequency",
        "Faults",
        "Text and clusters",
        "Ways of answering",
        "Consensus of the K = 4 samples beside the greedy answer",
        "Temperature",
        "Cost of training",
        "What the mask selects",
        "Difference to base, paired",
        "Difference to ce at equal AP, paired",
        "Hypotheses",
    ]


def test_figures_that_no_row_has_are_left_out(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of older code: no self-BLEU, no consensus, no cost."""
    nothing = dict.fromkeys(OF_NEW_RECORDS, grid_parts.NOTHING)
    old = [replace(row, figures=row.figures | nothing) for row in report.table(results)]
    monkeypatch.setattr(tables, "table", lambda _: old)
    monkeypatch.setattr(results, "made", {})
    assert not {"Consensus of the K = 4 samples beside the greedy answer", "Cost of training"} & set(titles(results))
    (text,) = (grid for grid in report.grids(results) if grid.title.startswith("Text"))
    assert "self-BLEU" not in text.headings
    assert "order distance" in text.headings
    assert not text.note


def test_what_depends_on_the_number_of_samples_says_so(results: Results) -> None:
    assert "| self-BLEU | distinct-1 | distinct-2 | Vendi score |" in report.to_markdown(results)
    assert "Self-BLEU, Vendi score and cluster coverage grow with K" in report.to_markdown(results)


def test_the_gain_of_the_consensus_has_a_sign(results: Results) -> None:
    (grid,) = (grid for grid in report.grids(results) if grid.title.startswith("Consensus"))
    assert grid.headings[2:] == ("AP", "AP50", "consensus AP", "consensus AP50", "consensus gain")
    ce = next(row for row in grid.rows if row[0].text == "ce")
    assert ce[6].text[0] in "+-"
    assert ce[6].value == pytest.approx(ce[4].value - ce[2].value)


def test_one_line_per_row_and_temperature(results: Results) -> None:
    (grid,) = (grid for grid in report.grids(results) if grid.title == "Temperature")
    assert [(row[0].text, row[1].text) for row in grid.rows] == [
        (label, heat) for label in ("base", "ce", "sed") for heat in ("0.5", "1", "2")
    ]
    place = grid.headings.index("recall")
    line = next(row for row in grid.rows if (row[0].text, row[1].text) == ("ce", "1"))
    assert line[place].text == report.format_interval(one(results, "ce").figures["recall"])


def test_categories_on_few_images_are_left_out_of_text(results: Results) -> None:
    """Of the five categories the cross is rare: too few of the 30 images show one."""
    truth = fake_cells.make_examples(30)
    images = [sum(any(i.category_id == c.id for i in e.instances) for e in truth) for c in fake_cells.CATEGORIES]
    assert [count >= REPORTABLE for count in images] == [True, True, True, True, False]
    shown = {grid.title: grid for grid in report.category_grids(results)}
    assert list(shown) == ["Per category: AP", "Per category: recall", "Per category: name diversity"]
    grid = shown["Per category: recall"]
    assert [row[0].text for row in grid.rows] == ["disc", "box", "star", "ring"]
    assert [row[2].value for row in grid.rows] == images[:4]
    assert grid.headings[3:] == ("base", "ce", "sed", "oracle-uniform", "oracle-collapsed")
    everything = {grid.title: grid for grid in report.category_grids(results, everything=True)}
    assert [row[0].text for row in everything["Per category: recall"].rows][-1] == "cross"
    named = [row[0].text for row in everything["Per category: name diversity"].rows]
    assert named == ["disc", "box", "ring", "cross"]  # a star has one name
    assert "Per category" not in report.to_markdown(results)
    assert "### Per category: recall" in report.to_markdown(results, per_category=True)


def test_category_csv_holds_every_category(results: Results) -> None:
    lines = list(csv.DictReader(io.StringIO(report.to_category_csv(results))))
    assert len(lines) == 5 * 5 * len(CATEGORY_COLUMNS)  # rows with cells of their own, categories, figures
    (line,) = (item for item in lines if (item["row"], item["category"], item["figure"]) == ("ce", "cross", "recall"))
    assert (line["frequency"], line["reportable"], line["seeds"]) == ("r", "0", "2")
    points = []
    for key in results.keys("toy", "ce"):
        frame = results.tables(key).images
        of_category = frame[(frame["step"] == 240) & (frame["temperature"] == 1.0) & (frame["category_id"] == 5)]
        assert int(line["images"]) == len(of_category)
        points.append(sum(map(sum, of_category["verified"])) / (4 * of_category["instances"].sum()))
    assert float(line["estimate"]) == pytest.approx(np.mean(points), abs=1e-6)


def test_every_figure_has_a_definition_and_every_definition_a_figure() -> None:
    named = {re.sub(r"@\d+$", "@k", name.partition("/")[0]) for name in figure_names(4)}
    assert set(MEANINGS) == named


@given(numbers=st.integers(1, 40), words=st.integers(1, 4), columns=st.integers(1, 12))
def test_splitting_a_table_keeps_every_column_once(numbers: int, words: int, columns: int) -> None:
    headings = tuple(map(str, range(words + numbers)))
    grid = grid_parts.Grid("t", headings, (tuple(map(grid_parts.GridCell, headings)),), words)
    parts = list(grid_parts.split(grid, columns))
    assert all(part.headings[:words] == headings[:words] for part in parts)
    assert sum((part.headings[words:] for part in parts), ()) == headings[words:]
    assert all(tuple(cell.text for cell in part.rows[0]) == part.headings for part in parts)
    widths = [len(part.headings) - words for part in parts]
    assert max(widths) <= columns
    assert max(widths) - min(widths) <= 1
    assert len(parts) == math.ceil(numbers / columns)
    assert [part.title for part in parts] == ["t", *["t (continued)"] * (len(parts) - 1)]


# ---- captions and labels -----------------------------------------------------------------------------------------


def test_caption_says_what_was_measured(results: Results) -> None:
    text = " ".join(report.caption(results))
    for part in (
        "30 validation images; K = 4 samples at temperature 1; seeds 0, 1.",
        "Scores: category (oracles: constant); evaluator hotcoco 1.3.1.",
        "1,000 bootstrap replicates",
        "commit 0123456789ab;",
    ):
        assert part in text
    assert "With one seed" not in text
    assert "sampled once for all seeds: their intervals cover the choice of images only" in text
    assert "dirty" not in text


def test_caption_of_one_seed_and_dirty_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fake_cells.CODE, "dirty", True)
    text = " ".join(report.caption(report.load(fake_cells.write_run(tmp_path, fake_cells.suite(seeds=[3]), images=8))))
    assert "With one seed an interval covers the choice of images only" in text
    assert "commit 0123456789ab (dirty: tracked files differ from it)" in text


def test_labels_are_shown_as_they_are(tmp_path: Path) -> None:
    label = "<script>|*x*"
    suite = fake_cells.suite(
        objectives=[{"name": "ce", "label": label}],
        early_stops=[],
        hypotheses=[],
        models=[{"name": "m", "label": "[b]m"}],
    )
    made = report.load(
        fake_cells.write_run(
            tmp_path, suite, images=8, detectors=fake_cells.DETECTORS | {label: fake_cells.DETECTORS["ce"]}
        )
    )
    assert r"| \<script\>\|\*x\* |" in report.to_markdown(made)
    assert label in rendered(made)


def rendered(results: Results, per_category: bool = False, styles: bool = False) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.to_console(results, per_category))
    return console.export_text(styles=styles)


def test_the_summary_fits_80_columns_and_has_the_verdicts(results: Results) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.to_summary(results))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    shown = text.split()
    summary, verdicts = tables.summary_grids(results)
    assert summary.headings == ("row", "seeds", "AP", "recall", "coverage@4", "name diversity", "unique name sequences")
    detection = report.grids(results)[0]
    assert [row[2].text for row in summary.rows] == [row[2].text for row in detection.rows]  # AP of every row
    assert verdicts == report.grids(results)[-1]
    for row in summary.rows:
        assert all(part in shown for cell in row for part in cell.text.split())


def test_console_fits_120_columns(results: Results) -> None:
    text = rendered(results, per_category=True)
    assert max(map(len, text.splitlines())) <= 120
    assert "…" not in text
    shown = text.split()
    for grid in report.grids(results) + report.category_grids(results):
        for row in grid.rows:
            assert all(part in shown for cell in row for part in cell.text.split())


def test_several_models_have_their_own_rows_and_share_the_oracles(tmp_path: Path) -> None:
    suite = fake_cells.suite(models=["toy", {"name": "toy", "label": "big"}])
    made = report.load(fake_cells.write_run(tmp_path, suite, images=8))
    assert [(row.model, row.label) for row in report.table(made)] == [
        *((model, label) for model in ("toy", "big") for label in ("base", "ce", "sed", "ce_early")),
        ("oracle-uniform", "oracle-uniform"),
        ("oracle-collapsed", "oracle-collapsed"),
    ]
    assert [(item.hypothesis.id, item.model) for item in report.verdicts(made)[:2]] == [("H1", "toy"), ("H1", "big")]
    assert "| big: ce | 2 |" in report.to_markdown(made)


def test_a_suite_that_trains_nothing_has_no_differences(tmp_path: Path) -> None:
    suite = fake_cells.suite(objectives=[], early_stops=[], hypotheses=[], seeds=[0])
    text = report.to_markdown(report.load(fake_cells.write_run(tmp_path, suite, images=8)))
    assert "Difference to base" not in text
    assert "Bold" not in text
