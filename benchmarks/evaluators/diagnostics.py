"""Measures weaknesses of generative detectors that AP does not show: categories never named, a ranking by chance,
repeats, meaningless scores; and how much each kind of error costs.

"Detections that count" are those that the protocol evaluates (within the cap, with an area, of a category that was
looked for in their image), without those that are neither right nor wrong at IoU 0.5: unmatched where their category
is not annotated exhaustively, or on a crowd region. Every undefined figure is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluators import evaluator
from benchmarks.evaluators.rankings import evaluate_rankings
from benchmarks.readers.annotations import Annotations
from harness.metrics.detection.accumulate import Matches
from harness.metrics.detection.ap import match
from harness.metrics.detection.rules import GroundTruth, Protocol, ground_truth
from harness.metrics.diagnosis import calibration as reliabilities
from harness.metrics.diagnosis import tide
from harness.metrics.diagnosis.calibration import BINS, Reliability
from harness.metrics.diagnosis.duplicates import NMS_IOU, best_overlap, non_maximum_suppression
from harness.metrics.samples.matching import VERIFIED_IOU
from harness.types import Detections, Evaluation

TIE_ORDERS, FEW_TIE_ORDERS = 20, 4
"""Number of random rankings of a set, and of a set of more than MANY detections, whose AP hardly differs between
rankings."""
MANY = 100_000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """errors, generative: JSON values as in the result file; reliability: None where it is undefined."""

    errors: Json
    generative: Json
    reliability: Reliability | None


NOTHING = Diagnosis({}, {}, None)


@dataclass(frozen=True, slots=True)
class Counted:
    """The detections that count: rows [n] of the file, and whether each is a true positive at IoU 0.5, [n]."""

    rows: NDArray[np.int64]
    correct: NDArray[np.bool_]

    @classmethod
    def of(cls, matches: Matches) -> Counted:
        decided = ~tide.find_undecided(matches)
        return cls(matches.detection[decided], (matches.true_positive[decided] & 1).astype(np.bool_))


def diagnose(
    annotations: Annotations,
    detections: Detections,
    protocol: Protocol,
    evaluation: Evaluation,
    predicted: Counter[int],
    say: Callable[[str], None] = lambda stage: None,
) -> Diagnosis:
    """Computes all diagnostics, in about the time of six evaluations if there are many detections."""
    examples, categories = annotations.examples, annotations.categories
    say("matching at IoU 0.5")
    matches = match(examples, detections, categories, protocol, annotations.areas, annotations.crowds)
    truth = collect_objects(annotations, protocol)
    counted = Counted.of(matches)
    made, calibrated = measure_calibration(detections, counted)
    say("breaking down errors")
    errors = tide.break_down_errors(matches, detections, truth, examples, categories)
    orders = TIE_ORDERS if len(detections) <= MANY else FEW_TIE_ORDERS
    say(f"{orders} tie orders, repeats")
    generative = {
        "never_predicted": count_never_predicted(evaluation, predicted),
        "constant_score_AP": evaluate_random_rankings(annotations, detections, protocol, orders),
        "duplicates": count_duplicates(detections, truth, counted),
        "nms": evaluate_after_nms(annotations, detections, protocol),
        "calibration": calibrated,
    }
    named: Json = {kind: {"count": item.count, "dAP50": item.gain} for kind, item in errors.items()}
    return Diagnosis(named, generative, made)


# ---- counts ------------------------------------------------------------------------------------------------------


def collect_objects(annotations: Annotations, protocol: Protocol) -> GroundTruth:
    """Collects the objects that the protocol asks for, and crowd regions."""
    return ground_truth(annotations.examples, protocol, annotations.areas, annotations.crowds)


def count_annotated(annotations: Annotations, protocol: Protocol) -> tuple[Counter[int], Counter[int]]:
    """Counts objects, and images with at least one, by category id; crowd regions are not counted."""
    truth = collect_objects(annotations, protocol)
    pairs = Counter(zip(truth.category_id[~truth.crowd].tolist(), truth.image_id[~truth.crowd].tolist(), strict=True))
    instances: Counter[int] = Counter()
    for (category_id, _), count in pairs.items():
        instances[category_id] += count
    return instances, Counter(category_id for category_id, _ in pairs)


def count_predicted(annotations: Annotations, detections: Detections, protocol: Protocol) -> Counter[int]:
    """Counts detections by category id, after the official rules of cap and area."""
    rows = evaluator.select_rows(annotations, detections, protocol)
    ids, counts = np.unique(detections.category_id[rows], return_counts=True)
    return Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))


# ---- what generative detectors suffer from -----------------------------------------------------------------------


def count_never_predicted(evaluation: Evaluation, predicted: Counter[int]) -> Json:
    """Returns the share of the categories with ground truth that have no detection; None where no category has ground
    truth."""
    present = [category_id for category_id, ap in evaluation.per_category.items() if ap is not None]
    never = sum(not predicted[category_id] for category_id in present)
    return {"share": never / len(present) if present else None, "count": never, "categories": len(present)}


def evaluate_random_rankings(
    annotations: Annotations, detections: Detections, protocol: Protocol, orders: int = TIE_ORDERS, seed: int = 0
) -> Json:
    """Evaluates AP as if all scores were equal, when it depends on the order in which ties are ranked.

    Mean, standard deviation (ddof 1), minimum and maximum of AP over random rankings of all detections; `seed`
    draws the same ones every time. The cap takes the first of each image in that ranking. None where AP is.
    """
    rng = np.random.default_rng(seed)
    rankings = (rng.permutation(len(detections)).astype(np.float64) for _ in range(orders))
    precisions = evaluate_rankings(annotations, detections, rankings, protocol)
    values = np.array([ap for ap in precisions if ap is not None])
    if not len(values):
        return {"mean": None, "sd": None, "min": None, "max": None, "orders": orders}
    figures = {"mean": values.mean(), "sd": values.std(ddof=1), "min": values.min(), "max": values.max()}
    return {**{name: float(value) for name, value in figures.items()}, "orders": orders}


def count_duplicates(detections: Detections, truth: GroundTruth, counted: Counted) -> Json:
    """Returns the share of the counting detections that find an object which another one has already found.

    Such a detection is unmatched at IoU 0.5 though its IoU with an object of its category is at least that:
    matching is greedy, so a better one has taken the object. (There are fewer errors of the kind "duplicate":
    what is also a classification error is counted as that.) None where no detection counts.
    """
    wrong = detections.take(counted.rows[~counted.correct])
    count = int((best_overlap(wrong, truth) >= VERIFIED_IOU).sum())
    total = len(counted.rows)
    return {"share": count / total if total else None, "count": count, "detections": total}


def evaluate_after_nms(annotations: Annotations, detections: Detections, protocol: Protocol) -> Json:
    """Computes AP after class-wise non-maximum suppression of everything in the file, before the cap."""
    rows = non_maximum_suppression(detections)
    left = detections.take(rows)
    (ap,) = evaluate_rankings(annotations, left, [left.scores], protocol)
    return {"AP": ap, "iou": NMS_IOU, "removed": len(detections) - len(rows)}


def measure_calibration(detections: Detections, counted: Counted) -> tuple[Reliability | None, Json]:
    """Measures whether a score is the probability that a detection is right at IoU 0.5, over the detections that
    count.

    ECE and the largest gap of a bin (`harness.metrics.diagnosis.calibration`). None, with the reason, where scores are
    no probabilities or nothing counts.
    """
    scores = detections.scores[counted.rows]
    reason = reliabilities.undefined(scores)
    if reason is not None:
        return None, {"ece": None, "max_gap": None, "bins": BINS, "reason": reason}
    made = reliabilities.reliability(scores, counted.correct)
    return made, {"ece": made.ece, "max_gap": made.max_gap, "bins": BINS, "reason": None}
