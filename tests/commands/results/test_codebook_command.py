"""`detmodes codebook`: the errors of a real run, as read from its tables and as counted in the answers themselves."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from harness import records
from harness.commands.app import main
from harness.commands.results import codebook, judge
from harness.commands.results.codebook import ALL, NO_CATEGORY, ErrorRow, ErrorTable
from harness.errors import ConfigError, DataError
from harness.evaluation.generation import generate
from harness.metrics.diagnosis.codebook import KINDS, sample_errors
from harness.report.results import load
from harness.run import runner
from harness.run.context import open_context
from harness.suite.cells import cells
from harness.suite.schema import Suite
from harness.types import Parsed
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import fake_cells, small
from tests.support.chat import Reply, chat_server

IMAGES = 8


def suite() -> Suite:
    """The shipped base on images that are harder than those it was trained on, so that it makes every kind of error."""
    benchmark = {**small.SETTINGS, "domain": "cluttered", "train_images": 2, "val_images": IMAGES}
    return small.mini_suite(
        benchmark={"name": "shapes", **benchmark, "calibration_images": 2},
        models=[{"name": "open_flamingo"}],
        objectives=[],
        seeds=[0, 1],
        sample={"samples": 3, "max_tokens": 40},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a base for every seed, as earlier code sampled it: rows of several cells without any training."""
    folder = tmp_path_factory.mktemp("codebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "cells", partial(cells, untrained=suite().seeds))
        runner.run(open_context(suite(), None, "cpu"), folder)
    return folder


@pytest.fixture(scope="module")
def table(run: Path) -> ErrorTable:
    return codebook.read(run)


def row(table: ErrorTable, label: str, which: str) -> ErrorRow:
    (match,) = (row for row in table.rows if (row.label, row.which) == (label, which))
    return match


def emitted(seed: int) -> list[list[Parsed]]:
    """The answers of the base, greedy first, drawn again as its cell drew them."""
    context = open_context(suite(), None, "cpu")
    examples = context.benchmark.split("val")
    adapter = OpenFlamingo(context.benchmark.categories, {})
    adapter.model.eval()
    drawn = generate(adapter, examples, 1.0, context.suite.sample, seed)
    return [
        [adapter.codec.decode(sample.tokens, example.width, example.height) for sample in answers]
        for example, answers in zip(examples, drawn, strict=True)
    ]


# ---- what is counted -----------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_suite_greedy_answers_and_samples_apart(table: ErrorTable) -> None:
    assert [(row.label, row.which, row.seeds, row.answers) for row in table.rows] == [
        (label, which, (0, 1), answers)
        for label in ("base", "oracle-uniform", "oracle-collapsed")
        for which, answers in (("greedy", 2 * IMAGES), ("samples", 2 * IMAGES * 3))
    ]


def test_the_counts_are_those_of_the_answers_themselves(table: ErrorTable) -> None:
    examples = open_context(suite(), None, "cpu").benchmark.split("val")
    greedy: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    for seed in (0, 1):
        for first, *others in sample_errors(examples, emitted(seed)):
            greedy.update(first.kinds)
            samples.update(kind for other in others for kind in other.kinds)
    for which, expected in (("greedy", greedy), ("samples", samples)):
        counted = row(table, "base", which)
        assert {kind: int(counts.sum()) for kind, counts in counted.counts.items()} == {
            kind: expected[kind] for kind in KINDS
        }
        assert counted.mean("missed") == expected["missed"] / counted.answers
    assert all(samples[kind] for kind in ("classification", "localisation", "background", "missed", "miscount"))


def test_oracles_make_no_errors(table: ErrorTable) -> None:
    for label in ("oracle-uniform", "oracle-collapsed"):
        for which in ("greedy", "samples"):
            assert {int(counts.sum()) for counts in row(table, label, which).counts.values()} == {0}


def test_cells_are_chosen_by_pattern(run: Path, table: ErrorTable) -> None:
    (greedy, samples) = codebook.read(run, "*-base-s1").rows
    assert (greedy.seeds, samples.answers) == ((1,), IMAGES * 3)
    both = row(table, "base", "samples").counts
    first = codebook.read(run, "*-base-s0").rows[1].counts
    assert {k: (samples.counts[k] + first[k]).tolist() for k in KINDS} == {k: both[k].tolist() for k in KINDS}
    with pytest.raises(ConfigError, match=r"--cell '\*-ce-\*': matches none of: open_flamingo-base-s0, "):
        codebook.read(run, "*-ce-*")


# ---- how it is shown -----------------------------------------------------------------------------------------------


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and what the command prints."""
    monkeypatch.setattr(sys, "argv", ["detmodes", "codebook", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    printed = capsys.readouterr()
    return code, printed.err if code else printed.out


def test_every_format_says_the_same(
    run: Path, table: ErrorTable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {}
    for name in ("console", "md", "csv", "json"):
        code, texts[name] = shown(monkeypatch, capsys, run, "--cell", "*base*", "--format", name)
        assert code == 0
    samples = row(table, "base", "samples")
    expected = {kind: int(by_category.sum()) for kind, by_category in samples.counts.items()}
    document = json.loads(texts["json"])
    (greedy, drawn) = document["rows"]
    assert (document["images"], greedy["answers_of"], drawn["answers_of"]) == (IMAGES, "greedy", "samples")
    assert drawn["by_category"][-1] == {"category_id": None, "category": ALL, "images": IMAGES, "counts": expected}
    assert drawn["mean"] == {kind: samples.mean(kind) for kind in KINDS}
    lines = [line for line in csv.DictReader(io.StringIO(texts["csv"])) if line["answers_of"] == "samples"]
    assert {line["error"]: int(line["count"]) for line in lines if line["category"] == ALL} == expected
    for kind in KINDS:
        numbers = [int(line["count"]) for line in lines if line["error"] == kind and line["category"] != ALL]
        assert sum(numbers) == expected[kind]
    assert {line["images"] for line in lines if line["category"] == NO_CATEGORY} == {str(IMAGES)}
    assert "| base | samples | 2 |" in texts["md"]
    for text in (texts["console"], texts["md"]):
        assert f"{samples.mean('missed'):.3f}" in text
        assert f"base, samples ({samples.answers} answers)" in text


# ---- what cannot be counted ----------------------------------------------------------------------------------------


def test_a_published_folder_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = fake_cells.write_run(tmp_path, fake_cells.suite(), images=5)
    code, text = shown(monkeypatch, capsys, published)
    assert code == 2
    (line,) = text.splitlines()
    assert "has no samples.parquet and no mentions.parquet; expected the output folder of a run" in line


def test_other_data_and_other_tables_are_refused(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (cell,) = (copy / "cells").glob("*-base-s0-*")
    data = json.loads((cell / records.RECORD).read_text())["data"]
    fake_cells.rewrite(cell, data={**data, "val_images": 3})
    with pytest.raises(DataError, match="evaluated on other data than the benchmark shapes has here"):
        codebook.read(copy)
    fake_cells.rewrite(cell, data=data)
    assert codebook.read(copy, "*-base-s0").rows
    (cell / "mentions.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"mentions\.parquet: missing, or not the file that record\.json describes"):
        codebook.read(copy)


def test_a_run_without_a_finished_cell(tmp_path: Path) -> None:
    everything = [(label, seed) for label in fake_cells.DETECTORS for seed in (0, 1)]
    folder = fake_cells.write_run(tmp_path, fake_cells.suite(), images=5, missing=everything)
    assert not load(folder).records
    with pytest.raises(DataError, match="suite fake: expected a finished cell, got none; run it first"):
        codebook.read(folder)


# ---- a language model beside it --------------------------------------------------------------------------------------


def judging(run: Path, reply: Reply, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with chat_server(reply) as there:
        address = ("--judge-address", there.address, "--judge-model", "small")
        asked = ["codebook", str(run), "--cell", "*-base-*", "--format", "md", "--judge", "12", *address, *options]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["detmodes", *asked])
            with pytest.raises(SystemExit) as left:
                main()
        assert left.value.code == 0
        assert len(there.asked) == 12
    return capsys.readouterr().out


def cells_of(printed: str) -> dict[str, list[str]]:
    lines = [line.split("|") for line in printed.splitlines() if line.startswith("| ")]
    return {cells[1].strip(): [cell.strip() for cell in cells[2:7]] for cells in lines}


def test_a_judge_that_says_nothing_finds_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = judging(run, lambda question: '{"errors": []}', capsys)
    lines = cells_of(printed)
    assert int(lines["missed object"][0]) > 0
    assert all(line[1:3] == ["0", "0"] for name, line in lines.items() if name in codebook.HEADINGS.values())
    assert "Of 12 answers." in printed


def test_a_judge_that_says_every_object_is_missed_finds_all_that_are(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recall 1, and as precise as objects are missed. Each answer has one more thing in it that is no error."""

    def every(question: str) -> str:
        told = question.partition("True objects:")[2].partition("Mentions:")[0]
        numbers = [int(line.partition(".")[0]) for line in told.splitlines() if line[:1].isdigit()]
        error: dict[str, object] = {
            "kind": "missed",
            "mention": None,
            "question": "?",
            "reply": "!",
            "objects": [],
            "ends": True,
        }
        return json.dumps({"errors": ["nonsense", *({**error, "object": number} for number in numbers)]})

    printed = judging(run, every, capsys)
    exact, judged, both, precision, recall = cells_of(printed)["missed object"]
    assert exact == both
    assert recall == "1.000"
    assert float(precision) == pytest.approx(int(both) / int(judged), abs=5e-4)
    assert "12 of its errors did not have the form" in printed


def test_the_judge_is_asked_about_the_answers_of_the_tables(run: Path) -> None:
    """Read back from the tables, they have the errors that the codebook counts."""
    table = codebook.read(run, "*-base-s0")
    results = load(run)
    (key,) = codebook.finished_cells(results, "*-base-s0")
    examples = open_context(suite(), None, "cpu").benchmark.split("val")
    answers = list(judge.answers_of_cell(results.folders[key], examples, 0, 1.0))
    assert len(answers) == IMAGES * 3
    counts = Counter(kind for image, read in answers for kind in sample_errors([image], [[read]])[0][0].kinds)
    expected = row(table, "base", "samples").counts
    assert {kind: counts[kind] for kind in KINDS} == {kind: int(expected[kind].sum()) for kind in KINDS}
