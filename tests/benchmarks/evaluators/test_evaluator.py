"""The three protocols, by both engines: golden figures, agreement on random sets, and what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.evaluators import evaluator
from benchmarks.evaluators.evaluator import list_engines, select_rows
from benchmarks.readers.annotations import load
from harness.errors import ConfigError, DataError
from harness.metrics.detection import rules
from harness.metrics.detection.rules import Protocol
from harness.types import Box, Detection, Detections, Instance
from tests.benchmarks.cases import official, random_case
from tests.benchmarks.documents import annotation, category, detection, document, image, loaded
from tests.benchmarks.evaluators.engines import (
    BOX,
    PROTOCOLS,
    agree,
    both_engines,
    evaluate,
    every_engine,
    same,
    two_cats,
)


@both_engines
def test_golden(shared: Callable[[str], Path], tmp_path: Path, engine: str) -> None:
    annotations = load(shared("data/lvis_val_100.json"), tmp_path)
    rows = json.loads(shared("golden/lvis_val_100/detections.json").read_text())
    expected = json.loads(shared("golden/lvis_val_100/expected.json").read_text())
    detections = [detection(r["image_id"], r["category_id"], r["score"], *r["bbox"]) for r in rows]

    evaluation = evaluate(annotations, detections, engine)

    assert same(evaluation.metrics, expected["metrics"])
    # The golden file lists defined categories only; all 1,230 are reported.
    annotated = {i.category_id for e in annotations.examples for i in e.instances}
    defined = {str(c): ap for c, ap in evaluation.per_category.items() if ap is not None}
    assert same(defined, expected["per_category_AP"])
    assert {int(c) for c in defined} == annotated
    assert len(evaluation.per_category) == 1230
    assert (evaluation.engine, evaluation.version[0]) == {"fast": ("hotcoco", "1"), "lvis": ("lvis", "0")}[engine]


# ---- random sets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(20))
def test_engines_agree_with_each_other_and_with_the_official_package(seed: int, protocol: Protocol) -> None:
    """On every figure and category; the official package gets the data as they are, with nothing capped or dropped."""
    case = annotations, detections = random_case(seed, protocol)
    assert len(select_rows(annotations, detections, protocol)) < len(detections)  # there is something to cap or drop
    fast, reference = (evaluator.evaluate(annotations, detections, protocol, e) for e in list_engines(protocol))
    assert agree(fast, reference)
    assert agree(reference, official(case, protocol))
    assert sum(bool(ap) for ap in fast.per_category.values()) >= 4  # the comparison is about something
    assert None in fast.per_category.values()
    fewer = evaluator.evaluate(annotations, detections.take(slice(0, -150)), protocol)
    assert not agree(fast, fewer)  # and the figures depend on the data


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_kept_is_what_counts(protocol: Protocol) -> None:
    annotations, detections = random_case(0, protocol)
    rows = select_rows(annotations, detections, protocol)
    assert (np.diff(rows) > 0).all()
    whole = evaluator.evaluate(annotations, detections, protocol)
    assert agree(whole, evaluator.evaluate(annotations, detections.take(rows), protocol))
    with pytest.raises(DataError, match="id of a category"):
        select_rows(annotations, replace(detections, category_id=detections.category_id + 100), protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ids_may_be_large(protocol: Protocol) -> None:
    annotations, detections = random_case(0, protocol)
    far = replace(detections, image_id=detections.image_id * 2**40, category_id=detections.category_id * 2**40)
    np.testing.assert_array_equal(rules.select_rows(far, protocol), select_rows(annotations, detections, protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_boxes_whose_area_is_no_number_change_nothing(protocol: Protocol) -> None:
    """Sides of 1e-200 or 1e200 px: pycocotools' IoU of two such boxes is 0 / 0, which it takes for a match."""
    annotations, detections = random_case(1, protocol, images=3, crowded=50)
    extremes = [(0.0, 0.0, side, side) for side in (1e-200, 1e200)]
    image_id, category_id = annotations.examples[0].image_id, annotations.categories[0].id
    objects = tuple(Instance(900 + k, category_id, Box(*box)) for k, box in enumerate(extremes))
    first = annotations.examples[0]
    examples = (replace(first, instances=(*first.instances, *objects)), *annotations.examples[1:])
    areas = {**annotations.areas, **{o.id: 100.0 for o in objects}}
    rows = Detections.of([detection(image_id, category_id, 2.0, *box) for box in extremes])
    both = Detections(*(np.concatenate([getattr(rows, f), getattr(detections, f)]) for f in rows.__slots__))
    extreme = replace(annotations, examples=examples, areas=areas)
    fast, reference = (evaluator.evaluate(extreme, both, protocol, e) for e in list_engines(protocol))
    assert agree(fast, reference)


# ---- bad input, side effects -------------------------------------------------------------------------------


@every_engine
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (detection(1, 1, float("nan"), *BOX), "a finite score"),
        (detection(1, 1, 0.5, 1, 1, -1, 1), "width and height of at least 0"),
        (detection(1, 99, 0.5, *BOX), "id of a category"),
    ],
)
def test_a_bad_detection_is_named(
    tmp_path: Path, protocol: Protocol, engine: str, bad: Detection, message: str
) -> None:
    with pytest.raises(DataError, match=rf"detections\[1\]: expected .*{message}.*, got "):
        evaluate(two_cats(tmp_path), [detection(1, 1, 0.5, *BOX), bad], engine, protocol)


def test_detections_outside_the_subset_are_refused(tmp_path: Path) -> None:
    content = document([image(1), image(2)], [annotation(1, 1, 1, *BOX)], [category(1, "cat")])
    subset = loaded(tmp_path, content).subset([1])
    with pytest.raises(DataError, match="id of an evaluated image"):
        evaluate(subset, [detection(2, 1, 0.5, *BOX)])


@both_engines
def test_a_box_whose_area_overflows_is_dropped(tmp_path: Path, engine: str) -> None:
    huge = detection(1, 1, 0.9, 0, 0, 1e200, 1e200)
    detected = detection(1, 1, 0.5, *BOX)
    annotations = two_cats(tmp_path)
    assert agree(evaluate(annotations, [huge, detected], engine), evaluate(annotations, [detected], engine))


def test_unknown_engines_and_protocols_are_named(tmp_path: Path) -> None:
    annotations = two_cats(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'lvis'"):
        evaluate(annotations, [], "lvsi")
    with pytest.raises(ConfigError, match="protocol coco 'lvis'; available: fast, pycocotools"):
        evaluate(annotations, [], "lvis", "coco")
    with pytest.raises(ConfigError, match="unknown protocol 'voc'"):
        list_engines("voc")  # type: ignore[arg-type]


def test_nothing_to_evaluate_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one image"):
        evaluate(two_cats(tmp_path).subset([]), [])
    with pytest.raises(DataError, match="at least one category"):
        evaluate(loaded(tmp_path, document([image(1)], [], [])), [])


@every_engine
def test_an_engine_is_silent_and_leaves_no_trace(
    tmp_path: Path, protocol: Protocol, engine: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (list(logging.root.handlers), logging.root.level, logging.getLogger("lvis").level)
    evaluate(two_cats(tmp_path), [detection(1, 1, 0.9, *BOX)], engine, protocol)
    assert capfd.readouterr() == ("", "")
    assert before == (list(logging.root.handlers), logging.root.level, logging.getLogger("lvis").level)
    assert not hasattr(np, "float")
