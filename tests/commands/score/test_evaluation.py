"""`detmodes evaluate` as a user sees it: files, tables, one line for what is wrong. In-process, through `main`."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from harness.commands.app import main
from harness.commands.score import evaluate as evaluation
from harness.commands.score import reliability_plot
from harness.commands.score.documents import write_csv
from harness.metrics.diagnosis.calibration import reliability
from tests.benchmarks.documents import annotation, category, coco_category, coco_image, document, image, result, write

Shared = Callable[[str], Path]
CAT, OTHER_CAT, DOG = (10, 10, 100, 100), (200, 10, 100, 100), (10, 200, 100, 100)
KEYS = ["protocol", "engine", "metrics", "per_category", "intervals", "errors", "generative", "warnings", "versions"]


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Folder:
    """A folder with annotations, detections and others, and the command run on them."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self._patch, self._capsys = path, monkeypatch, capsys
        objects = [annotation(1, 1, 1, *CAT), annotation(2, 1, 1, *OTHER_CAT), annotation(3, 2, 2, *DOG)]
        names = ("cat", "[red]dog", "cow")
        categories = [category(k, name) for k, name in enumerate(names, start=1)]
        images = [image(k) for k in (1, 2, 3)]
        coco = [coco_image(k) for k in (1, 2, 3)], objects, [coco_category(k, n) for k, n in enumerate(names, start=1)]
        write(path / "lvis.json", document(images, objects, categories))
        write(path / "coco.json", document(*coco))
        write(path / "dt.json", [result(1, 1, 0.9, *CAT), result(1, 1, 0.8, *DOG), result(2, 1, 0.3, *DOG)])
        write(path / "other.json", [result(1, 1, 0.9, *CAT), result(1, 1, 0.8, *OTHER_CAT)])

    def evaluate(self, *flags: str, protocol: str = "lvis", detections: str = "dt.json") -> Done:
        truth = "coco.json" if protocol == "coco" else "lvis.json"
        return self.run("--annotations", truth, "--detections", detections, "--protocol", protocol, *flags)

    def run(self, *flags: str) -> Done:
        self._patch.setattr(sys, "argv", ["detmodes", "evaluate", *flags])
        self._capsys.readouterr()
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        else:
            code = 0
        printed = self._capsys.readouterr()
        return Done(code, printed.out, printed.err)

    def files(self) -> set[str]:
        return {str(path.relative_to(self.path)) for path in self.path.rglob("*")}

    def json(self, name: str) -> dict[str, Any]:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        document: dict[str, Any] = json.loads((self.path / name).read_text(), parse_constant=refuse)
        return document


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Folder:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Folder(tmp_path, monkeypatch, capsys)


# ---- results -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["fast", "lvis"])
def test_real_annotations_give_the_official_figures(folder: Folder, shared: Shared, engine: str) -> None:
    truth, detections = shared("data/lvis_val_100.json"), shared("golden/lvis_val_100/detections.json")
    expected = json.loads(shared("golden/lvis_val_100/expected.json").read_text())
    flags = ("--engine", engine, "--no-diagnostics", "--output", "out.json")
    assert folder.run("--annotations", str(truth), "--detections", str(detections), *flags).code == 0
    document = folder.json("out.json")
    assert document["metrics"] == {k: pytest.approx(v, abs=1e-9) for k, v in expected["metrics"].items()}
    ap = {c: row["AP"] for c, row in document["per_category"].items() if row["AP"] is not None}
    assert ap == {c: pytest.approx(v, abs=1e-9) for c, v in expected["per_category_AP"].items()}
    annotations = json.loads(truth.read_text())["annotations"]
    assert sum(row["instances"] for row in document["per_category"].values()) == len(annotations)


def test_the_document_holds_everything_and_null_where_undefined(folder: Folder) -> None:
    done = folder.evaluate("--output", "out.json")
    assert (done.code, done.err) == (0, "")
    document = folder.json("out.json")
    assert list(document) == KEYS
    assert (document["protocol"], document["engine"], document["intervals"]) == ("lvis", "fast", {})
    # Cats: one of two found, first: 51 of 101 recall thresholds. Dogs 0. There are no cows, and no rare categories.
    ap = pytest.approx(51 / 101)
    row = {"frequency": "f", "AP": ap, "instances": 2, "images": 1, "detections": 3}
    assert document["per_category"]["1"] == {"name": "cat", **row}
    assert document["per_category"]["2"]["AP"] == 0.0
    assert document["per_category"]["3"]["AP"] is None
    assert document["metrics"]["AP"] == pytest.approx(51 / 101 / 2)
    assert document["metrics"]["APr"] is None
    assert document["errors"]["missed"]["count"] == 2  # a cat and a dog; nobody looked for cats in the second image
    assert document["generative"]["never_predicted"] == {"share": 0.5, "count": 1, "categories": 2}
    assert set(document["versions"]) >= {"detmodes", "python", "hotcoco", "numpy"}


@pytest.mark.parametrize("protocol", ["lvis", "lvis-fixed", "coco"])
def test_every_protocol_goes_all_the_way(folder: Folder, protocol: str) -> None:
    flags = ("--bootstrap", "20", "--compare", "other.json", "--output", "out.json", "--plots", "plots")
    done = folder.evaluate(*flags, protocol=protocol)
    assert (done.code, done.err) == (0, "")
    document = folder.json("out.json")
    assert list(document) == [*KEYS[:-1], "compare", "versions"]
    assert document["protocol"] == protocol
    assert {"AP", "AP50", "APl"} <= set(document["intervals"]) <= set(document["metrics"])
    assert set(document["compare"]) == {"metrics", "difference", "intervals"}


def test_references_are_engines_too(folder: Folder) -> None:
    for protocol, reference in (("lvis", "lvis"), ("coco", "pycocotools")):
        outputs = []
        for engine in ("fast", reference):
            assert folder.evaluate("--engine", engine, "--output", "out.json", protocol=protocol).code == 0
            outputs.append(folder.json("out.json"))
        assert [output["engine"] for output in outputs] == ["fast", reference]
        assert outputs[0]["metrics"] == pytest.approx(outputs[1]["metrics"], abs=1e-9)


def test_intervals_are_about_the_figures(folder: Folder) -> None:
    folder.evaluate("--bootstrap", "50", "--output", "out.json", "--no-diagnostics")
    document = folder.json("out.json")
    low, high = document["intervals"]["AP"]["low"], document["intervals"]["AP"]["high"]
    assert low < document["metrics"]["AP"] < high
    assert document["intervals"]["APr"] == {"low": None, "high": None}
    folder.evaluate("--bootstrap", "60", "--output", "out.json", "--no-diagnostics")
    assert folder.json("out.json")["intervals"]["AP"] != {"low": low, "high": high}


def test_compare_is_the_first_minus_the_other(folder: Folder) -> None:
    folder.evaluate("--compare", "other.json", "--bootstrap", "50", "--output", "out.json", "--no-diagnostics")
    document = folder.json("out.json")
    compare = document["compare"]
    assert compare["metrics"]["AP"] == pytest.approx(0.5)  # both cats, no dog
    assert compare["difference"]["AP"] == document["metrics"]["AP"] - compare["metrics"]["AP"] < 0
    assert compare["difference"]["APr"] is None
    assert compare["intervals"]["AP"]["low"] < compare["difference"]["AP"]
    folder.evaluate("--compare", "dt.json", "--bootstrap", "50", "--output", "out.json", "--no-diagnostics")
    assert folder.json("out.json")["compare"]["intervals"]["AP"] == {"low": 0.0, "high": 0.0}


def test_without_diagnostics_there_are_none(folder: Folder) -> None:
    done = folder.evaluate("--no-diagnostics", "--output", "out.json")
    document = folder.json("out.json")
    assert (document["errors"], document["generative"]) == ({}, {})
    assert "never predicted" not in done.out


def test_no_detections_are_valid(folder: Folder) -> None:
    write(folder.path / "none.json", [])
    done = folder.evaluate("--output", "out.json", detections="none.json")
    assert done.code == 0
    document = folder.json("out.json")
    assert [row["AP"] for row in document["per_category"].values()] == [0.0, 0.0, None]
    assert document["generative"]["calibration"]["ece"] is None
    assert document["errors"]["missed"] == {"count": 3, "dAP50": None}


def test_the_table_by_category(folder: Folder) -> None:
    assert folder.evaluate("--per-category", "table.csv", "--no-diagnostics").code == 0
    rows = list(csv.DictReader((folder.path / "table.csv").read_text().splitlines()))
    assert list(rows[0]) == ["id", *evaluation.COLUMNS]
    assert [row["name"] for row in rows] == ["cat", "[red]dog", "cow"]
    assert float(rows[0]["AP"]) == pytest.approx(51 / 101)
    assert [row["AP"] for row in rows[1:]] == ["0.0", ""]
    assert [row["instances"] for row in rows] == ["2", "1", "0"]


# ---- the screen --------------------------------------------------------------------------------------------------


def test_the_screen_shows_what_the_document_holds(folder: Folder) -> None:
    out = folder.evaluate("--bootstrap", "20", "--compare", "other.json").out
    lines = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert f"{51 / 101 / 2:.4f}" in lines["AP"]
    assert "[" in lines["AP"]
    assert f"{51 / 101 / 2 - 0.5:+.4f}" in lines["AP"]
    assert lines["APr"].count(" - ") == 5  # value, interval, other, difference, interval
    assert "1 of 2 annotated categories" in lines["never predicted"]
    assert lines["missed"].split("│")[2].strip() == "2"
    for name in ("lvis.json", "dt.json", "other.json"):
        assert name in out


def test_progress_is_for_those_who_want_it(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    assert "evaluating" in folder.evaluate("--no-diagnostics").err
    assert folder.evaluate("--no-diagnostics", "--quiet").err == ""


# ---- the plot ----------------------------------------------------------------------------------------------------


def test_plots_are_the_same_files_every_time(folder: Folder) -> None:
    contents = []
    for name in ("a", "b"):
        folder.evaluate("--plots", f"deep/{name}")
        contents.append([path.read_bytes() for path in reliability_plot.paths(folder.path / "deep" / name)])
    assert contents[0] == contents[1]
    with Image.open(folder.path / "deep/a/reliability.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert b"<svg" in contents[0][1]


def test_no_diagram_without_probabilities(folder: Folder) -> None:
    write(folder.path / "logits.json", [result(1, 1, 3.5, *CAT)])
    done = folder.evaluate("--plots", "plots", detections="logits.json")
    assert done.code == 0
    assert done.err.endswith("detmodes: no reliability diagram: scores from 3.5 to 3.5 are no probabilities\n")
    assert "plots" not in folder.files()


def test_a_diagram_of_one_bin(tmp_path: Path) -> None:
    drawn = reliability_plot.reliability_diagram(reliability(np.ones(3), np.array([True, False, True])), tmp_path)
    assert [path.suffix for path in drawn] == [".png", ".svg"]
    assert {path.name for path in tmp_path.iterdir()} == {"reliability.png", "reliability.svg"}


# ---- what is wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "pycocotools"], "engine 'pycocotools' does not know the protocol 'lvis'; available: fast, lvis"),
        (["--output", "nowhere/out.json"], "--output nowhere/out.json: expected a file in a folder that exists"),
        (["--output", "."], "--output .: expected a file, this is a folder"),
        (["--output", "dt.json"], "--output dt.json: is also an input"),
        (["--output", "./lvis.json"], "--output lvis.json: is also an input"),
        (["--output", "x", "--per-category", "x"], "--per-category x: is also --output"),
        (["--plots", "dt.json"], "--plots dt.json: expected a folder that can be written"),
        (["--plots", "dt.json/deep"], "--plots dt.json/deep: expected a folder that can be written"),
        (["--plots", "p", "--no-diagnostics"], "--no-diagnostics leaves out"),
        (["--compare", "missing.json"], "missing.json"),
        (
            ["--compare", "http://h/dt.json"],
            "http://h/dt.json: expected a file on this machine, a URL is not",
        ),
        (["--output", "s3://b/o.json"], "--output s3://b/o.json: expected a file on this machine, nothing is written"),
        (
            ["--compare", "strange.json"],
            "strange.json: detections[0]: expected the id of an evaluated image, got image",
        ),
        (["--compare", "lvis.json"], "lvis.json: top level: expected a list of detections"),
        (["--protocol", "coco"], "lvis.json: images[0]"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(folder: Folder, flags: list[str], message: str) -> None:
    write(folder.path / "strange.json", [result(99, 1, 0.5, *CAT)])
    before = folder.files()
    wanted = [] if "--output" in flags or "--plots" in flags else ["--output", "o.json", "--per-category", "c.csv"]
    done = folder.run("--annotations", "lvis.json", "--detections", "dt.json", *flags, *wanted)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert folder.files() == before


def test_every_mistake_is_told_at_once(folder: Folder) -> None:
    done = folder.evaluate("--engine", "pycocotools", "--output", ".", "--per-category", "no/x.csv")
    assert done.code == 2
    assert len(done.err.splitlines()) == 3


def test_a_folder_that_is_read_only_is_refused_first(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)  # the tests may run as root
    done = folder.evaluate("--output", "out.json")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "can be written" in done.err


def test_nothing_is_written_when_the_last_step_fails(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folder.files()
    monkeypatch.setattr(evaluation, "write_csv", lambda columns, rows: 1 / 0)
    done = folder.evaluate("--output", "out.json", "--per-category", "table.csv", "--no-diagnostics")
    assert done.code == 70
    assert "ZeroDivisionError" in done.err
    assert folder.files() == before


def test_a_spreadsheet_computes_no_text_of_the_tables() -> None:
    rows = [{"name": name, "AP": value} for name, value in (("=1+1", -0.5), ("@x", 0.0), ("cat", None))]
    assert write_csv(("name", "AP"), rows) == "name,AP\n'=1+1,-0.5\n'@x,0.0\ncat,\n"
