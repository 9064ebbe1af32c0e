"""Measures how much AP each kind of error costs: the six kinds of TIDE (Bolya et al., ECCV 2020).

Shape legend: n detections and g objects of the set; d and o those of one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from harness.metrics.detection.accumulate import Matches, interpolate_precision
from harness.metrics.detection.evaluated_pairs import Pairs
from harness.metrics.detection.rules import GroundTruth, in_range, make_regular
from harness.metrics.samples.aggregate import mean_defined
from harness.metrics.samples.matching import iou_matrix
from harness.types import Category, Detections, Example

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

Kind = Literal["classification", "localisation", "both", "duplicate", "background", "missed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NO_ERROR, CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(-1, len(KINDS))

FOREGROUND, NEAR = 0.5, 0.1
"""IoU from which a detection is on an object, and up to which it is on the background."""


@dataclass(frozen=True, slots=True)
class Errors:
    """All errors of one kind; gain: how much AP50 rises if they alone are fixed, None where an AP50 is undefined."""

    count: int
    gain: float | None


@dataclass(frozen=True, slots=True)
class _Set:
    """Detections that are right or wrong at IoU 0.5, and objects, with indices of images and categories."""

    image: Integers  # [n]
    category: Integers  # [n]
    score: Floats  # [n]
    boxes: Floats  # [n, 4]
    rank: Integers  # [n], order among equal scores of a category
    correct: Booleans  # [n]
    gt_image: Integers  # [g]
    gt_category: Integers  # [g]
    gt_boxes: Floats  # [g, 4]


@dataclass(frozen=True, slots=True)
class _Wrong:
    """kind [n] of each detection, or NO_ERROR; about [n]: object that a classification or localisation error is
    about, else -1; taken [g]: whether a detection is matched to the object."""

    kind: Integers
    about: Integers
    taken: Booleans


def find_undecided(matches: Matches) -> Booleans:
    """Flags detections [n] that are neither right nor wrong at IoU 0.5: unmatched where the category is not annotated
    exhaustively, or matched to a crowd region."""
    correct = (matches.true_positive & 1).astype(np.bool_)
    elsewhere = np.zeros_like(correct) if matches.left_out is None else (matches.left_out & 1).astype(np.bool_)
    return np.asarray(~correct & (matches.ignored | elsewhere))


def break_down_errors(
    matches: Matches,
    detections: Detections,
    truth: GroundTruth,
    examples: Sequence[Example],
    categories: Sequence[Category],
) -> dict[Kind, Errors]:
    """Counts the errors of each kind among the detections that count; `matches` and `truth` were made from the other
    arguments.

    An unmatched detection (IoU 0.5) has the first of these kinds that applies. Its IoU "with its own" is the largest
    with an object of its category in the image, "with another" that with one of another category:

    localisation    0.1 <= IoU with its own <= 0.5
    classification  IoU with another >= 0.5
    duplicate       IoU with its own >= 0.5: a better detection has taken that object
    background      IoU with any <= 0.1
    both            all others

    An object is missed if no detection is matched to it and no classification or localisation error is about it.

    The gain is AP50 after fixing all errors of one kind, minus AP50. Of the classification and localisation errors
    about an object that is not matched the best becomes a match of it, if it is of the kind in question; all others
    of that kind are dropped, as are errors of the kinds duplicate, background and both. Missed objects are removed
    from the ground truth, and a category without objects leaves the mean. The six gains do not add up.

    Differences from TIDE: detections are capped and matched by the rules of the protocol; under LVIS one of a
    category that nobody looked for in its image is no error, nor is an unmatched one of a category that is not
    annotated exhaustively there; a category that has lost all its objects leaves the mean even if it has false
    positives (TIDE counts an AP of 0). As in TIDE, a detection on a crowd region of its category is no error.
    """
    counting = _set(matches, detections, truth, Pairs.of(examples, categories))
    wrong = _what_is_wrong(counting)
    missed = ~wrong.taken
    missed[wrong.about[wrong.about >= 0]] = False
    n_categories = len(categories)
    base, best = _ap50(counting, n_categories), _best_about(counting, wrong)
    fixed = [_fixed(counting, wrong, best, kind) for kind in range(MISSED)] + [_asked(counting, ~missed)]
    gains = [_ap50(repaired, n_categories) - base for repaired in fixed]
    counts = [*np.bincount(wrong.kind[wrong.kind >= 0], minlength=MISSED).tolist(), int(missed.sum())]
    return {
        kind: Errors(count, None if np.isnan(gain) else gain)
        for kind, count, gain in zip(KINDS, counts, gains, strict=True)
    }


def _set(matches: Matches, detections: Detections, truth: GroundTruth, pairs: Pairs) -> _Set:
    decided = np.flatnonzero(~find_undecided(matches))
    rows = matches.detection[decided]
    rank = np.empty(len(rows), dtype=np.int64)
    rank[np.lexsort((rows, detections.image_id[rows]))] = np.arange(len(rows))
    order = np.lexsort((rank, -matches.score[decided], matches.category[decided]))
    decided, rows, rank = decided[order], rows[order], rank[order]
    objects = in_range(truth.areas, "all") & ~truth.crowd
    pair = pairs.find(truth.image_id[objects], truth.category_id[objects])
    return _Set(
        image=matches.image[decided],
        category=matches.category[decided],
        score=matches.score[decided],
        boxes=make_regular(detections.boxes[rows]),
        rank=rank,
        correct=(matches.true_positive[decided] & 1).astype(np.bool_),
        gt_image=pairs.image(pair),
        gt_category=pairs.category(pair),
        gt_boxes=truth.boxes[objects],
    )


# ---- what is wrong -----------------------------------------------------------------------------------------------


def _what_is_wrong(counting: _Set) -> _Wrong:
    kind = np.full(len(counting.image), NO_ERROR)
    about = np.full(len(counting.image), -1)
    taken = np.zeros(len(counting.gt_image), dtype=np.bool_)
    for rows, objects in _images(counting):
        iou = iou_matrix(counting.boxes[rows], counting.gt_boxes[objects])
        same_category = counting.category[rows][:, None] == counting.gt_category[objects]
        taken[objects] = _taken(np.where(same_category, iou, 0.0)[counting.correct[rows]])
        wrong = rows[~counting.correct[rows]]
        kind[wrong], which = classify_errors(iou[~counting.correct[rows]], same_category[~counting.correct[rows]])
        about[wrong[which >= 0]] = objects[which[which >= 0]]
    return _Wrong(kind, about, taken)


def _images(counting: _Set) -> Iterator[tuple[Integers, Integers]]:
    """Yields detections (best first within a category) and objects of each image with a detection."""
    order = np.argsort(counting.image, kind="stable")
    starts = np.flatnonzero(np.diff(counting.image[order])) + 1
    by_image = np.argsort(counting.gt_image, kind="stable")
    images = counting.gt_image[by_image]
    for rows in np.split(order, starts):
        if len(rows):
            first, last = (np.searchsorted(images, counting.image[rows[0]], side) for side in ("left", "right"))
            yield rows, by_image[first:last]


def _taken(iou: Floats) -> Booleans:
    """Flags the objects [o] that the correct detections match, in turn: of the free objects the closest, the last of
    equals.

    iou [d, o], of correct detections with objects of their category, else 0.
    """
    free = np.ones(iou.shape[1], dtype=np.bool_)
    for row in iou:
        closest = len(row) - 1 - int(np.where(free, row, -1.0)[::-1].argmax())
        free[closest] = False
    return ~free


def classify_errors(iou: Floats, same_category: Booleans) -> tuple[Integers, Integers]:
    """Returns the kinds [d] of wrong detections and the objects that the errors are about (-1: none); iou and
    same_category [d, o]."""
    if not iou.shape[1]:
        return np.full(len(iou), BACKGROUND), np.full(len(iou), -1)
    with_own, with_another = np.where(same_category, iou, 0.0), np.where(same_category, 0.0, iou)
    a, b = with_own.max(axis=1), with_another.max(axis=1)
    tests = {
        LOCALISATION: (a >= NEAR) & (a <= FOREGROUND),
        CLASSIFICATION: b >= FOREGROUND,
        DUPLICATE: a >= FOREGROUND,
        BACKGROUND: np.maximum(a, b) <= NEAR,
    }
    kind = np.select(list(tests.values()), list(tests), BOTH)
    closest = (with_own.argmax(axis=1), with_another.argmax(axis=1))
    return kind, np.select([kind == LOCALISATION, kind == CLASSIFICATION], closest, -1)


# ---- if it were right --------------------------------------------------------------------------------------------


def _fixed(counting: _Set, wrong: _Wrong, best: Booleans, kind: int) -> _Set:
    """Removes the errors of a kind, and makes the best error about each unmatched object its match."""
    repaired = best & (wrong.kind == kind)
    category = counting.category.copy()
    category[repaired] = counting.gt_category[wrong.about[repaired]]
    changed = replace(counting, category=category, correct=counting.correct | repaired)
    keep = repaired | (wrong.kind != kind)
    fields = ("image", "category", "score", "boxes", "rank", "correct")
    return replace(changed, **{name: getattr(changed, name)[keep] for name in fields})


def _best_about(counting: _Set, wrong: _Wrong) -> Booleans:
    """Flags the error with the best score about each unmatched object, [n]."""
    best = np.zeros(len(wrong.about), dtype=np.bool_)
    order = np.lexsort((counting.rank, -counting.score))
    order = order[wrong.about[order] >= 0]
    objects, first = np.unique(wrong.about[order], return_index=True)
    best[order[first[~wrong.taken[objects]]]] = True
    return best


def _asked(counting: _Set, objects: Booleans) -> _Set:
    """Keeps these objects only."""
    fields = ("gt_image", "gt_category", "gt_boxes")
    return replace(counting, **{name: getattr(counting, name)[objects] for name in fields})


def _ap50(counting: _Set, n_categories: int) -> float:
    """Computes AP50 as the mean over categories; nan without objects."""
    order = _best_first(counting.category, counting.score, counting.rank)
    correct = counting.correct[order]
    ends = np.cumsum(np.bincount(counting.category, minlength=n_categories))
    n_gt = np.bincount(counting.gt_category, minlength=n_categories)
    values = np.where(n_gt > 0, 0.0, np.nan)
    for c in np.flatnonzero(n_gt):
        right = np.flatnonzero(correct[ends[c - 1] if c else 0 : ends[c]])
        hits: Floats = np.arange(1, len(right) + 1, dtype=np.float64)[:, None]
        values[c] = interpolate_precision(
            hits, right[:, None].astype(np.float64) + 1, n_gt[c : c + 1].astype(np.float64)
        )[0]
    return float(mean_defined(values[None])[0])


def _best_first(category: Integers, score: Floats, rank: Integers) -> Integers | slice:
    """Returns the order by category and score. Repaired sets have that order already unless a category has changed."""
    if (np.diff(category) >= 0).all():
        return slice(None)
    return np.lexsort((rank, -score, category))
