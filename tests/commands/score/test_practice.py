"""Inputs from practice, as they are kept beside the repository: what is right is said in their README."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.readers.annotations import load_for_evaluation
from benchmarks.suspicions import find_in_annotations
from harness.commands.app import main
from harness.images import read_rgb
from harness.report.renderers import text
from harness.report.results import load
from harness.run import runner
from harness.run.context import open_context
from harness.run.identity import ChangedWarning
from tests.support import small

Shared = Callable[[str], Path]


@pytest.mark.parametrize("case", ["annotation-id-0", "byte-order-mark"])
@pytest.mark.parametrize("diagnostics", ["--diagnostics", "--no-diagnostics"])
def test_files_from_other_tools_are_evaluated(
    tmp_path: Path, shared: Shared, monkeypatch: pytest.MonkeyPatch, case: str, diagnostics: str
) -> None:
    folder, output = shared(f"cases/{case}"), tmp_path / "metrics.json"
    files = ["--annotations", str(folder / "gt.json"), "--detections", str(folder / "dt.json")]
    options = ["--protocol", "coco", diagnostics, "--output", str(output), "--quiet"]
    monkeypatch.setattr(sys, "argv", ["detmodes", "evaluate", *files, *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert json.loads(output.read_text())["metrics"]["AP"] == pytest.approx(0.9505, abs=5e-5)


@pytest.mark.parametrize("name", ["p16.pgm", "i16.png", "i32.tif"])
def test_grey_of_16_bits_is_the_same_gradient_however_it_is_stored(shared: Shared, name: str) -> None:
    pixels = np.asarray(read_rgb(shared(f"cases/grey-16-bit/{name}")))
    assert pixels.mean() == pytest.approx(127.5, abs=0.01)
    assert (pixels.min(), pixels.max()) == (0, 255)


LIMIT = "9007199254740991 (beyond 2^53 not every program reads the same integer)"


def evaluate_with_ids(folder: Path, case: Path, change: Callable[[int], object]) -> None:
    """`evaluate` of the case with other image ids in both files."""
    for name in ("gt", "dt"):
        content = json.loads((case / f"{name}.json").read_text())
        rows = content if name == "dt" else content["annotations"]
        for row in rows:
            row["image_id"] = change(row["image_id"])
        for image in [] if name == "dt" else content["images"]:
            image["id"] = change(image["id"])
        (folder / f"{name}.json").write_text(json.dumps(content))
    main()


@pytest.mark.parametrize("diagnostics", ["--diagnostics", "--no-diagnostics"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda k: 2**53 - 100 + k, ""),
        (lambda k: 2**53 + k, f"at most {LIMIT}, got 9007"),
        (lambda k: 2**63 + k, f"at most {LIMIT}, got 9223"),
        (lambda k: f"frame-{k}", 'images[0].id: expected an integer of at least 0, got "frame-'),
    ],
)
def test_large_and_textual_ids_are_read_or_told_the_limit(
    tmp_path: Path,
    shared: Shared,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[int], object],
    told: str,
    diagnostics: str,
) -> None:
    files = ["--annotations", str(tmp_path / "gt.json"), "--detections", str(tmp_path / "dt.json")]
    options = ["--protocol", "coco", diagnostics, "--output", str(tmp_path / "metrics.json"), "--quiet"]
    monkeypatch.setattr(sys, "argv", ["detmodes", "evaluate", *files, *options])
    with pytest.raises(SystemExit) as end:
        evaluate_with_ids(tmp_path, shared("cases/annotation-id-0"), change)
    assert end.value.code == (2 if told else 0)
    assert told in capsys.readouterr().err
    if not told:
        assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["AP"] == pytest.approx(0.9505, abs=5e-5)


def own_set(case: Path, shared: Shared, folder: Path) -> Path:
    """A data folder with a case's annotations for both splits, and the pictures that they are about."""
    folder.mkdir()
    for split in ("train", "val"):
        shutil.copyfile(case / "train.json", folder / f"{split}.json")
    (folder / "images").mkdir()
    for picture in json.loads((case / "train.json").read_text())["images"]:
        name = picture["file_name"].replace("\\", "/").rpartition("/")[2]
        shutil.copyfile(shared("data/coco128-lvis/images") / name, folder / "images" / name)
    return folder


def test_an_own_set_with_pictures_where_the_tool_put_them_is_run(
    tmp_path: Path, shared: Shared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And where one is missing, nobody is sent to COCO for it."""
    case = shared("cases/own-coco-set")
    data = own_set(case, shared, tmp_path / "data")
    arguments = ["run", str(case / "suite.yaml"), "--data", str(data), "--dry-run", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["detmodes", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    (data / "images" / "000000000025.jpg").unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "000000000025.jpg (1 of 6 missing)" in told.replace("\n", "")
    assert "cocodataset" not in told


def test_a_box_without_area_is_no_target_and_is_counted_in_the_record(tmp_path: Path, shared: Shared) -> None:
    data = own_set(shared("cases/zero-area-box"), shared, tmp_path / "data")
    files = {"name": "coco", "train": "train.json", "val": "val.json", "images": "images"}
    suite = small.mini_suite(
        benchmark=files,
        objectives=["ce"],
        train={"steps": 1, "batch_size": 2, "warm_up": 0},
        sample={"samples": 2, "max_tokens": 4},
    )
    records = {record.label: record for record in runner.run(open_context(suite, data, "cpu"), tmp_path / "out")}
    assert {record.status for record in records.values()} == {"finished"}
    assert records["ce"].unwritable_objects is not None
    assert records["ce"].unwritable_objects["objects"] >= 1
    for oracle in ("oracle-uniform", "oracle-collapsed"):
        assert records[oracle].evaluations[-1].diversity["malformed_rate"] == 0
    assert "objects of" in " ".join(line for line in text.caption(load(tmp_path / "out")) if "No targets of" in line)
    annotations = load_for_evaluation(data / "train.json", "coco")
    assert any("1 of 25 boxes have no area" in str(suspicion) for suspicion in find_in_annotations(annotations))


def test_pictures_that_change_in_place_are_not_cached(tmp_path: Path, shared: Shared) -> None:
    data = own_set(shared("cases/own-coco-set"), shared, tmp_path / "data")
    files = {"name": "coco", "train": "train.json", "val": "val.json", "images": "images"}
    suite = small.mini_suite(benchmark=files, objectives=["ce"])
    run = partial(runner.run, output=tmp_path / "out", only="oracle-collapsed-*")
    (first,) = run(open_context(suite, data, "cpu"))
    (same,) = run(open_context(suite, data, "cpu"))
    assert same.digest == first.digest
    for path in (data / "images").iterdir():
        Image.open(path).convert("L").convert("RGB").save(path)
    with pytest.warns(ChangedWarning, match=r"the pictures of train, val changed since .* it is computed again"):
        (again,) = run(open_context(suite, data, "cpu"))
    assert again.digest != first.digest
    assert len(list((tmp_path / "out" / "cells").glob("oracle-collapsed-*"))) == 2
