"""The LVIS protocol, by both engines: golden figures, hand-derived cases, and agreement on random sets."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from benchmarks.annotations import Annotations, load
from benchmarks.evaluator import ENGINES, METRICS, evaluate
from harness.errors import ConfigError, DataError
from harness.types import Detection, Evaluation
from tests.benchmarks.documents import Document, annotation, category, detection, document, image, loaded

both_engines = pytest.mark.parametrize("engine", ENGINES)
TOLERANCE = 1e-9


Key = TypeVar("Key")


def same(a: Mapping[Key, float | None], b: Mapping[Key, float | None]) -> bool:
    """Equal keys, equal undefined figures, and defined ones within the tolerance."""
    return a.keys() == b.keys() and all(_close(value, b[key]) for key, value in a.items())


def _close(a: float | None, b: float | None) -> bool:
    return a is b if a is None or b is None else abs(a - b) <= TOLERANCE


def agree(a: Evaluation, b: Evaluation) -> bool:
    return same(a.metrics, b.metrics) and same(a.per_category, b.per_category)


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


# ---- by hand -----------------------------------------------------------------------------------------------

BOX = (10.0, 10.0, 50.0, 50.0)
FAR = (300.0, 300.0, 50.0, 50.0)


def two_cats(folder: Path, **federated: list[int]) -> Annotations:
    """One image with two cats; `dog` is annotated nowhere, `cow` has no frequency."""
    content = document(
        [image(1, **federated)],
        [annotation(1, 1, 1, *BOX), annotation(2, 1, 1, *FAR)],
        [category(1, "cat"), category(2, "dog", frequency="r"), category(3, "cow", frequency=None)],
    )
    return loaded(folder, content)


@both_engines
def test_one_of_two_found_is_half_recall_at_full_precision(tmp_path: Path, engine: str) -> None:
    evaluation = evaluate(two_cats(tmp_path), [detection(1, 1, 0.9, *BOX)], engine)
    # Precision is 1 at the 51 recall thresholds 0, 0.01, ..., 0.50 and 0 at the other 50.
    assert evaluation.metrics["AP"] == pytest.approx(51 / 101, abs=1e-12)
    assert evaluation.metrics["AR@300"] == 0.5
    # 50 x 50 = 2,500 px: medium (32^2 to 96^2). The category is frequent; no other group is annotated.
    assert evaluation.metrics["APm"] == evaluation.metrics["APf"] == evaluation.metrics["AP"]
    undefined = {name for name, value in evaluation.metrics.items() if value is None}
    assert undefined == {"APs", "APl", "APr", "APc", "ARs@300", "ARl@300"}
    assert evaluation.per_category == {1: evaluation.metrics["AP"], 2: None, 3: None}


@both_engines
def test_sizes_are_those_of_the_mask(tmp_path: Path, engine: str) -> None:
    content = document([image(1)], [annotation(1, 1, 1, *BOX, area=1000)], [category(1, "cat")])
    metrics = evaluate(loaded(tmp_path, content), [detection(1, 1, 0.9, *BOX)], engine).metrics
    assert metrics["APs"] == pytest.approx(1.0)  # 1,000 < 32^2 < 2,500
    assert metrics["APm"] is None


@both_engines
def test_no_detections_is_ap_0_and_not_an_error(tmp_path: Path, engine: str) -> None:
    evaluation = evaluate(two_cats(tmp_path), [], engine)
    assert tuple(evaluation.metrics) == METRICS
    assert {evaluation.metrics[name] for name in ("AP", "AP50", "AP75", "APm", "APf", "AR@300")} == {0.0}
    assert evaluation.per_category == {1: 0.0, 2: None, 3: None}


WRONG = (400.0, 10.0, 20.0, 20.0)


@both_engines
@pytest.mark.parametrize(
    ("federated", "wrong_category", "expected"),
    [
        # A wrong cat ranks first: precision at recall 1/2 and 1 is 1/2 and 2/3, interpolated 2/3 everywhere.
        ({}, 1, 2 / 3),
        # The cats are not annotated exhaustively: the unmatched one is neither right nor wrong.
        ({"not_exhaustive_category_ids": [1]}, 1, 1.0),
        # Nobody looked for dogs in this image, or did and found none: dogs have no ground truth either way.
        ({}, 2, 1.0),
        ({"neg_category_ids": [2]}, 2, 1.0),
    ],
)
def test_federated_rules(
    tmp_path: Path, engine: str, federated: dict[str, list[int]], wrong_category: int, expected: float
) -> None:
    found = [detection(1, 1, 0.8, *BOX), detection(1, 1, 0.7, *FAR)]
    detections = [detection(1, wrong_category, 0.9, *WRONG), *found]
    evaluation = evaluate(two_cats(tmp_path, **federated), detections, engine)
    assert evaluation.metrics["AP"] == pytest.approx(expected, abs=1e-12)


@both_engines
@pytest.mark.parametrize(("negative", "expected"), [([], 1.0), ([1], 0.5)])
def test_a_negative_category_counts_against_its_ap(
    tmp_path: Path, engine: str, negative: list[int], expected: float
) -> None:
    content = document(
        [image(1), image(2, neg_category_ids=negative)], [annotation(1, 1, 1, *BOX)], [category(1, "cat")]
    )
    detections = [detection(1, 1, 0.5, *BOX), detection(2, 1, 0.9, *BOX)]  # the second image has no cat
    evaluation = evaluate(loaded(tmp_path, content), detections, engine)
    assert evaluation.metrics["AP"] == pytest.approx(expected, abs=1e-12)


@both_engines
@pytest.mark.parametrize(("empty", "expected"), [(299, 1.0), (300, 0.0)])
def test_boxes_of_area_0_use_up_the_300(tmp_path: Path, engine: str, empty: int, expected: float) -> None:
    content = document([image(1)], [annotation(1, 1, 1, *BOX)], [category(1, "cat")])
    nothing = [detection(1, 1, 0.9, 5, 5, 0, 10)] * empty
    evaluation = evaluate(loaded(tmp_path, content), [*nothing, detection(1, 1, 0.5, *BOX)], engine)
    assert evaluation.metrics["AP"] == pytest.approx(expected, abs=1e-12)


@both_engines
@pytest.mark.parametrize(("before", "expected"), [(299, 1.0), (300, 0.0)])
def test_of_equal_scores_the_earlier_is_kept(tmp_path: Path, engine: str, before: int, expected: float) -> None:
    content = document([image(1)], [annotation(1, 1, 1, *BOX)], [category(1, "cat"), category(2, "dog")])
    dogs = [detection(1, 2, 0.5, *FAR)] * before  # dogs are not annotated: they only use up the budget
    detections = [*dogs, detection(1, 1, 0.5, *BOX), *dogs]
    evaluation = evaluate(loaded(tmp_path, content), detections, engine)
    assert evaluation.metrics["AP"] == pytest.approx(expected, abs=1e-12)


@both_engines
def test_annotated_objects_of_area_0_do_not_count(tmp_path: Path, engine: str) -> None:
    content = document(
        [image(1)],
        [annotation(1, 1, 1, *BOX), annotation(2, 1, 1, 9, 9, 0, 9), annotation(3, 1, 2, *FAR, area=0)],
        [category(1, "cat"), category(2, "dog")],
    )
    evaluation = evaluate(loaded(tmp_path, content), [detection(1, 1, 0.5, *BOX)], engine)
    assert evaluation.per_category == {1: pytest.approx(1.0, abs=1e-12), 2: None}


# ---- random sets -------------------------------------------------------------------------------------------


def random_set(seed: int) -> tuple[Document, list[Detection]]:
    """Crowded federated images with ties in score and place, unsorted ids, empty boxes, > 300 rows."""
    rng = random.Random(seed)
    categories = [category(c, f"c{c}", frequency=rng.choice("rcf")) for c in rng.sample(range(1, 90), 12)]
    categories += [category(c, f"c{c}", frequency=None) for c in (90, 91)]
    ids = [record["id"] for record in categories]
    images = [
        image(i, neg_category_ids=rng.sample(ids, 3), not_exhaustive_category_ids=rng.sample(ids, 3))
        for i in rng.sample(range(1000), 6)
    ]

    def box() -> tuple[float, float, float, float]:
        # A coarse grid makes equal boxes and equal IoUs common; sides reach all of small, medium and large.
        x, y = rng.randrange(0, 400, 40), rng.randrange(0, 300, 40)
        return x, y, rng.choice([0, 10, 25.5, 40, 80, 130]), rng.choice([0, 10, 33.3, 40, 80, 130])

    truths = [
        annotation(k, rng.choice(images)["id"], rng.choice(ids[:-3]), *box()) for k in rng.sample(range(1, 500), 150)
    ]
    for truth in truths:
        truth["area"] *= rng.choice([0, 0.5, 1, 1])
    crowded = images[0]["id"]
    detections = [
        detection(rng.choice([crowded, rng.choice(images)["id"]]), rng.choice(ids), rng.randrange(20) / 20, *box())
        for _ in range(900)
    ]
    # Half of the objects are found, some of them twice.
    for truth in rng.sample(truths, 75):
        x, y, w, h = truth["bbox"]
        for _ in range(rng.choice([1, 2])):
            row = (truth["image_id"], truth["category_id"], rng.randrange(10, 20) / 20)
            detections.append(detection(*row, x + rng.choice([0, 2]), y, w, h))
    rng.shuffle(detections)
    return document(images, truths, categories), detections


@pytest.mark.parametrize("seed", range(6))
def test_engines_agree_on_random_federated_sets(tmp_path: Path, seed: int) -> None:
    content, detections = random_set(seed)
    crowded = [d for d in detections if d.image_id == content["images"][0]["id"]]
    assert len(crowded) > 300
    annotations = loaded(tmp_path, content)
    fast, reference = (evaluate(annotations, detections, engine) for engine in ("fast", "lvis"))
    assert agree(fast, reference)
    assert sum(bool(ap) for ap in fast.per_category.values()) >= 8  # the comparison is about something
    assert None in fast.per_category.values()
    assert not agree(fast, evaluate(annotations, detections[:-200], "fast"))  # and the figures depend on the data


@pytest.mark.parametrize("seed", range(3))
def test_official_rules_are_those_of_the_official_api(tmp_path: Path, seed: int) -> None:
    """Our cap and our dropping of empty boxes change nothing for the official API, which has its own."""
    content, detections = random_set(seed)
    annotations = loaded(tmp_path, content)
    ours = evaluate(annotations, detections, "lvis")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.evaluator._official_rules", lambda rows: rows)
        assert agree(ours, evaluate(annotations, detections, "lvis"))


# ---- bad input, side effects -------------------------------------------------------------------------------


@both_engines
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (detection(1, 1, float("nan"), *BOX), "finite box and score"),
        (detection(1, 1, float("inf"), *BOX), "finite box and score"),
        (detection(1, 1, 0.5, float("nan"), 1, 1, 1), "finite box and score"),
        (detection(1, 1, 0.5, 1, 1, 1, float("inf")), "finite box and score"),
        (detection(1, 1, 0.5, 1, 1, -1, 1), "width and height of at least 0"),
        (detection(1, 1, 0.5, 1, 1, 1, -1), "width and height of at least 0"),
        (detection(99, 1, 0.5, *BOX), "id of an evaluated image"),
        (detection(1, 99, 0.5, *BOX), "id of a category"),
    ],
)
def test_a_bad_detection_is_named(tmp_path: Path, engine: str, bad: Detection, message: str) -> None:
    with pytest.raises(DataError, match=rf"detections\[1\]: expected .*{message}.*, got Detection"):
        evaluate(two_cats(tmp_path), [detection(1, 1, 0.5, *BOX), bad], engine)


def test_detections_outside_the_subset_are_refused(tmp_path: Path) -> None:
    content = document([image(1), image(2)], [annotation(1, 1, 1, *BOX)], [category(1, "cat")])
    subset = loaded(tmp_path, content).subset([1])
    with pytest.raises(DataError, match="id of an evaluated image"):
        evaluate(subset, [detection(2, 1, 0.5, *BOX)])


@both_engines
def test_a_box_whose_area_overflows_is_dropped(tmp_path: Path, engine: str) -> None:
    huge = detection(1, 1, 0.9, 0, 0, 1e200, 1e200)
    found = detection(1, 1, 0.5, *BOX)
    annotations = two_cats(tmp_path)
    assert agree(evaluate(annotations, [huge, found], engine), evaluate(annotations, [found], engine))


def test_unknown_engine_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'lvis'"):
        evaluate(two_cats(tmp_path), [], "lvsi")


def test_no_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one image"):
        evaluate(two_cats(tmp_path).subset([]), [])


@both_engines
def test_an_engine_is_silent_and_leaves_no_trace(
    tmp_path: Path, engine: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (list(logging.root.handlers), logging.root.level, logging.getLogger("lvis").level)
    evaluate(two_cats(tmp_path), [detection(1, 1, 0.9, *BOX)], engine)
    assert capfd.readouterr() == ("", "")
    assert before == (list(logging.root.handlers), logging.root.level, logging.getLogger("lvis").level)
    assert not hasattr(np, "float")
