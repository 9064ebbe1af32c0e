"""`detmodes.evaluate` and `detmodes.measure` give what their verbs write, of files and of what is in memory alike."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import detmodes
from harness.commands.score import evaluate as evaluate_verb
from harness.commands.score import measure as measure_verb

TRUTH: dict[str, Any] = {
    "images": [{"id": image, "width": 64, "height": 64, "file_name": f"{image}.png"} for image in (1, 2)],
    "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "box"}],
    "annotations": [
        {"id": 2 * image + c, "image_id": image, "category_id": c, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
        for image in (1, 2)
        for c in (1, 2)
    ],
}
DETECTIONS: list[dict[str, Any]] = [
    {"image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "score": 0.9},
    {"image_id": 2, "category_id": 1, "bbox": [40, 40, 20, 20], "score": 0.8},
    {"image_id": 2, "category_id": 2, "bbox": [5, 4, 20, 20], "score": 0.3},
]
SAMPLES = [
    {
        "image_id": image,
        "sample": sample,
        "temperature": float(sample > 0),
        "mentions": [
            {"name": name, "bbox": [4, 4, 20, 20], "score": 0.5} for name in ("disc", "box")[: 1 + sample % 2]
        ],
    }
    for image in (1, 2)
    for sample in range(4)
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    (tmp_path / "detections.json").write_text(json.dumps(DETECTIONS))
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SAMPLES))
    return tmp_path


@pytest.mark.parametrize("diagnostics", [False, True])
def test_evaluate_gives_what_the_verb_writes(diagnostics: bool, place: Path) -> None:
    truth, detections = place / "truth.json", place / "detections.json"
    options = {"annotations": truth, "protocol": "coco", "bootstrap": 10, "diagnose": diagnostics}
    evaluate_verb.command(True, **options, detections=detections, compare=detections, output=place / "out.json")
    result = detmodes.evaluate(
        truth, str(detections), "coco", bootstrap=10, compare=detections, diagnostics=diagnostics
    )
    assert result == json.loads((place / "out.json").read_text())


def test_rows_in_memory_are_as_good_as_files(place: Path) -> None:
    """By hand: the disc of one image of two is found (recall 1/2: precision 1 at 51 of 101 recalls), the box of one of
    two at IoU 19/21."""
    of_files = detmodes.evaluate(place / "truth.json", place / "detections.json", "coco")
    boxes = np.array([row["bbox"] for row in DETECTIONS])
    rows = [{**row, "bbox": box, "score": np.float64(row["score"])} for row, box in zip(DETECTIONS, boxes, strict=True)]
    columns = pd.DataFrame([{key: row[key] for key in ("image_id", "category_id", "score")} for row in DETECTIONS])
    columns[["x", "y", "w", "h"]] = boxes.astype(float)
    for given in (DETECTIONS, rows, columns):
        assert detmodes.evaluate(TRUTH, given, "coco") == of_files
    assert of_files["metrics"]["AP50"] == pytest.approx(51 / 101)
    assert of_files["per_category"]["1"]["AP"] == pytest.approx(51 / 101)


def test_measure_gives_what_the_verb_writes(place: Path) -> None:
    truth, samples = place / "truth.json", place / "samples.jsonl"
    options = {"annotations": truth, "samples": samples, "protocol": "coco", "bootstrap": 10, "temperature": 1.0}
    measure_verb.command(True, **options, output=place / "out.json", per_image=place / "images.csv")
    result = detmodes.measure(str(samples), truth, "coco", bootstrap=10, temperature=1.0)
    images = result.pop("images")
    assert result == json.loads((place / "out.json").read_text())
    frame = pd.read_csv(place / "images.csv")
    assert pd.DataFrame(images)["mentions"].tolist() == frame["mentions"].tolist()


def test_samples_in_memory_are_as_good_as_a_file(place: Path) -> None:
    of_files = detmodes.measure(place / "samples.jsonl", place / "truth.json", "coco")
    result = detmodes.measure(SAMPLES, TRUTH, "coco")
    assert result["temperatures"] == of_files["temperatures"]
    assert result["samples"]["path"] == "samples.jsonl"
    assert result["annotations"]["path"] == "annotations.json"
    # By hand: three samples of each image; all find the disc, two the box: 5 of 6 pairs of an object and a sample.
    assert result["temperatures"][0]["figures"]["recall"] == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("annotations", "detections", "protocol", "problem"),
    [
        (TRUTH, [{**DETECTIONS[0], "bbox": [1, 2, 3]}], "coco", r"^detections\.json: detections\[0\]\.bbox"),
        (
            TRUTH,
            [{**DETECTIONS[0], "image_id": 9}],
            "coco",
            r"^detections\.json: detections\[0\]: .* an evaluated",
        ),
        ({**TRUTH, "images": 3}, DETECTIONS, "coco", r"^annotations\.json: "),
        (TRUTH, 3, "coco", "^detections: expected a path, a list of dicts, or a pandas DataFrame, got int"),
        (3, DETECTIONS, "coco", "^annotations: expected a path, or a mapping"),
        (TRUTH, [{**DETECTIONS[0], "mask": object()}], "coco", "^expected JSON values, got object"),
        (TRUTH, DETECTIONS, "cocoa", "^unknown protocol 'cocoa', did you mean 'coco'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(annotations: Any, detections: Any, protocol: Any, problem: str) -> None:
    with pytest.raises(detmodes.DetmodesError, match=problem):
        detmodes.evaluate(annotations, detections, protocol)


def test_what_is_wrong_with_samples_is_said_in_one_line() -> None:
    with pytest.raises(detmodes.DataError, match=r"^samples\.jsonl: line 2"):
        detmodes.measure([SAMPLES[0], {**SAMPLES[1], "image_id": -1}], TRUTH, "coco")
    with pytest.raises(detmodes.ConfigError, match="unknown protocol 'lvis-fixed'"):
        detmodes.measure(SAMPLES, TRUTH, "lvis-fixed")
    with pytest.raises(detmodes.DataError, match=r"^samples: expected a path, or a list of dicts, got dict"):
        detmodes.measure({}, TRUTH, "coco")  # type: ignore[arg-type]


def test_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    detmodes.measure(SAMPLES, TRUTH, "coco")
    with pytest.raises(detmodes.DataError):
        detmodes.evaluate(TRUTH, [{}], "coco")
    assert list(tmp_path.iterdir()) == []
    assert not re.search("tmp", json.dumps(detmodes.evaluate(TRUTH, DETECTIONS, "coco")))
