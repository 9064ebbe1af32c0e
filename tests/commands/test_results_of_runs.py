"""Reports, publication and measures on the command line, of runs that never ran and of files of samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.benchmarks.documents import annotation, category, document, image, write
from tests.commands.command_line import Invoke, assert_one_problem
from tests.support import fake_cells


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_cells.write_run(tmp_path_factory.mktemp("simulated") / "run", fake_cells.suite())


@pytest.mark.parametrize(
    ("kind", "begin", "end"),
    [
        ("md", "### Detection", "\n"),
        ("latex", "\\documentclass", "\\end{document}\n"),
        ("csv", "model,row,step,figure", "\n"),
        ("html", "<!doctype html>", "</html>\n"),
    ],
)
def test_report_writes_the_format_to_stdout(invoke: Invoke, simulated: Path, kind: str, begin: str, end: str) -> None:
    done = invoke("report", simulated, "--format", kind)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(begin)
    assert done.out.endswith(end)


def test_report_shows_categories_and_draws(invoke: Invoke, simulated: Path) -> None:
    done = invoke("report", simulated, "--full", "--figures", "drawn")
    assert done.code == 0
    assert "Per category: AP" in done.out
    assert {path.suffix for path in Path("drawn").iterdir()} == {".png", ".svg"}
    assert {str(path) for path in Path("drawn").iterdir()} == set(done.err.split())


def test_publish_says_what_it_leaves_out(invoke: Invoke, simulated: Path) -> None:
    pictures = simulated / "gallery"
    pictures.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4)).save(pictures / "100.png")
    shown = {"image_id": 100, "file": "100.png", "width": 96, "height": 96, "instances": []}
    (pictures / "index.json").write_text(json.dumps({"pictures": [shown]}))
    done = invoke("publish", simulated, "--to", "published")
    assert done.code == 0
    assert "pictures" in done.out + done.err
    assert not Path("published/gallery").exists()
    assert Path("published/table.csv").is_file()


SAMPLED = [
    {"image_id": 1, "sample": sample, "mentions": [{"name": name, "bbox": [0, 0, 10, 10], "score": 0.5}]}
    for sample, name in enumerate(("sofa", "couch"))
]


def ground_truth(folder: Path) -> Path:
    objects = [annotation(1, 1, 1, 0, 0, 10, 10)]
    return write(folder / "gt.json", document([image(1)], objects, [category(1, "sofa", "sofa", "couch")]))


def sampled(folder: Path, *changes: dict[str, Any]) -> Path:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*SAMPLED, *changes]))
    return path


def test_measure_prints_and_writes(invoke: Invoke, tmp_path: Path) -> None:
    files = ("--output", "all.json", "--per-category", "c.csv", "--per-image", "i.csv", "--bootstrap", "10")
    done = invoke("measure", sampled(tmp_path), "--annotations", ground_truth(tmp_path), *files, "--quiet")
    assert (done.code, done.err) == (0, "")
    # Two samples of one object, two names of two: every pair differs, 1 / (1 - 1/2).
    (row,) = json.loads(Path("all.json").read_text())["temperatures"]
    assert row["figures"]["normalised_name_diversity"] == 2.0
    assert row["figures"]["recall"] == 1.0
    assert "recall" in done.out
    assert Path("c.csv").read_text().startswith("temperature,id,name")
    assert Path("i.csv").read_text().startswith("temperature,image_id")


def test_measure_refuses_in_one_line(invoke: Invoke, tmp_path: Path) -> None:
    truth = ground_truth(tmp_path)
    stranger = {"image_id": 7, "sample": 0, "mentions": []}
    assert_one_problem(invoke("measure", sampled(tmp_path, stranger), "--annotations", truth), "samples.jsonl", "7")
    third = {"image_id": 1, "sample": 1, "mentions": []}
    assert_one_problem(invoke("measure", sampled(tmp_path, third), "--annotations", truth), "samples.jsonl", "line 3")
    assert_one_problem(invoke("measure", "nowhere.jsonl", "--annotations", truth), "nowhere.jsonl")
