"""Converts the tables of a cell (counts by image and category, detections): written as frames, read back as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.metrics.detection.accumulate import Matches
from harness.metrics.samples.diversity import CategoryTable, ImageTable
from harness.metrics.samples.mentions import Truth, name_counts
from harness.records import GREEDY, Record
from harness.types import Detection


def detection_frame(step: int, temperature: float, detections: Sequence[Detection], matches: Matches) -> pd.DataFrame:
    """Makes the rows of detections.parquet: those that count first, in the order in which they are ranked; then the
    rest (capped, or of a category that was not verified for the image)."""
    order = [
        *matches.detection.tolist(),
        *sorted(set(range(len(detections))) - set(matches.detection.tolist())),
    ]
    rest = len(detections) - len(matches.detection)
    chosen = [detections[index] for index in order]
    left_out = np.zeros_like(matches.true_positive) if matches.left_out is None else matches.left_out
    return pd.DataFrame(
        {
            "step": step,
            "temperature": temperature,
            "image_id": [d.image_id for d in chosen],
            "category_id": [d.category_id for d in chosen],
            **{side: [getattr(d.box, side) for d in chosen] for side in ("x", "y", "w", "h")},
            "score": np.array([d.score for d in chosen], dtype=np.float64),
            "evaluated": np.arange(len(chosen)) < len(matches.detection),
            "true_positive": np.concatenate([matches.true_positive, np.zeros(rest, np.uint16)]),
            "left_out": np.concatenate([left_out, np.zeros(rest, np.uint16)]),
            "ignored": np.concatenate([matches.ignored, np.zeros(rest, np.bool_)]),
        }
    )


# ---- tables <-> the arrays that metrics work on ------------------------------------------------------------------

COUNTS = (
    *("samples", "mentions", "verified_mentions", "neutral_mentions"),
    *("duplicates", "hallucinations", "unknown_names", "malformed", "truncated", "lenient"),
)
"""Fields of an ImageTable that are whole numbers; the others are real."""
PER_IMAGE = tuple(ImageTable.__dataclass_fields__)
PER_CATEGORY = ("present", "choices", "name_diversity", "distinct_names", "box_spread")
"""Fields of a CategoryTable that are columns of the same name."""
LARGEST = 2**53
"""Largest number in a table that may be anyone's: sums of larger ones are not exact, or not finite."""
FURTHER_COLUMN = "measure_"
"""What a column of a measure of another package begins with: its values [I], nan where undefined."""
ABSENT = {"lenient": 0.0}
"""What stands for a count that older code did not write, where that is known: it read nothing leniently."""


def image_frame(
    step: int,
    temperature: float,
    truth: Truth,
    category_ids: Sequence[int],
    table: CategoryTable,
    images: ImageTable,
    further: Mapping[str, NDArray[np.float64]] | None = None,
) -> pd.DataFrame:
    """Makes the rows of images.parquet: one per image and category with ground truth, then one per image (no
    category).

    verified: for each instance, how many of the K samples verify it (ascending); names: for each name that was
    used, in how many of them. further: values of other packages' measures by name, each [I].
    """
    per_category = {
        "image_id": truth.image_ids[table.image],
        "category_id": np.array(category_ids, dtype=np.int64)[table.category],
        "instances": table.verified.sum(axis=1),
        "verified": _counts(table.verified),
        "names": _counts(np.nan_to_num(table.named).astype(np.int64)),
        **{name: getattr(table, name) for name in PER_CATEGORY},
    }
    per_image = {"image_id": truth.image_ids, **{name: getattr(images, name) for name in PER_IMAGE}}
    per_image |= {f"{FURTHER_COLUMN}{name}": values for name, values in (further or {}).items()}
    empty = {name: [None] * len(truth.image_ids) for name in ("verified", "names")}
    frame = pd.concat([pd.DataFrame(per_category), pd.DataFrame(per_image | empty)], ignore_index=True)
    whole = ["image_id", "category_id", "instances", "present", "choices", "distinct_names", *COUNTS]
    frame[whole] = frame[whole].astype("Int64")
    frame.insert(0, "step", step)
    frame.insert(1, "temperature", float(temperature))
    return frame


def _counts(histogram: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Expands a histogram to the counted values: [0, 2, 1] becomes [1, 1, 2], two values of one and one of two."""
    rows, width = histogram.shape
    flat = np.repeat(np.tile(np.arange(width), rows), histogram.ravel())
    return np.split(flat, np.cumsum(histogram.sum(axis=1))[:-1]) if rows else []


def _histogram(counts: Sequence[NDArray[np.int64]], width: int) -> NDArray[np.int64]:
    """Inverts `_counts`, [rows, width]."""
    histogram = np.zeros((len(counts), width), dtype=np.int64)
    lengths = [len(values) for values in counts]
    if sum(lengths):
        np.add.at(histogram, (np.repeat(np.arange(len(counts)), lengths), np.concatenate(counts)), 1)
    return histogram


def tables(frame: pd.DataFrame, step: int, temperature: float, record: Record) -> tuple[CategoryTable, ImageTable]:
    """Reads images.parquet at one step and temperature into the arrays that harness.metrics.samples.aggregate takes.

    Figures that older code did not measure are nan.
    """
    chosen = _at(frame, step, temperature)
    per_category = chosen[chosen["category_id"].notna()]
    per_image = _of_every_image(chosen, step, record)
    width = int(per_image["samples"].max()) + 1
    category_ids = [info.id for info in record.categories]
    named = np.full((len(per_category), width), np.nan)
    if "names" in frame and per_category["names"].notna().any():  # an archive leaves them out between steps
        named = _histogram(per_category["names"].to_list(), width).astype(np.float64)
    table = CategoryTable(
        n_images=len(record.image_ids),
        names=name_counts(record.categories),
        image=_indices(per_category["image_id"], record.image_ids),
        category=_indices(per_category["category_id"], category_ids),
        verified=_histogram(per_category["verified"].to_list(), width),
        named=named,
        **{name: _column(per_category, name) for name in PER_CATEGORY},
    )
    return table, ImageTable(**{name: _column(per_image, name) for name in PER_IMAGE})


def further_columns(
    frame: pd.DataFrame, step: int, temperature: float, record: Record
) -> dict[str, NDArray[np.float64]]:
    """Reads the values of the record's measures of other packages from images.parquet, by name, each [I]."""
    if not record.measures:
        return {}
    per_image = _of_every_image(_at(frame, step, temperature), step, record)
    return {name: _column(per_image, f"{FURTHER_COLUMN}{name}") for name in record.measures}


def _at(frame: pd.DataFrame, step: int, temperature: float) -> pd.DataFrame:
    """Returns the rows of one step and temperature."""
    chosen = frame[frame["step"] == step]
    # Records of older code know a single temperature.
    return chosen[chosen["temperature"] == temperature] if "temperature" in frame else chosen


def _of_every_image(chosen: pd.DataFrame, step: int, record: Record) -> pd.DataFrame:
    """Returns the rows about images, not categories, in the order of the record's images. At an early step, which
    evaluates some images only, the others get zero sums and undefined figures, so that they do not count."""
    rows = chosen[chosen["category_id"].isna()].set_index("image_id")
    some = record.evaluation(step).images
    if some is None:
        return rows.loc[list(record.image_ids)]
    if len(rows) != some or not set(rows.index) <= set(record.image_ids):
        raise ValueError(f"expected {some} of the record's images at step {step}, got {len(rows)}")
    every = rows.reindex(list(record.image_ids))
    absent = ~every.index.isin(rows.index)
    every.loc[absent, [name for name in COUNTS if name in every]] = 0
    return every


def _column(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Reads a column as floats; nan where it is null, and where it is missing and ABSENT does not know better."""
    if name not in frame:
        return np.full(len(frame), ABSENT.get(name, np.nan))
    values: NDArray[np.float64] = frame[name].to_numpy(np.float64, na_value=np.nan)
    if (np.abs(values) > LARGEST).any():
        raise ValueError(f"{name}: expected numbers of at most 2^53, got {values[np.abs(values) > LARGEST][0]}")
    return values


Whole = TypeVar("Whole", np.uint16, np.int64)


def _whole_numbers(frame: pd.DataFrame, name: str, kind: type[Whole]) -> NDArray[Whole]:
    """Reads a column of counts. ValueError where one is none: NumPy would only warn, and make up another number."""
    values: NDArray[np.float64] = frame[name].to_numpy(np.float64, na_value=np.nan)
    wrong = ~((values >= 0) & (values <= min(np.iinfo(kind).max, LARGEST)) & (values == np.floor(values)))
    if wrong.any():
        raise ValueError(f"{name}: expected whole numbers, got {values[wrong][0]}")
    return values.astype(kind)


def matches(
    images: pd.DataFrame, detections: pd.DataFrame, step: int, record: Record, temperature: float = GREEDY
) -> Matches:
    """Reads detections.parquet at one step into the arrays that harness.metrics.detection.ap takes: of the greedy
    answer, or of the consensus at a temperature. The order of rows is preserved, so ties are ranked as when the cell
    was evaluated."""
    category_ids = [info.id for info in record.categories]
    if "temperature" not in detections:  # records of older code have the greedy answer alone
        detections = detections.assign(temperature=GREEDY)
    rows = detections[(detections["step"] == step) & (detections["temperature"] == temperature)]
    if "evaluated" in rows:  # a published archive has no others
        rows = rows[rows["evaluated"]]
    truth = images[(images["step"] == step) & images["category_id"].notna()]
    if "temperature" in truth:  # the same instances at each
        truth = truth[truth["temperature"] == truth["temperature"].min()]
    return Matches(
        n_images=len(record.image_ids),
        detection=np.arange(len(rows)),
        image=_indices(rows["image_id"], record.image_ids),
        category=_indices(rows["category_id"], category_ids),
        score=_column(rows, "score"),  # AP has no use for it, and an archive leaves it out
        true_positive=_whole_numbers(rows, "true_positive", np.uint16),
        ignored=rows["ignored"].to_numpy(np.bool_),
        gt_image=_indices(truth["image_id"], record.image_ids),
        gt_category=_indices(truth["category_id"], category_ids),
        gt_count=_whole_numbers(truth, "instances", np.int64),
        # Records from before COCO's crowd regions were known have no such column.
        left_out=_whole_numbers(rows, "left_out", np.uint16) if "left_out" in rows else None,
    )


def _indices(values: pd.Series[Any], ids: Sequence[int]) -> NDArray[np.int64]:
    """Finds the place of each value in ids. KeyError for one that has none, ValueError for one that is no number."""
    if values.dtype.kind == "f" and not (np.abs(values.to_numpy(np.float64)) <= LARGEST).all():
        raise ValueError(f"{values.name}: expected whole numbers")  # NumPy would only warn, and make up another number
    wanted: NDArray[np.int64] = values.to_numpy(np.int64)
    places = np.full(len(wanted), -1)
    if len(ids):
        order = np.argsort(ids, kind="stable")
        ascending = np.array(ids, dtype=np.int64)[order]
        nearest = np.searchsorted(ascending, wanted, side="right") - 1
        places = np.where(ascending[nearest] == wanted, order[nearest], -1)
    if (places < 0).any():
        raise KeyError(int(wanted[places < 0][0]))
    return places
