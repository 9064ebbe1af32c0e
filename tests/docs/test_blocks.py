"""Every shell and Python block of the documentation is executed, but for those that say why they are not."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.benchmarks.documents import annotation, category, coco_category, coco_image, document, image, result, write
from tests.docs.blocks import MARKS, PUBLISHED, ROOT, Reader, blocks
from tests.docs.test_pages import PAGES

QUICK = {"README.md", "docs/howto/evaluate.md", "docs/howto/measure.md"}
"""Pages whose blocks take seconds."""
NOT_TRIED = 19
"""Blocks that need what a test has not."""
EXECUTED = [
    pytest.param(page, id=name, marks=[] if name in QUICK else [pytest.mark.slow])
    for page in PAGES
    if any(block.language in ("sh", "python") and block.mark in ("", "fails") for block in blocks(page))
    for name in [str(page.relative_to(ROOT))]
]
BOXES = ((10, 10, 100, 100), (200, 10, 100, 100), (10, 200, 100, 100))


def test_what_is_not_executed_says_why() -> None:
    marks = Counter(block.mark for page in PAGES for block in blocks(page) if block.language in ("sh", "python"))
    for mark in marks:
        assert (
            not mark or mark in MARKS or (mark.startswith(PUBLISHED) and (ROOT / mark.removeprefix(PUBLISHED)).is_dir())
        )
    assert sum(count for mark, count in marks.items() if mark.startswith("not tried")) == NOT_TRIED


@pytest.mark.parametrize("page", EXECUTED)
def test_a_page_works_as_written(page: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    write_files_of_a_user(reader.folder)
    for block in blocks(page):
        reader.follow(block)


def write_files_of_a_user(folder: Path) -> None:
    """What a reader has whose own files the pages name: annotations, detections, samples, pictures, a finished run."""
    objects = [annotation(number, number, number, *box) for number, box in enumerate(BOXES, start=1)]
    names = ("sofa", "lamp", "dog")
    lvis = document(
        [image(k) for k in (1, 2, 3)], objects, [category(k, name) for k, name in enumerate(names, start=1)]
    )
    images = [{**coco_image(k), "file_name": f"{k}.png"} for k in (1, 2, 3)]
    coco = document(images, objects, [coco_category(k, name) for k, name in enumerate(names, start=1)])
    detections = [result(k, k, 0.9, *box) for k, box in enumerate(BOXES, start=1)]
    write(folder / "lvis_v1_val.json", lvis)
    write(folder / "instances_val2017.json", coco)
    for name in ("mine.json", "a.json", "b.json"):
        write(folder / name, detections)
    rows = [{**row, **dict(zip("xywh", row["bbox"], strict=True))} for row in detections]
    pd.DataFrame(rows).drop(columns="bbox").to_parquet(folder / "mine.parquet")
    mentions = [[{"name": names[k - 1], "bbox": list(BOXES[k - 1]), "score": 0.9}] for k in (1, 2, 3)]
    samples = [
        {"image_id": k, "sample": sample, "temperature": 1.0, "mentions": mentions[k - 1]}
        for k in (1, 2, 3)
        for sample in range(4)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    pictures = folder / "my-folder" / "images"
    pictures.mkdir(parents=True)
    for picture in images:
        Image.new("RGB", (picture["width"], picture["height"])).save(pictures / picture["file_name"])
    for split in ("train", "val"):
        write(folder / "my-folder" / f"{split}.json", coco)
    shutil.copytree(ROOT / "results" / "quickstart", folder / "runs" / "quickstart")
