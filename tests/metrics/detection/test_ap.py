"""AP against the official packages, and under image weights against the official packages on repeated images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.readers.annotations import load
from harness.metrics.detection import accumulate, greedy_matching
from harness.metrics.detection import ap as ap_module
from harness.metrics.detection.ap import APs, average_precision, match, match_sizes, summarise
from harness.metrics.detection.greedy_matching import Truths, match_groups
from harness.metrics.detection.rules import IOU_THRESHOLDS, Protocol
from harness.metrics.samples.aggregate import Weights
from harness.metrics.samples.matching import iou_matrix
from harness.metrics.stats import bootstrap_weights
from harness.types import Box, Category, Detection, Detections, Evaluation, Example
from tests.benchmarks.cases import Case, official, random_case, repeated
from tests.metrics.builders import XYWH, example

Floats = NDArray[np.float64]
PROTOCOLS: tuple[Protocol, ...] = ("lvis", "lvis-fixed", "coco")
CATEGORIES = tuple(Category(10 + c, (f"name {c}",), "rcf"[c % 3]) for c in range(7))  # type: ignore[arg-type]


def _figures(case: Case, protocol: Protocol, weights: Weights | None = None) -> tuple[dict[str, Floats], Floats]:
    """Every precision figure [R], and AP by category [R, C]."""
    annotations, detections = case
    categories = annotations.categories
    matches = match_sizes(annotations.examples, detections, categories, protocol, annotations.areas, annotations.crowds)
    figures = {size: average_precision(counted, len(categories), weights) for size, counted in matches.items()}
    frequency = [category.frequency for category in categories]
    sizes = {f"AP{size}": summarise(figures[size], frequency)["AP"] for size in ("s", "m", "l")}
    return summarise(figures["all"], frequency) | sizes, figures["all"].ap


def _assert_official(figures: dict[str, Floats], per_category: Floats, row: int, expected: Evaluation) -> None:
    names = [name for name in figures if name in expected.metrics]
    assert len(names) in (6, 9)  # all that is no recall: COCO has no frequencies
    for name in names:
        np.testing.assert_allclose(figures[name][row], _number(expected.metrics[name]), atol=1e-9, err_msg=name)
    reference = [_number(expected.per_category[c]) for c in sorted(expected.per_category)]
    np.testing.assert_allclose(per_category[row], reference, atol=1e-9)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _by_category_id(case: Case) -> Case:
    """Categories in order of their ids, as the official packages report them."""
    annotations, detections = case
    categories = sorted(annotations.categories, key=lambda category: category.id)
    return replace(annotations, categories=tuple(categories)), detections


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(20))
def test_random_sets_equal_the_official_package(seed: int, protocol: Protocol) -> None:
    case = _by_category_id(random_case(seed, protocol))
    figures, per_category = _figures(case, protocol)
    _assert_official(figures, per_category, 0, official(case, protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(3))
def test_integer_weights_equal_repeated_images(seed: int, protocol: Protocol) -> None:
    case = _by_category_id(random_case(seed, protocol, images=6, crowded=150, ties=False))
    weights = bootstrap_weights(6, replicates=4, seed=seed)
    figures, per_category = _figures(case, protocol, weights)
    assert len(set(figures["AP"].tolist())) == 4
    for row, times in enumerate(weights):
        _assert_official(figures, per_category, row, official(repeated(case, times.astype(int).tolist()), protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("wide", [2, 100, 10_000])
def test_a_replicate_of_all_ones_is_the_plain_figure_exactly(
    protocol: Protocol, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last digit, wherever it stands and however the weightings are cut up and summed."""
    case = random_case(3, protocol)
    plain, per_category = _figures(case, protocol)
    weights = np.ones((120, 5))
    weights[1:7] = bootstrap_weights(5, replicates=6)
    ones = [0, *range(7, 120)]
    monkeypatch.setattr(accumulate, "WIDE", wide)
    for chunk in (ap_module.CHUNK, 2000, 1):
        monkeypatch.setattr(ap_module, "CHUNK", chunk)
        figures, by_category = _figures(case, protocol, weights)
        for name, value in plain.items():
            np.testing.assert_array_equal(figures[name][ones], np.repeat(value, len(ones)), err_msg=name)
        np.testing.assert_array_equal(by_category[ones], np.repeat(per_category, len(ones), axis=0))
        assert (figures["AP"][1:7] != plain["AP"]).any()


def test_order_of_images_does_not_matter() -> None:
    annotations, detections = random_case(3, "lvis")
    turned = replace(annotations, examples=annotations.examples[::-1])
    np.testing.assert_array_equal(
        _figures((turned, detections), "lvis")[1], _figures((annotations, detections), "lvis")[1]
    )


@pytest.mark.parametrize("chunk", [1, 100])
def test_pairs_may_be_matched_in_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations, detections = random_case(5, "coco")
    arguments = (
        annotations.examples,
        detections,
        annotations.categories,
        "coco",
        annotations.areas,
        annotations.crowds,
    )
    whole = match(*arguments)  # type: ignore[arg-type]
    monkeypatch.setattr(greedy_matching, "CHUNK", chunk)
    cut = match(*arguments)  # type: ignore[arg-type]
    assert whole.true_positive.any()
    np.testing.assert_array_equal(cut.true_positive, whole.true_positive)
    np.testing.assert_array_equal(cut.left_out, whole.left_out)


def test_golden_of_real_lvis(shared: Callable[[str], Path], tmp_path: Path) -> None:
    annotations = load(shared("data/lvis_val_100.json"), tmp_path)
    golden = shared("golden/lvis_val_100")
    expected = json.loads((golden / "expected.json").read_text())
    detections = Detections.of(
        Detection(row["image_id"], row["category_id"], Box(*row["bbox"]), row["score"])
        for row in json.loads((golden / "detections.json").read_text())
    )
    figures, per_category = _figures((annotations, detections), "lvis")
    assert {name: values[0] for name, values in figures.items()} == pytest.approx(
        {name: expected["metrics"][name] for name in figures}, abs=1e-9
    )
    by_id = zip(annotations.categories, per_category[0].tolist(), strict=True)
    defined = {str(category.id): value for category, value in by_id if not np.isnan(value)}
    assert defined == pytest.approx(expected["per_category_AP"], abs=1e-9)


# ---- by hand -----------------------------------------------------------------------------------------------------


def _evaluate(examples: Sequence[Example], detections: Sequence[Detection], weights: Weights | None = None) -> APs:
    return average_precision(match(examples, Detections.of(detections), CATEGORIES), len(CATEGORIES), weights)


def test_ap_of_a_hand_derived_ranking() -> None:
    # Two ground truths; ranked: hit, miss, hit. Precision 1 up to recall 1/2 (thresholds 0.00 to 0.50: 51),
    # then 2/3 (50): AP = (51 + 50 * 2/3) / 101, at every IoU threshold as the hits are exact.
    # Weighted 2 : 1 (the first image twice): three ground truths; two hits, miss, hit: precision 1 up to
    # recall 2/3 (67 thresholds), then 3/4 (34): the miss and the last hit come from the second image.
    images = [example([(10, (0, 0, 4, 4))], image_id=1), example([(10, (0, 0, 4, 4))], image_id=2)]
    detections = [
        Detection(1, 10, Box(0, 0, 4, 4), 0.9),
        Detection(2, 10, Box(8, 8, 4, 4), 0.8),
        Detection(2, 10, Box(0, 0, 4, 4), 0.7),
    ]
    precision = _evaluate(images, detections, np.array([[1.0, 1.0], [2.0, 1.0], [0.0, 0.0]]))
    expected = [(51 + 50 * 2 / 3) / 101, (67 + 34 * 3 / 4) / 101, np.nan]
    for values in (precision.ap, precision.ap50, precision.ap75):
        np.testing.assert_allclose(values[:, 0], expected)
        assert np.isnan(values[:, 1:]).all()


def test_thresholds_are_told_apart() -> None:
    # 4 x 3 of 4 x 4: IoU 0.75, a hit at the six thresholds 0.50 to 0.75.
    precision = _evaluate([example([(10, (0, 0, 4, 4))])], [Detection(1, 10, Box(0, 0, 4, 3), 0.9)])
    assert [precision.ap[0, 0], precision.ap50[0, 0], precision.ap75[0, 0]] == pytest.approx([0.6, 1.0, 1.0])


def test_sizes() -> None:
    # A medium object (40 x 40 px; annotated area 900: small) found by its box after a large and a small miss.
    # Small: the large miss is left out, the small one counts: precision 1/2. Medium and large: no object.
    image = example([(10, (0, 0, 40, 40))])
    boxes = (Box(0, 0, 100, 100), Box(200, 0, 20, 20), Box(0, 0, 40, 40))
    detections = Detections.of(Detection(1, 10, box, 0.9 - 0.1 * k) for k, box in enumerate(boxes))
    matches = match_sizes([image], detections, CATEGORIES, areas={1: 900.0})
    ap = {size: average_precision(counted, len(CATEGORIES)).ap[0, 0] for size, counted in matches.items()}
    assert ap == pytest.approx({"all": 1 / 3, "s": 1 / 2, "m": np.nan, "l": np.nan}, nan_ok=True)
    # Without annotated areas the box decides: medium, where neither miss counts.
    counted = match_sizes([image], detections, CATEGORIES, sizes=("m",))["m"]
    assert average_precision(counted, len(CATEGORIES)).ap[0, 0] == pytest.approx(1.0)


def test_never_predicted_category_scores_zero_and_collapse_costs_ap() -> None:
    image = example([(10, (0, 0, 4, 4)), (11, (5, 5, 4, 4))])
    precision = _evaluate([image], [])
    assert precision.ap[0, :2].tolist() == [0.0, 0.0]
    assert np.isnan(precision.ap[0, 2:]).all()


def _match_group(gt: list[XYWH], dt: list[XYWH], crowd: list[bool], ignored: list[bool]) -> list[list[int]]:
    """Bits of one group at one size: [matched to what counts, matched to what is ignored]."""
    truths = Truths(
        np.zeros(len(gt), dtype=np.int64), np.array(gt, dtype=float), np.array(crowd), np.array(ignored)[:, None]
    )
    matched = match_groups(np.zeros(len(dt), dtype=np.int64), np.array(dt, dtype=float), truths)
    return [bits[:, 0].tolist() for bits in matched]


ALL = 1023
"""Bits of all ten thresholds."""


def test_last_of_equal_ious_is_taken() -> None:
    # The first detection overlaps both ground truths by 8 of 12 columns (IoU 2/3: four thresholds) and takes the
    # last, so the second detection still finds the first one, its exact copy.
    gt: list[XYWH] = [(0, 0, 10, 10), (4, 0, 10, 10)]
    assert _match_group(gt, [(2, 0, 10, 10), (0, 0, 10, 10)], [False] * 2, [False] * 2) == [[0b1111, ALL], [0, 0]]


def test_ignored_ground_truth_comes_after_what_counts_and_crowds_are_not_used_up() -> None:
    # IoU with the object 0.5, with the ignored one 1: right at 0.5, ignored above. The second detection finds the
    # ignored one free at 0.5 only. Were it a crowd, both detections would lie in it at every threshold.
    gt: list[XYWH] = [(0, 0, 10, 20), (0, 0, 10, 10)]
    dt: list[XYWH] = [(0, 0, 10, 10), (0, 0, 10, 10)]
    assert _match_group(gt, dt, [False] * 2, [False, True]) == [[1, 0], [ALL - 1, 1]]
    assert _match_group(gt, dt, [False, True], [False, True]) == [[1, 0], [ALL - 1, ALL]]


def _literal_matching(gt: Floats, dt: Floats, ignored: NDArray[np.bool_]) -> list[list[int]]:
    """The loops of the official code, for one group without crowds."""
    matched = np.zeros((2, len(dt)), dtype=int)
    iou = iou_matrix(dt, gt)
    for t, threshold in enumerate(IOU_THRESHOLDS):
        taken: set[int] = set()
        for d in range(len(dt)):
            best, chosen = threshold, -1
            for g in sorted(range(len(gt)), key=lambda g: bool(ignored[g])):
                if g in taken or iou[d, g] < best:
                    continue
                if chosen > -1 and not ignored[chosen] and ignored[g]:
                    break
                best, chosen = iou[d, g], g
            if chosen > -1:
                taken.add(chosen)
                matched[int(ignored[chosen]), d] |= 1 << t
    return [bits.tolist() for bits in matched]


@pytest.mark.parametrize("seed", range(20))
def test_matching_is_that_of_the_official_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gt, dt = (np.column_stack([rng.integers(0, 4, (n, 2)), rng.integers(5, 9, (n, 2))]) for n in (12, 20))
    ignored = rng.random(12) < 0.3
    matched = _match_group(gt.tolist(), dt.tolist(), [False] * 12, ignored.tolist())
    assert matched == _literal_matching(gt.astype(float), dt.astype(float), ignored)
    assert any(matched[0])


# ---- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("detection", "message"),
    [
        (Detection(2, 10, Box(0, 0, 1, 1), 0.5), "unknown image 2"),
        (Detection(1, 99, Box(0, 0, 1, 1), 0.5), "unknown category 99"),
        (Detection(1, 10, Box(0, 0, 1, 1), np.nan), "not finite"),
    ],
)
def test_bad_detections_are_refused(detection: Detection, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match([example([])], Detections.of([detection]), CATEGORIES)


@pytest.mark.parametrize("weight", [0.5, -1.0])
def test_weights_are_whole_numbers(weight: float) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        _evaluate([example([(10, (0, 0, 4, 4))])], [], np.array([[weight]]))
