"""What is most likely a mistake is named with its count, and ordinary data are not suspected of anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import suspicions
from benchmarks.evaluators import fast
from benchmarks.lvis import Lvis
from benchmarks.readers import detections as detection_files
from benchmarks.readers.annotations import load_for_evaluation
from benchmarks.suspicions import SuspiciousDataWarning, find_in_annotations, find_in_detections
from tests.benchmarks.documents import Document, annotation, category, document, image, loaded, result, write

SIDE = (640, 480)


def plain() -> Document:
    """Two images with an object each."""
    images = [image(1, neg_category_ids=[2]), image(2, not_exhaustive_category_ids=[1])]
    objects = [annotation(1, 1, 1, 10, 10, 100, 50), annotation(2, 2, 1, 500, 400, 140, 80)]
    return document(images, objects, [category(1, "cat"), category(2, "dog")])


def changed(where: str, index: int, **fields: Any) -> Document:
    content = plain()
    content[where][index] |= fields
    return content


ODD = {
    "absent and annotated": (
        changed("images", 0, neg_category_ids=[1, 2]),
        "1 categories are annotated in an image and verified to be absent from it (first: category 1 of image 1)",
    ),
    "absent and not exhaustive": (
        changed("images", 0, not_exhaustive_category_ids=[2]),
        "1 categories are verified to be absent from an image and not annotated exhaustively in it "
        "(first: category 2 of image 1)",
    ),
    "wholly outside": (
        changed("annotations", 1, bbox=[640, 10, 20, 20], area=400),
        "1 of 2 boxes lie wholly outside their image (first: annotation 2 of image 2)",
    ),
    "left of it": (
        changed("annotations", 1, bbox=[-30, 10, 20, 20], area=400),
        "1 of 2 boxes lie wholly outside their image (first: annotation 2 of image 2)",
    ),
    "no area": (
        changed("annotations", 0, bbox=[10, 10, 20, 0], area=7),
        "1 of 2 boxes have no area (first: annotation 1 of image 1)",
    ),
    "far larger": (
        changed("annotations", 0, bbox=[0, 0, 6400, 4800], area=5),
        "1 of 2 boxes are far larger than their image (first: annotation 1 of image 1)",
    ),
    "area": (
        changed("annotations", 0, area=6000),
        "1 of 2 areas are larger than their box (first: annotation 1 of image 1)",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_annotations_are_named_with_their_count(tmp_path: Path, name: str) -> None:
    content, expected = ODD[name]
    assert list(map(str, find_in_annotations(loaded(tmp_path, content)))) == [expected]
    rows = write(tmp_path / "rows.json", [result(1, 1, 0.5, 10, 10, 100, 50)])
    evaluated = fast.evaluate_files(tmp_path / "annotations.json", lambda: detection_files.load_table(rows), "lvis")
    assert list(map(str, evaluated.suspicions)) == [expected]


@pytest.mark.parametrize("name", ODD)
def test_a_run_is_warned_of_what_published_files_do_not_have(tmp_path: Path, name: str) -> None:
    content, expected = ODD[name]
    write(tmp_path / "train.json", plain())
    write(tmp_path / "val.json", content)
    if name in ("no area", "area"):
        Lvis({}, tmp_path)  # a warning would be an error
        return
    with pytest.warns(SuspiciousDataWarning, match=rf"val\.json: {re.escape(expected)}; see detmodes check-data"):
        Lvis({}, tmp_path)


def test_plain_annotations_are_not_suspected(tmp_path: Path, shared: Callable[[str], Path]) -> None:
    assert find_in_annotations(loaded(tmp_path, plain())) == []
    assert find_in_annotations(load_for_evaluation(shared("data/coco128-lvis/val.json"))) == []


def test_two_images_with_one_file_are_named(tmp_path: Path) -> None:
    content = changed("images", 1, file_name="1.jpg")
    assert list(map(str, find_in_annotations(loaded(tmp_path, content)))) == [
        "1 of 1 files are the picture of several images (first: 1.jpg)"
    ]


def boxes(seed: int = 0, count: int = 300) -> Any:
    """Boxes inside of images of SIDE."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(10, 200, (count, 2))
    return np.concatenate([rng.uniform(0, 1, (count, 2)) * (SIDE - sides), sides], axis=1)


def corners() -> Any:
    made = boxes()
    return np.concatenate([made[:, :2], made[:, :2] + made[:, 2:]], axis=1)


def rows_of(corners: Any, score: float = 0.5, times: int = 1) -> list[Document]:
    return [result(1 + k % 2, 1, score - k / 1e4, *box) for k, box in enumerate(corners.tolist())] * times


CASES: dict[str, tuple[list[Document], str]] = {
    "good": (rows_of(boxes()), ""),
    "corners": (rows_of(corners()), r"\d+ of 300 boxes stick out .* none of them as x0, y0, x1, y1"),
    "shares": (rows_of(boxes() / (*SIDE, *SIDE)), "300 of 300 boxes lie between 0 and 1: pixels are expected"),
    "thousandths": (rows_of(boxes() / (*SIDE, *SIDE) * 1000), r"\d+ of 300 boxes stick out .*none beyond 1000"),
    "logits": (rows_of(boxes(), score=5), r"300 of 300 scores lie outside \[0, 1\]"),
    "twice": (rows_of(boxes(), times=2), "300 of 600 detections are there twice"),
    "twice in turn": ([row for row in rows_of(boxes()) for _ in "ab"], "300 of 600 detections are there twice"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sample", [suspicions.SAMPLE, 200])
def test_what_is_odd_about_detections_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sample: int
) -> None:
    for module in (suspicions, fast):
        monkeypatch.setattr(module, "SAMPLE", sample)
        monkeypatch.setattr(module, "RUN", 20)
    rows, expected = CASES[name]
    truth, table = loaded(tmp_path, plain()), write(tmp_path / "rows.json", rows)
    careful = find_in_detections(detection_files.load(table), truth)
    short = fast.evaluate_files(truth.path, lambda: detection_files.load_table(table), "lvis").suspicions
    for noticed in (careful, short):
        if not expected:
            assert not noticed
        else:
            assert len(noticed) == 1
            assert re.match(expected if sample > 600 or name == "twice" else r"\d+ of \d+ ", str(noticed[0])), noticed


def test_no_detections_are_not_suspected(tmp_path: Path) -> None:
    truth, table = loaded(tmp_path, plain()), write(tmp_path / "rows.json", [])
    assert find_in_detections(detection_files.load(table), truth) == []
    assert fast.evaluate_files(truth.path, lambda: detection_files.load_table(table), "lvis").suspicions == ()
