"""The six kinds of error: one of each by hand, and random sets against the definitions spelled out."""

from __future__ import annotations

import io
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pytest

from benchmarks.evaluators import evaluator
from benchmarks.readers.annotations import Annotations
from harness.metrics.detection.ap import match
from harness.metrics.detection.rules import Protocol, ground_truth
from harness.metrics.diagnosis.tide import KINDS, Errors, Kind, break_down_errors
from harness.metrics.samples.matching import iou_matrix
from harness.types import Box, Category, Detection, Detections, Example, Instance

CATEGORIES = tuple(Category(c, (f"name {c}",), "f") for c in (1, 2, 3))
A, B, FAR = Box(0, 0, 100, 100), Box(300, 0, 100, 100), Box(600, 0, 100, 100)
POOR = Box(0, 0, 100, 40)
"""IoU with A: 0.4."""

HOTCOCO: dict[Kind, str] = {
    "classification": "Cls",
    "localisation": "Loc",
    "both": "Both",
    "duplicate": "Dupe",
    "background": "Bkg",
    "missed": "Miss",
}
PROTOCOLS: tuple[Protocol, ...] = ("lvis", "lvis-fixed", "coco")
Objects = list[tuple[int, Box]]


def annotated(
    objects: Objects,
    negative: frozenset[int] = frozenset(),
    not_exhaustive: frozenset[int] = frozenset(),
    crowd: Objects | None = None,
) -> Annotations:
    made = [Instance(k, c, box) for k, (c, box) in enumerate(objects + (crowd or []), start=1)]
    instances, crowds = tuple(made[: len(objects)]), tuple(made[len(objects) :])
    example = Example(1, Path(), 1000, 1000, instances, negative, not_exhaustive)
    areas = {item.id: item.box.w * item.box.h for item in made}
    return Annotations(Path("a.json"), "", CATEGORIES, (example,), areas, {1: crowds} if crowds else {})


def detections_of(*rows: tuple[int, Box, float]) -> Detections:
    return Detections.of(Detection(1, c, box, score) for c, box, score in rows)


def errors(annotations: Annotations, detections: Detections, protocol: Protocol) -> dict[Kind, Errors]:
    examples, areas, crowds = annotations.examples, annotations.areas, annotations.crowds
    matches = match(examples, detections, CATEGORIES, protocol, areas, crowds)
    return break_down_errors(matches, detections, ground_truth(examples, protocol, areas, crowds), examples, CATEGORIES)


def summary(annotations: Annotations, detections: Detections, protocol: Protocol) -> dict[str, tuple[int, Any]]:
    """The kinds that there are, and what they cost."""
    kinds = errors(annotations, detections, protocol)
    assert list(kinds) == list(KINDS)
    return {name: (kind.count, kind.gain or 0.0) for name, kind in kinds.items() if kind.count or kind.gain}


# AP50 of two objects of one category: both found behind one false positive is 2/3; one found, 51 of the 101 recall
# thresholds are reached: 51/101; that one behind one false positive, half of that.
HALF = 51 / 101
ONE_OF_EACH: dict[str, tuple[Objects, list[tuple[int, Box, float]], dict[str, tuple[int, float]]]] = {
    # Category 2 at the object of category 1: AP50 0, if fixed 1.
    "classification": ([(1, A)], [(2, A, 0.9)], {"classification": (1, 1.0)}),
    # IoU 0.4: AP50 0, if fixed 1.
    "localisation": ([(1, A)], [(1, POOR, 0.9)], {"localisation": (1, 1.0)}),
    # Category 2, IoU 0.4 with the object of category 1, ranks before a right one: AP50 (0 + 1/2) / 2, if dropped
    # (0 + 1) / 2. The object of category 1 is missed: without it category 1 is not annotated, and AP50 is 1/2.
    "both": ([(1, A), (2, B)], [(2, POOR, 0.9), (2, B, 0.8)], {"both": (1, 0.25), "missed": (1, 0.25)}),
    # Ranks 1 and 3 are right: precision 1 up to recall 1/2, then 2/3.
    "duplicate": ([(1, A), (1, B)], [(1, A, 0.9), (1, A, 0.8), (1, B, 0.7)], {"duplicate": (1, 50 / 101 / 3)}),
    "background": ([(1, A)], [(1, FAR, 0.9), (1, A, 0.8)], {"background": (1, 0.5)}),
    "missed": ([(1, A), (1, B)], [(1, A, 0.9)], {"missed": (1, 1 - HALF)}),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_one_of_each_kind(name: str, protocol: Protocol) -> None:
    objects, rows, expected = ONE_OF_EACH[name]
    kinds = summary(annotated(objects, negative=frozenset({2, 3})), detections_of(*rows), protocol)
    assert kinds == {kind: (count, pytest.approx(gain)) for kind, (count, gain) in expected.items()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_kinds_are_tried_in_order(protocol: Protocol) -> None:
    # The detection has IoU 0.4 with its own and 1 with another: localisation. The other object is missed.
    kinds = summary(annotated([(1, POOR), (2, A)]), detections_of((1, A, 0.9)), protocol)
    assert {name: count for name, (count, _) in kinds.items()} == {"localisation": 1, "missed": 1}
    # The second repeats the first, and has IoU 1 with another too: classification.
    kinds = summary(annotated([(1, A), (2, A)]), detections_of((1, A, 0.9), (1, A, 0.8)), protocol)
    assert {name: count for name, (count, _) in kinds.items()} == {"classification": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_of_several_errors_about_an_object_the_best_is_repaired(protocol: Protocol) -> None:
    # Ranks 1 and 2 are about A, rank 3 is right: AP50 1/3 * 51/101; fixed: ranks 1 and 2 of 2 right.
    rows = detections_of((1, POOR, 0.9), (1, POOR, 0.8), (1, B, 0.7))
    kinds = summary(annotated([(1, A), (1, B)]), rows, protocol)
    assert kinds == {"localisation": (2, pytest.approx(1 - HALF / 3))}


def test_what_nobody_looked_for_is_no_error_under_lvis() -> None:
    rows = detections_of((2, A, 0.9), (1, A, 0.8))
    assert summary(annotated([(1, A)]), rows, "lvis") == {}
    assert summary(annotated([(1, A)]), rows, "coco") == {"classification": (1, 0.0)}


def test_what_is_not_annotated_exhaustively_is_neutral_under_lvis() -> None:
    rows = detections_of((1, FAR, 0.9), (1, A, 0.8))
    assert summary(annotated([(1, A)], not_exhaustive=frozenset({1})), rows, "lvis") == {}
    assert summary(annotated([(1, A)]), rows, "lvis") == {"background": (1, pytest.approx(0.5))}


def test_a_detection_on_a_crowd_is_neutral_and_a_crowd_is_never_missed() -> None:
    annotations = annotated([(1, A)], crowd=[(1, B)])
    assert summary(annotations, detections_of((1, B, 0.9), (1, B, 0.8), (1, A, 0.7)), "coco") == {}
    assert summary(annotations, detections_of((1, A, 0.7)), "coco") == {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_detections_and_no_objects(protocol: Protocol) -> None:
    assert summary(annotated([(1, A)]), detections_of(), protocol)["missed"][0] == 1
    kinds = errors(annotated([], negative=frozenset({1})), detections_of((1, A, 0.9)), protocol)
    assert {name: kind.count for name, kind in kinds.items() if kind.count} == {"background": 1}
    assert {kind.gain for kind in kinds.values()} == {None}


# ---- random sets ---------------------------------------------------------------------------------------------------


def random_set(seed: int, images: int = 5) -> tuple[Annotations, Detections]:
    """Crowded images of few categories on a coarse grid, so that every kind is common; no two scores alike."""
    rng = np.random.default_rng(seed)

    def box() -> Box:
        x, y, w, h = (rng.integers(0, 6, 4) * 10).tolist()
        return Box(float(x), float(y), float(w + 20), float(h + 20))

    ids = iter(range(1, 1000))
    examples = []
    for image_id in range(1, images + 1):
        objects = tuple(Instance(next(ids), int(rng.integers(1, 3)), box()) for _ in range(rng.integers(0, 5)))
        examples.append(Example(image_id, Path(), 200, 200, objects, frozenset({3}), frozenset()))
    instances = [item for example in examples for item in example.instances]
    annotations = Annotations(
        Path("a.json"), "", CATEGORIES, tuple(examples), {i.id: i.box.w * i.box.h for i in instances}, {}
    )
    rows = []
    for score in (rng.permutation(8 * images) / (8 * images)).tolist():
        example = examples[rng.integers(images)]
        category_id, place = int(rng.integers(1, 4)), box()
        if example.instances and rng.random() < 0.6:  # near an object, and often of its category
            item = example.instances[rng.integers(len(example.instances))]
            place = replace(item.box, x=item.box.x + float(rng.choice([0, 2, 12])))
            category_id = item.category_id if rng.random() < 0.8 else category_id
        rows.append(Detection(example.image_id, category_id, place, score))
    return annotations, Detections.of(rows)


class Spelled:
    """The definitions of `errors`, one detection after the other. `about`: the object of a detection's error."""

    def __init__(self, annotations: Annotations, detections: Detections, protocol: Protocol) -> None:
        self.kind: dict[int, str] = {}
        self.about: dict[int, Instance] = {}
        self.match: dict[int, int] = {}  # object -> detection
        for example in annotations.examples:
            rows = np.flatnonzero(detections.image_id == example.image_id)
            if protocol != "coco":
                looked_for = {item.category_id for item in example.instances} | example.negative
                rows = rows[np.isin(detections.category_id[rows], list(looked_for))]
            self._image(example.instances, detections, rows[np.argsort(-detections.scores[rows])].tolist())

    def _image(self, objects: tuple[Instance, ...], detections: Detections, rows: list[int]) -> None:
        boxes = np.array([(o.box.x, o.box.y, o.box.w, o.box.h) for o in objects]).reshape(-1, 4)
        iou = dict(zip(rows, iou_matrix(detections.boxes[rows], boxes), strict=True))
        same_category = {row: [o.category_id == detections.category_id[row] for o in objects] for row in rows}
        for row in rows:
            free = [
                same_category[row][k] and iou[row][k] >= 0.5 and o.id not in self.match for k, o in enumerate(objects)
            ]
            if any(free):
                best = max(iou[row][free])
                last = max(k for k in range(len(objects)) if free[k] and iou[row][k] == best)
                self.match[objects[last].id] = row
        for row in set(rows) - set(self.match.values()):
            with_own, with_other = (
                np.where(same_category[row], iou[row], 0.0),
                np.where(same_category[row], 0.0, iou[row]),
            )
            self.kind[row] = kind = self._kind(with_own.max(initial=0), with_other.max(initial=0))
            if kind in ("localisation", "classification"):
                self.about[row] = objects[int((with_own if kind == "localisation" else with_other).argmax())]

    @staticmethod
    def _kind(of_category: float, other: float) -> str:
        if 0.1 <= of_category <= 0.5:
            return "localisation"
        if other >= 0.5:
            return "classification"
        if of_category >= 0.5:
            return "duplicate"
        return "background" if max(of_category, other) <= 0.1 else "both"

    def missed(self, annotations: Annotations) -> set[int]:
        ids = {item.id for example in annotations.examples for item in example.instances}
        return ids - self.match.keys() - {item.id for item in self.about.values()}

    def fixed(self, detections: Detections, kind: str) -> Detections:
        """Without the errors of a kind, and with the best of those about a free object put in its place."""
        rows, boxes, categories = [], detections.boxes.copy(), detections.category_id.copy()
        taken = set(self.match)
        for row in np.argsort(-detections.scores).tolist():
            item = self.about.get(row)
            best = item is not None and item.id not in taken
            if item is not None:
                taken.add(item.id)
            if self.kind.get(row) != kind:
                rows.append(row)
            elif item is not None and best:
                rows.append(row)
                boxes[row], categories[row] = (item.box.x, item.box.y, item.box.w, item.box.h), item.category_id
        return replace(detections, boxes=boxes, category_id=categories).take(np.array(rows, dtype=np.int64))


def without(annotations: Annotations, ids: set[int]) -> Annotations:
    """Without these objects; their categories stay verified, so that the same detections count."""
    examples = []
    for example in annotations.examples:
        gone = frozenset(item.category_id for item in example.instances if item.id in ids)
        left = tuple(item for item in example.instances if item.id not in ids)
        examples.append(replace(example, instances=left, negative=example.negative | gone))
    return replace(annotations, examples=tuple(examples))


def ap50(annotations: Annotations, detections: Detections, protocol: Protocol) -> float:
    value = evaluator.evaluate(annotations, detections, protocol).metrics["AP50"]
    assert value is not None
    return value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(8))
def test_counts_and_gains_are_those_of_the_definitions(seed: int, protocol: Protocol) -> None:
    annotations, detections = random_set(seed)
    spelled = Spelled(annotations, detections, protocol)
    missed = spelled.missed(annotations)
    found_kinds = errors(annotations, detections, protocol)
    expected = Counter(spelled.kind.values()) + Counter({"missed": len(missed)})
    assert {name: kind.count for name, kind in found_kinds.items()} == {name: expected[name] for name in KINDS}
    plain = ap50(annotations, detections, protocol)
    for name in set(KINDS) - {"missed"}:
        gain = ap50(annotations, spelled.fixed(detections, name), protocol) - plain
        assert found_kinds[name].gain == pytest.approx(gain, abs=1e-9), name
    gain = ap50(without(annotations, missed), detections, protocol) - plain
    assert found_kinds["missed"].gain == pytest.approx(gain, abs=1e-9)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_hotcoco(seed: int, protocol: Protocol) -> None:
    """In all but what is gained where a category is missed entirely: there it leaves an AP of 0."""
    annotations, detections = random_set(seed, images=40)
    truth = hotcoco.COCO(evaluator.make_task(annotations, detections, protocol).dataset())
    rows = np.column_stack([detections.image_id, detections.boxes, detections.scores, detections.category_id])
    if protocol == "coco":
        evaluation = hotcoco.COCOeval(truth, truth.load_res(rows), "bbox")
    else:
        evaluation = hotcoco.LVISeval(truth, hotcoco.LVISResults(truth, rows, max_dets=-1), "bbox")
    with redirect_stdout(io.StringIO()):
        evaluation.run()
    theirs, ours = evaluation.tide_errors(), errors(annotations, detections, protocol)
    assert {kind: errors_of_kind.count for kind, errors_of_kind in ours.items()} == {
        k: theirs["counts"][HOTCOCO[k]] for k in KINDS
    }
    assert min(theirs["counts"].values()) > 0  # the comparison is about something
    gains = {kind: pytest.approx(theirs["delta_ap"][HOTCOCO[kind]], abs=1e-9) for kind in KINDS}
    assert {kind: errors_of_kind.gain for kind, errors_of_kind in ours.items()} == gains
