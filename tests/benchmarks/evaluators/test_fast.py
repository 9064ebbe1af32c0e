"""The short cut from files to figures: the same rules of cap, area and federation; a helper process changes nothing."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.evaluators import evaluator, fast
from benchmarks.evaluators.rankings import evaluate_rankings
from benchmarks.readers import annotations as annotation_files
from benchmarks.readers import detection_parts, detections
from benchmarks.readers.annotations import Style
from harness.errors import DataError
from harness.metrics.detection.rules import Protocol, select_best
from tests.benchmarks.documents import annotation, category, coco_category, coco_image, document, image, result, write

HELPED = """
import sys
import threading
from dataclasses import replace
from pathlib import Path
from benchmarks.readers import detection_parts
detection_parts.PART = 2000
with detection_parts.SharedDecoder(Path(sys.argv[1])) as decoder:
    decoder.start()
    print(decoder._helper is not None)
    table = decoder.finish()
import numpy as np
print(np.concatenate(list(table.parts())).tolist())
"""


def crowded_files(folder: Path, style: Style, seed: int) -> tuple[Path, Path]:
    """Images above the cap, ties, boxes without area, and categories that nobody looked for."""
    rng = random.Random(seed)

    def box() -> tuple[float, ...]:
        return (
            rng.randrange(0, 300, 40),
            rng.randrange(0, 200, 40),
            rng.choice([0, 20, 90]),
            rng.choice([20, 90, 250]),
        )

    objects = [annotation(k, rng.randint(1, 4), rng.randint(1, 5), *box()) for k in range(1, 60)]
    if style == "coco":
        objects = [{**item, "iscrowd": int(rng.random() < 0.2)} for item in objects]
        content = document(
            [coco_image(i) for i in range(1, 5)], objects, [coco_category(c, f"c{c}") for c in range(1, 6)]
        )
    else:
        images = [image(i, neg_category_ids=[5], not_exhaustive_category_ids=[1]) for i in range(1, 5)]
        content = document(images, objects, [category(c, f"c{c}") for c in range(1, 6)])
    rows = [
        result(rng.choice([1, 1, 1, 2, 3]), rng.choice([1, 1, 1, 2, 5]), rng.randint(0, 9) / 9, *box())
        for _ in range(900)
    ]
    return write(folder / "truth.json", content), write(folder / "rows.json", rows)


@pytest.mark.parametrize("protocol", evaluator.list_protocols())
@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_those_of_the_careful_way(tmp_path: Path, protocol: Protocol, seed: int) -> None:
    style: Style = "coco" if protocol == "coco" else "lvis"
    truth, rows = crowded_files(tmp_path, style, seed)
    short_cut = fast.evaluate_files(truth, lambda: detections.load_table(rows), protocol)
    loaded, table = annotation_files.load(truth, tmp_path, style), detections.load(rows)
    assert short_cut.evaluation == evaluator.evaluate(loaded, table, protocol)
    counted = table.category_id[evaluator.select_rows(loaded, table, protocol)]
    assert short_cut.detections.tolist() == [int((counted == c.id).sum()) for c in loaded.categories]


@pytest.mark.parametrize("cap", [1, 3, 50])
def test_the_best_of_a_group_are_the_first_of_a_stable_sort(cap: int) -> None:
    rng = np.random.default_rng(0)
    groups, scores = rng.integers(0, 5, 400), rng.integers(0, 7, 400) / 7
    best = select_best(groups, scores, cap)
    for group in range(5):
        rows = np.flatnonzero(groups == group)
        expected = rows[np.argsort(-scores[rows], kind="stable")][:cap]
        assert np.flatnonzero(best & (groups == group)).tolist() == sorted(expected.tolist())


def helped(path: Path) -> tuple[bool, Any]:
    done = subprocess.run([sys.executable, "-c", HELPED, str(path)], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return lines[0] == "True", json.loads(lines[1]) if len(lines) > 1 else done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_a_helper_process_decodes_the_same(tmp_path: Path) -> None:
    _, path = crowded_files(tmp_path, "lvis", 0)
    forked, rows = helped(path)
    expected = [
        [row["image_id"], *row["bbox"], row["score"], row["category_id"]] for row in json.loads(path.read_text())
    ]
    assert rows == expected
    assert forked == (len(os.sched_getaffinity(0)) > 1)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_what_the_helper_cannot_read_is_left_to_the_careful_way(tmp_path: Path) -> None:
    _, path = crowded_files(tmp_path, "lvis", 0)
    content = json.loads(path.read_text())
    for row in content[100:]:
        row["score"] = "high"
    _, error = helped(write(path, content))
    assert "NotPlainError" in error


def test_a_process_with_threads_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that another thread holds at the fork would never be released in the copy."""
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    assert not detection_parts.can_fork()


def test_a_key_that_is_there_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    truth, rows = crowded_files(tmp_path, "lvis", 0)
    lines = json.dumps(json.loads(rows.read_text()), indent=0).replace('"score": ', '"score": 0.25,\n"score": ', 1)
    rows.write_text(lines)
    with pytest.raises(DataError, match=r"line 12: expected a key once, got \"score\" again"):
        detections.load(rows)
    truth.write_text(truth.read_text()[:-1] + ', "annotations": []}')
    with pytest.raises(DataError, match=r"line 1: expected a key once, got \"annotations\" again"):
        annotation_files.load(truth, tmp_path)


@pytest.mark.parametrize("protocol", evaluator.list_protocols())
def test_rankings_have_the_ap_of_whole_evaluations(tmp_path: Path, protocol: Protocol) -> None:
    style: Style = "coco" if protocol == "coco" else "lvis"
    truth, rows = crowded_files(tmp_path, style, 7)
    loaded, table = annotation_files.load(truth, tmp_path, style), detections.load(rows)
    scores = [np.random.default_rng(seed).random(len(table)) for seed in range(3)]
    expected = [evaluator.evaluate(loaded, replace(table, scores=s), protocol).metrics["AP"] for s in scores]
    assert list(evaluate_rankings(loaded, table, scores, protocol)) == expected
    assert len(set(expected)) == 3


def test_rankings_of_nothing_are_undefined(tmp_path: Path) -> None:
    content = document([image(1)], [], [category(1, "cat")])
    loaded = annotation_files.load(write(tmp_path / "truth.json", content), tmp_path)
    table = detections.load(write(tmp_path / "rows.json", []))
    assert list(evaluate_rankings(loaded, table, [table.scores], "lvis")) == [None]
